//! SentencePiece's text normalisation for models with an identity rule: only white space is touched.

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
        out.clear();
        let text = if self.remove_extra_whitespaces { text.trim_start_matches(' ') } else { text };
        if text.is_empty() {
            return;
        }
        let space = if self.escape_whitespaces { SPACE } else { ' ' };
        let dummy = self.add_dummy_prefix.then_some(space);
        if !self.whitespace_as_suffix {
            out.extend(dummy);
        }
        if self.remove_extra_whitespaces {
            self.squeeze(text, user_defined, space, out);
            out.truncate(out.trim_end_matches(space).len());
        } else if self.escape_whitespaces {
            out.extend(text.chars().map(|c| if c == ' ' { SPACE } else { c }));
        } else {
            out.push_str(text);
        }
        if self.whitespace_as_suffix {
            out.extend(dummy);
        }
    }

    /// Appends `text` with runs of spaces made one; a user-defined piece counts as one character.
    fn squeeze(&self, mut text: &str, user_defined: &UserDefined, space: char, out: &mut String) {
        let mut after_space = true;
        while let Some(first) = text.chars().next() {
            let length =
                user_defined.longest_prefix(text.as_bytes()).map_or(first.len_utf8(), |(length, _)| length);
            let (mut unit, rest) = text.split_at(length);
            if after_space {
                unit = unit.trim_start_matches(' ');
            }
            if !unit.is_empty() {
                out.extend(unit.chars().map(|c| if c == ' ' { space } else { c }));
                after_space = unit.ends_with(' ');
            }
            text = rest;
        }
    }
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
