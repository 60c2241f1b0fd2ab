//! SentencePiece's text normalisation: white space, and with a map of characters all that the map replaces.

use super::charsmap::Charsmap;
use super::proto::{ModelProto, NormalizerSpec};
use super::user_defined::UserDefined;
use crate::error::Result;

/// U+2581, which stands for a space inside pieces.
pub const SPACE: char = '\u{2581}';

/// What happens to the spaces of a text (U+0020 only; other white space is a character like any other).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Normalizer {
    /// A space is put before the text (after it, with [`Self::whitespace_as_suffix`]).
    pub add_dummy_prefix: bool,
    /// Spaces at both ends are dropped, and runs of them inside made one.
    pub remove_extra_whitespaces: bool,
    /// Spaces become [`SPACE`].
    pub escape_whitespaces: bool,
    pub whitespace_as_suffix: bool,
}

impl Normalizer {
    pub fn of(model: &ModelProto) -> Result<Self> {
        let spec = model.normalizer()?;
        Ok(Self {
            add_dummy_prefix: spec.adds_dummy_prefix(),
            remove_extra_whitespaces: spec.removes_extra_whitespaces(),
            escape_whitespaces: spec.escapes_whitespaces(),
            whitespace_as_suffix: model.trainer()?.treat_whitespace_as_suffix(),
        })
    }

    /// The spec that says the same in a model file.
    pub fn spec(&self) -> NormalizerSpec {
        NormalizerSpec {
            name: Some("identity".to_owned()),
            precompiled_charsmap: Some(Vec::new()),
            add_dummy_prefix: Some(self.add_dummy_prefix),
            remove_extra_whitespaces: Some(self.remove_extra_whitespaces),
            escape_whitespaces: Some(self.escape_whitespaces),
        }
    }

    /// The normal form of `text` in parts, for those who read a space as [`SPACE`] themselves if
    /// [`Self::escape_whitespaces`] says so; nothing if it takes more than that.
    pub fn parts<'a>(&self, text: &'a str) -> Option<[&'a str; 3]> {
        if self.remove_extra_whitespaces {
            return None;
        }
        let dummy = if self.add_dummy_prefix && !text.is_empty() { " " } else { "" };
        Some(if self.whitespace_as_suffix { ["", text, dummy] } else { [dummy, text, ""] })
    }

    /// Writes the normal form of `text` into `out`, which is cleared first. User-defined pieces pass as they are.
    pub fn normalize(&self, text: &str, user_defined: &UserDefined, out: &mut String) {
        if self.remove_extra_whitespaces {
            return self.by_units(text, |text| unit(text, user_defined), out);
        }
        out.clear();
        if let Some(parts) = self.parts(text) {
            let escaped = |c| if c == ' ' && self.escape_whitespaces { SPACE } else { c };
            parts.iter().for_each(|part| out.extend(part.chars().map(escaped)));
        }
    }

    /// The same with the longest beginning that `map` has replaced, at every place of `text` where no user-defined piece
    /// begins.
    pub fn normalize_mapped<'a>(
        &self,
        text: &'a str,
        user_defined: &UserDefined,
        map: &'a Charsmap,
        out: &mut String,
    ) {
        let mapped = |text: &'a str| {
            let is_free = user_defined.longest_prefix(text.as_bytes()).is_none();
            let replaced = map.longest_prefix(text).filter(|_| is_free);
            replaced.unwrap_or_else(|| unit(text, user_defined))
        };
        self.by_units(text, mapped, out);
    }

    /// Writes the normal form of `text`, of which `first` takes one unit after the other: what stands for it, and its
    /// length in the text, which is not 0.
    fn by_units<'a>(&self, mut text: &'a str, first: impl Fn(&'a str) -> (&'a str, usize), out: &mut String) {
        out.clear();
        while self.remove_extra_whitespaces && !text.is_empty() {
            let (unit, length) = first(text);
            if unit != " " {
                break;
            }
            text = &text[length..];
        }
        if text.is_empty() {
            return;
        }
        let space = if self.escape_whitespaces { SPACE } else { ' ' };
        let dummy = self.add_dummy_prefix.then_some(space);
        if !self.whitespace_as_suffix {
            out.extend(dummy);
        }
        let mut after_space = self.remove_extra_whitespaces;
        while !text.is_empty() {
            let (mut unit, length) = first(text);
            if after_space {
                unit = unit.trim_start_matches(' ');
            }
            if !unit.is_empty() {
                out.extend(unit.chars().map(|c| if c == ' ' { space } else { c }));
                after_space = self.remove_extra_whitespaces && unit.ends_with(' ');
            }
            text = &text[length..];
        }
        if self.remove_extra_whitespaces {
            out.truncate(out.trim_end_matches(space).len());
        }
        if self.whitespace_as_suffix {
            out.extend(dummy);
        }
    }
}

/// The user-defined piece that `text` begins with, else its first character, and its length.
fn unit<'a>(text: &'a str, user_defined: &UserDefined) -> (&'a str, usize) {
    let length = match user_defined.longest_prefix(text.as_bytes()) {
        Some((length, _)) => length,
        None => text.chars().next().map_or(0, char::len_utf8),
    };
    (&text[..length], length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(normalizer: Normalizer, text: &str) -> String {
        let mut out = String::new();
        normalizer.normalize(text, &UserDefined::default(), &mut out);
        out
    }

    #[test]
    fn spaces_are_kept_or_squeezed() {
        let keep = Normalizer {
            add_dummy_prefix: true,
            remove_extra_whitespaces: false,
            escape_whitespaces: true,
            whitespace_as_suffix: false,
        };
        assert_eq!(normal(keep, "  a  b "), "▁▁▁a▁▁b▁");
        assert_eq!(normal(keep, ""), "");
        let squeeze = Normalizer { remove_extra_whitespaces: true, ..keep };
        assert_eq!(normal(squeeze, "  a  b \t c "), "▁a▁b▁\t▁c");
        assert_eq!(normal(squeeze, "   "), "");
        assert_eq!(normal(Normalizer { whitespace_as_suffix: true, ..squeeze }, " a b"), "a▁b▁");
    }
}
