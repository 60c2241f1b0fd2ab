//! Appending the pieces of a trained vocabulary to a base one, whose ids never move.

use std::collections::HashSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use unicode_script::{Script, UnicodeScript};

use super::normalizer::SPACE;
use super::proto::{ModelProto, Piece, PieceKind};
use super::trainer::Trained;

/// Which pieces of the trained vocabulary are appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Recipe {
    /// Chinese pieces only (Chinese characters and the punctuation of Chinese print): text that has none of them is
    /// encoded exactly as before.
    Clean,
    /// Every piece that the base does not have, as the published merge did.
    AsPublished,
}

/// The scores of appended pieces, which decide the order of merges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Scores {
    /// Each below the one before, and all below those of the base: SentencePiece and `tokenizers` agree.
    Distinct,
    /// 0 for all, as the published merge had it: ties, which the two resolve differently.
    Zero,
}

/// Whether a text has a Chinese character.
pub fn has_han(text: &str) -> bool {
    text.chars().any(|c| c.script() == Script::Han)
}

/// Whether a character belongs to Chinese print and to no English one: Chinese characters, CJK punctuation (`。「」`)
/// and full-width forms (`，！`). Quotation marks and dashes, which both have, do not count.
fn is_chinese(c: char) -> bool {
    matches!(c, '\u{3000}'..='\u{303F}' | '\u{FF01}'..='\u{FF60}') || c.script() == Script::Han
}

/// What may be appended to a base.
pub struct Extension<'a> {
    recipe: Recipe,
    known: HashSet<&'a str>,
    /// Whether the base has a piece for a space: without it, no piece with one in front could be reached.
    has_space: bool,
}

impl<'a> Extension<'a> {
    pub fn new(base: &'a ModelProto, recipe: Recipe) -> Self {
        let known: HashSet<&str> = base.pieces.iter().map(Piece::text).collect();
        let mut space = [0; 4];
        Self { recipe, has_space: known.contains(&*SPACE.encode_utf8(&mut space)), known }
    }

    /// Whether a trained piece is to be appended. Everything that a piece is merged from is new or known too: parts
    /// of a piece that is all Chinese are so themselves.
    pub fn takes(&self, piece: &str) -> bool {
        if self.known.contains(piece) {
            return false;
        }
        if self.recipe == Recipe::AsPublished {
            return true;
        }
        let (prefixed, rest) = piece.strip_prefix(SPACE).map_or((false, piece), |rest| (true, rest));
        !rest.is_empty() && rest.chars().all(is_chinese) && (!prefixed || self.has_space)
    }

    /// How many pieces the vocabulary of the first `merges` merges would add.
    pub fn count(&self, trained: &Trained, merges: usize) -> usize {
        self.pieces(trained, merges).count()
    }

    /// The number of merges with which exactly `add` pieces are appended, if there is one.
    pub fn merges_for(&self, trained: &Trained, add: usize) -> Option<usize> {
        let mut missing = add.checked_sub(self.count(trained, 0))?;
        if missing == 0 {
            return Some(0);
        }
        let last = trained.merges.iter().position(|piece| {
            missing -= usize::from(self.takes(piece));
            missing == 0
        });
        last.map(|last| last + 1)
    }

    /// What is appended, in the order of the trained vocabulary.
    fn pieces(&self, trained: &Trained, merges: usize) -> impl Iterator<Item = String> {
        let merged = trained.merges.iter().take(merges).cloned();
        let single = trained.characters.iter().map(|(c, _)| c.to_string());
        merged.chain(single).filter(|piece| self.takes(piece))
    }

    /// The base with the pieces appended. Its specs stay as they are; its self-test, which may no longer hold, goes.
    pub fn extend(&self, base: &ModelProto, trained: &Trained, merges: usize, scores: Scores) -> ModelProto {
        let mut model = base.clone();
        model.self_test_data = None;
        let mut score = base.minimum_score();
        for piece in self.pieces(trained, merges) {
            score = match scores {
                // Whole steps, or the next number where single precision has no whole ones any more.
                Scores::Distinct => (score - 1.0).min(score.next_down()),
                Scores::Zero => 0.0,
            };
            model.pieces.push(Piece::new(piece, score, PieceKind::Normal));
        }
        model
    }
}

