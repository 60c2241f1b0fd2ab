//! Which symbols may be joined into a piece.

use unicode_script::{Script, UnicodeScript};

use super::super::normalizer::SPACE;
use super::Rules;

/// What a symbol shows to its neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Length in characters.
    pub length: usize,
    spaces: Spaces,
    /// A digit that stays alone.
    lone: bool,
    /// Scripts of the first and the last character that has one of its own.
    first: Option<Script>,
    last: Option<Script>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spaces {
    None,
    /// One in front; the rest is none.
    First,
    Only,
}

impl Shape {
    pub fn of(c: char, rules: &Rules) -> Self {
        let spaces = if c == SPACE { Spaces::Only } else { Spaces::None };
        let script = if c == SPACE { None } else { script(c) };
        let lone = rules.split_digits && matches!(c, '0'..='9' | '０'..='９');
        Self { length: 1, spaces, lone, first: script, last: script }
    }

    /// The shape of this symbol and `right` as one, if SentencePiece allows it: not too long, spaces only in front,
    /// one script.
    pub fn join(self, right: Self, rules: &Rules) -> Option<Self> {
        let length = self.length + right.length;
        if length > rules.max_sentencepiece_length || self.lone || right.lone {
            return None;
        }
        let spaces = match (self.spaces, right.spaces) {
            (Spaces::None, Spaces::None) => Spaces::None,
            (Spaces::First, Spaces::None) => Spaces::First,
            (Spaces::Only, Spaces::None) if self.length == 1 => Spaces::First,
            (Spaces::Only, Spaces::Only) if rules.allow_whitespace_only_pieces => Spaces::Only,
            _ => return None,
        };
        if let (Some(before), Some(after)) = (self.last, right.first)
            && before != after
        {
            return None;
        }
        let (first, last) = (self.first.or(right.first), right.last.or(self.last));
        Some(Self { length, spaces, lone: false, first, last })
    }
}

/// The script of a character; `None` for marks that take that of what they stand on. Chinese and Japanese
/// characters count as one script, unassigned ones as common. SentencePiece's own table is that of Unicode 9;
/// characters that got their script later differ, and are common there.
fn script(c: char) -> Option<Script> {
    match c.script() {
        // The long vowel mark belongs to the kana.
        _ if c == '\u{30FC}' => Some(Script::Han),
        Script::Hiragana | Script::Katakana => Some(Script::Han),
        Script::Inherited => None,
        Script::Unknown => Some(Script::Common),
        script => Some(script),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joins(parts: &[&str], rules: &Rules) -> bool {
        let whole = |text: &str| {
            text.chars().map(|c| Shape::of(c, rules)).reduce(|a, b| a.join(b, rules).expect("a valid part"))
        };
        let mut shapes = parts.iter().filter_map(|part| whole(part));
        let first = shapes.next();
        shapes.try_fold(first, |before, right| before?.join(right, rules).map(Some)).is_some()
    }

    #[test]
    fn pieces_keep_to_one_script_and_to_spaces_in_front() {
        let rules = Rules::SENTENCEPIECE;
        for parts in [&["▁", "中"][..], &["中", "の", "ー"], &["a", "\u{301}", "b"], &["1", "2"], &["▁ab", "c"]]
        {
            assert!(joins(parts, &rules), "{parts:?}");
        }
        for parts in [&["a", "中"][..], &["F", "1"], &["中", "。"], &["a", "▁"], &["▁", "▁"], &["▁", "▁a"]]
        {
            assert!(!joins(parts, &rules), "{parts:?}");
        }
        let llama = Rules { split_digits: true, allow_whitespace_only_pieces: true, ..rules };
        assert!(joins(&["▁", "▁"], &llama));
        assert!(!joins(&["▁▁", "a"], &llama) && !joins(&["1", "2"], &llama) && !joins(&["▁", "1"], &llama));
        assert!(!joins(&["aaaaaaaa", "aaaaaaaab"], &rules));
    }
}
