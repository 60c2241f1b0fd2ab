//! Pictures of what a stage found: charts and heat maps become scenes, and a scene is written as SVG and as PNG.

mod chart;
mod font;
mod heat;
mod png;
mod scene;
mod svg;
mod ticks;

use std::path::Path;

use crate::error::{Context, Result};
use crate::files;

pub use chart::{Chart, Note, Series};
pub use heat::{Band, HeatMap, Panel};
pub use scene::{Anchor, Color, Item, Point, Scene, Stroke, Text, Weight};
pub use ticks::thousands;

/// Writes `folder/name.svg` and `folder/name.png`, which show the same. Both are the same bytes on every machine.
pub fn save(scene: &Scene, folder: &Path, name: &str) -> Result<()> {
    let pictures = [("svg", svg::write(scene).into_bytes()), ("png", png::write(scene)?)];
    for (ending, bytes) in pictures {
        let path = folder.join(format!("{name}.{ending}"));
        files::write_atomic(&path, &bytes).context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The name of a picture's file, without ending: `prefix`, and of `text` what any file system takes: its letters and
/// digits of any script, with a `-` for all that stands between them. It differs from the names `taken`, not in case
/// alone, and is among them afterwards.
pub fn file_name(prefix: &str, text: &str, taken: &mut Vec<String>) -> String {
    /// Of the text, so that the whole name stays far below the 255 bytes that a name may have.
    const MOST_BYTES: usize = 120;
    let mut base = prefix.to_owned();
    for part in text.split(|c: char| !c.is_alphanumeric()).filter(|part| !part.is_empty()) {
        let room = (prefix.len() + MOST_BYTES).saturating_sub(base.len() + 1);
        let fits = part.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= room).last();
        let Some(fits) = fits else { break };
        base.push('-');
        base.push_str(&part[..fits]);
    }
    let mut name = base.clone();
    let is_taken = |name: &str| taken.iter().any(|other| other.to_lowercase() == name.to_lowercase());
    for number in 2.. {
        if !is_taken(&name) {
            break;
        }
        name = format!("{base}-{number}");
    }
    taken.push(name.clone());
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_plain_and_differ() {
        let mut taken = Vec::new();
        let mut name = |text: &str| file_name("alp", text, &mut taken);
        assert_eq!(name("dataset:知乎/问答"), "alp-dataset-知乎-问答");
        assert_eq!(name("data/books.jsonl"), "alp-data-books-jsonl");
        assert_eq!(name("data/Books_jsonl"), "alp-data-Books-jsonl-2");
        assert_eq!(name("../../etc/passwd\0\n"), "alp-etc-passwd");
        assert_eq!(name("…"), "alp");
        assert_eq!(name("?"), "alp-2");
        let long = name(&"字".repeat(100));
        assert_eq!(long, format!("alp-{}", "字".repeat(39)));
    }
}
