//! The committed hub folder is what its generator writes, byte for byte.

#[path = "../examples/make_hub/hub/mod.rs"]
mod hub;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const AGAIN: &str = "run: cargo run --release --example make_hub";

#[test]
fn the_committed_hub_folder_is_what_the_generator_writes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/hub");
    let files = hub::files().expect("the grammars are sound");
    for (name, bytes) in &files {
        let committed = fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}; {AGAIN}"));
        assert!(committed == *bytes, "{name} differs from what the generator writes; {AGAIN}");
    }
    let expected: BTreeSet<PathBuf> = files.keys().map(PathBuf::from).collect();
    assert_eq!(files_under(&folder, &folder), expected, "stray files in examples/hub");
}

#[test]
fn documents_are_as_promised() {
    for (name, bytes) in hub::files().expect("the grammars are sound") {
        if name.contains("questions") || name.contains("dialogues") || !name.ends_with(".jsonl") {
            continue;
        }
        for line in String::from_utf8(bytes).expect("UTF-8").lines() {
            let document: serde_json::Value = serde_json::from_str(line).expect("JSON");
            let text = document["text"].as_str().expect("a text");
            let length = text.chars().count();
            assert!((100..=1600).contains(&length), "{name}: {length} characters: {text}");
            assert!(!text.contains(['{', '}', '@', '\\']), "{name}: a part that was not expanded: {text}");
        }
    }
}

fn files_under(folder: &Path, root: &Path) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(files_under(&path, root));
        } else {
            files.insert(path.strip_prefix(root).expect("below the root").to_owned());
        }
    }
    files
}