#[cfg(test)]
mod tests {
    use super::super::trainer::{Alphabet, Rules, Words, train};
    use super::super::{SentencePiece, Tokenizer};
    use super::*;

    fn trained(lines: &[&str], characters: usize, merges: usize, byte_fallback: bool) -> Trained {
        let mut words = Words::new(Rules { byte_fallback, ..Rules::SENTENCEPIECE });
        lines.iter().for_each(|line| words.add(line));
        let meta = words.rules().meta_pieces().len();
        let size = meta + words.alphabet(Alphabet::Characters(characters)).len() + merges;
        train(&words, Alphabet::Characters(characters), size, |_| Ok(false)).unwrap()
    }

    #[test]
    fn ids_of_the_base_stay_and_new_pieces_are_reached() {
        let english = ["the valley and the river", "the river and the hills of the valley", "谷"];
        let base = trained(&english, 50, 20, true).model(20);
        let chinese = ["春天来了，the 春天来了", "春天的山谷", "山谷里的春天", "of the 山谷 and"];
        let new = trained(&chinese, 100, 12, false);
        let extension = Extension::new(&base, Recipe::Clean);
        let merges = extension.merges_for(&new, extension.count(&new, 12)).unwrap();
        let model = extension.extend(&base, &new, merges, Scores::Distinct);

        assert_eq!(model.pieces[..base.pieces.len()], base.pieces[..]);
        let added = &model.pieces[base.pieces.len()..];
        assert!(added.iter().all(|piece| piece.text().chars().any(is_chinese) && piece.text() != "谷"));
        assert!(added.iter().any(|piece| piece.text() == "，"));
        let scores: Vec<f32> = added.iter().map(Piece::rank_score).collect();
        assert!(scores[0] < base.minimum_score() && scores.is_sorted_by(|a, b| a > b));

        let (before, after) =
            (Tokenizer::from(SentencePiece::new(base).unwrap()), SentencePiece::new(model).unwrap());
        let after = Tokenizer::from(after);
        for line in english {
            assert_eq!(before.encode(line).unwrap(), after.encode(line).unwrap());
        }
        let text = "山谷里的春天来了，the river";
        let ids = after.encode(text).unwrap();
        assert!(ids.len() < before.encode(text).unwrap().len());
        assert_eq!(after.decode(&ids).unwrap(), text);
    }

    #[test]
    fn scores_stay_distinct_below_a_very_low_base() {
        let mut base = trained(&["the river"], 50, 3, true).model(3);
        base.pieces.push(Piece::new("▁▁", -1e9, PieceKind::Normal));
        let new = trained(&["春天来了春天来了", "春天来了春天"], 100, 4, false);
        let model = Extension::new(&base, Recipe::Clean).extend(&base, &new, 4, Scores::Distinct);
        let scores: Vec<f32> = model.pieces[base.pieces.len() - 1..].iter().map(Piece::rank_score).collect();
        assert!(scores.len() > 4 && scores.is_sorted_by(|a, b| a > b), "{scores:?}");
    }

    #[test]
    fn exactly_as_many_pieces_as_asked() {
        let base = trained(&["the river"], 50, 3, true).model(3);
        let new = trained(&["春天来了，春天来了", "春天的the，山谷the", "山谷里，the的春天"], 100, 12, false);
        let extension = Extension::new(&base, Recipe::Clean);
        let single = extension.count(&new, 0);
        assert_eq!(extension.merges_for(&new, single - 1), None);
        for add in single..single + 4 {
            let merges = extension.merges_for(&new, add).unwrap();
            assert_eq!(extension.count(&new, merges), add);
        }
    }
}
