//! The text of a training as words and their counts: lines, normalised and cut before every space.

use std::collections::HashMap;

use super::super::normalizer::SPACE;
use super::super::proto::Piece;
use super::super::user_defined::UserDefined;
use super::{Alphabet, Rules};

/// Stands where a line has the text of a special piece; it is never counted and never part of a piece. (SentencePiece
/// took the tab for this up to 0.2.1, and so left tabs out of all pieces; this follows 0.2.3, where they are ordinary.)
const BOUNDARY: char = '\0';

/// SentencePiece's mark for unknown characters; lines that have it are passed over.
const RESERVED: char = '\u{2585}';

/// The distinct words of all lines taken, with their counts. Memory: the text of the distinct words and about 100
/// bytes for each.
pub struct Words {
    rules: Rules,
    special: UserDefined,
    counts: HashMap<Box<str>, u64>,
    lines: u64,
    too_long: u64,
    normalized: String,
}

impl Words {
    pub fn new(rules: Rules) -> Self {
        let meta = rules.meta_pieces();
        Self {
            rules,
            special: UserDefined::new((0..).zip(&meta).map(|(id, piece)| (Piece::text(piece), id))),
            counts: HashMap::new(),
            lines: 0,
            too_long: 0,
            normalized: String::new(),
        }
    }

    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Takes a line (without its line feed), unless it is empty or too long or holds U+2585.
    pub fn add(&mut self, line: &str) {
        if line.is_empty() || line.contains(RESERVED) {
            return;
        }
        if line.len() > self.rules.max_sentence_length {
            self.too_long += 1;
            return;
        }
        self.lines += 1;
        let mut normalized = std::mem::take(&mut self.normalized);
        self.rules.normalizer.normalize(line, &UserDefined::default(), &mut normalized);
        if normalized.contains('<') {
            normalized = self.hide_special(&normalized);
        }
        for word in split_at_spaces(&normalized, self.rules.allow_whitespace_only_pieces) {
            match self.counts.get_mut(word) {
                Some(count) => *count += 1,
                None => _ = self.counts.insert(word.into(), 1),
            }
        }
        self.normalized = normalized;
    }

    /// The lines that were taken.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// The lines that were passed over because of their length.
    pub fn too_long(&self) -> u64 {
        self.too_long
    }

    fn hide_special(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let length = match self.special.longest_prefix(rest.as_bytes()) {
                Some((length, _)) => {
                    out.push(BOUNDARY);
                    length
                }
                None => {
                    out.push(c);
                    c.len_utf8()
                }
            };
            rest = &rest[length..];
        }
        out
    }

    /// All words, most frequent first, then by text.
    pub fn sorted(&self) -> Vec<(&str, u64)> {
        let mut words: Vec<_> = self.counts.iter().map(|(word, count)| (&**word, *count)).collect();
        words.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        words
    }

    /// All characters but U+0000, most frequent first, then by code.
    fn characters(&self) -> Vec<(char, u64)> {
        let mut counts: HashMap<char, u64> = HashMap::new();
        for (word, count) in &self.counts {
            for c in word.chars().filter(|c| *c != BOUNDARY) {
                *counts.entry(c).or_default() += count;
            }
        }
        let mut characters: Vec<_> = counts.into_iter().collect();
        characters.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        characters
    }

    /// The single characters that become pieces, most frequent first, with their counts.
    pub fn alphabet(&self, alphabet: Alphabet) -> Vec<(char, u64)> {
        let mut characters = self.characters();
        match alphabet {
            Alphabet::Characters(number) => characters.truncate(number),
            Alphabet::Coverage(coverage) => {
                let all: u64 = characters.iter().map(|(_, count)| count).sum();
                let mut covered = 0;
                // SentencePiece compares in single precision.
                let enough = |covered: u64| (covered as f64 / all as f64) as f32 >= coverage;
                let kept = characters.iter().position(|(_, count)| {
                    let stop = enough(covered);
                    covered += count;
                    stop
                });
                characters.truncate(kept.unwrap_or(characters.len()));
            }
        }
        characters
    }
}

/// Cuts before every space; with `runs` only before the first of several.
fn split_at_spaces(text: &str, runs: bool) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut after_space = false;
        let cut = rest.char_indices().find(|&(at, c)| {
            let is_space = c == SPACE;
            let begins = at > 0 && is_space && !(runs && after_space);
            after_space = is_space;
            begins
        });
        let (word, tail) = rest.split_at(cut.map_or(rest.len(), |(at, _)| at));
        rest = tail;
        Some(word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_begin_with_their_space() {
        let split = |text, runs| split_at_spaces(text, runs).collect::<Vec<_>>();
        assert_eq!(split("▁a▁▁b▁", false), ["▁a", "▁", "▁b", "▁"]);
        assert_eq!(split("▁▁a▁▁b▁▁▁", true), ["▁▁a", "▁▁b", "▁▁▁"]);
        assert_eq!(split("a▁b", false), ["a", "▁b"]);
    }

    #[test]
    fn special_pieces_part_words_and_long_lines_are_left_out() {
        let mut words = Words::new(Rules { max_sentence_length: 12, ..Rules::SENTENCEPIECE });
        for line in ["a<s>b", "", "▅", "thirteen byte"] {
            words.add(line);
        }
        assert_eq!(words.sorted(), [("▁a\0b", 1)]);
        assert_eq!((words.lines(), words.too_long()), (1, 1));
        assert_eq!(words.alphabet(Alphabet::Characters(9)), [('a', 1), ('b', 1), ('▁', 1)]);
    }
}
