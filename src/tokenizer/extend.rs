//! Appending the pieces of a trained vocabulary to a base one, whose ids never move.

use std::collections::HashSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::normalizer::SPACE;
use super::proto::{ModelProto, Piece, PieceKind};
use super::scripts::Scripts;
use super::trainer::Trained;

/// Which pieces of the trained vocabulary are appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Recipe {
    /// Pieces of the language's own scripts only, and of the punctuation of their print: text that has none of them,
    /// such as English and code, is encoded exactly as before.
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

/// What may be appended to a base.
pub struct Extension<'a> {
    recipe: Recipe,
    scripts: Scripts,
    known: HashSet<&'a str>,
    /// Whether the base has a piece for a space: without it, no piece with one in front could be reached.
    has_space: bool,
}

impl<'a> Extension<'a> {
    /// `scripts`: those of the language whose pieces are appended.
    pub fn new(base: &'a ModelProto, recipe: Recipe, scripts: Scripts) -> Self {
        let known: HashSet<&str> = base.pieces.iter().map(Piece::text).collect();
        let mut space = [0; 4];
        Self { recipe, scripts, has_space: known.contains(&*SPACE.encode_utf8(&mut space)), known }
    }

    /// Whether a trained piece is to be appended. Everything that a piece is merged from is new or known too: parts
    /// of a piece that is all in the language's scripts are so themselves.
    pub fn takes(&self, piece: &str) -> bool {
        if self.known.contains(piece) {
            return false;
        }
        if self.recipe == Recipe::AsPublished {
            return true;
        }
        let (prefixed, rest) = piece.strip_prefix(SPACE).map_or((false, piece), |rest| (true, rest));
        !rest.is_empty() && rest.chars().all(|c| self.scripts.own(c)) && (!prefixed || self.has_space)
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
    pub fn pieces(&self, trained: &Trained, merges: usize) -> impl Iterator<Item = String> {
        let merged = trained.merges.iter().take(merges).cloned();
        let single = trained.characters.iter().map(|(c, _)| c.to_string());
        merged.chain(single).filter(|piece| self.takes(piece))
    }
}

/// The base with pieces appended, which are new to it and differ. Its specs stay as they are; its self-test, which may
/// no longer hold, goes.
pub fn extended(base: &ModelProto, pieces: impl IntoIterator<Item = String>, scores: Scores) -> ModelProto {
    let mut model = base.clone();
    model.self_test_data = None;
    let mut score = base.minimum_score();
    for piece in pieces {
        score = match scores {
            // Whole steps, or the next number where single precision has no whole ones any more.
            Scores::Distinct => (score - 1.0).min(score.next_down()),
            Scores::Zero => 0.0,
        };
        model.pieces.push(Piece::new(piece, score, PieceKind::Normal));
    }
    model
}

/// The pieces of several languages as one list, each once: every stretch of it has of each language the same part of
/// its pieces, so that no language goes before the others. Pieces of one language keep their order.
pub fn interleaved(languages: &[Vec<String>]) -> Vec<String> {
    let mut ranked: Vec<(u64, u64, &String)> = Vec::new();
    for pieces in languages {
        let ranks = (0_u64..).zip(pieces).map(|(rank, piece)| (2 * rank + 1, pieces.len() as u64, piece));
        ranked.extend(ranks);
    }
    // By (rank + ½) / pieces; of equals the first language.
    ranked.sort_by(|a, b| (a.0 * b.1).cmp(&(b.0 * a.1)));
    let mut seen = HashSet::new();
    ranked.into_iter().filter(|(.., piece)| seen.insert(*piece)).map(|(.., piece)| piece.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::trainer::{Alphabet, Rules, Words, train};
    use super::super::{SentencePiece, Tokenizer};
    use super::*;

    fn han() -> Scripts {
        serde_json::from_str("[\"Han\"]").unwrap()
    }

    fn trained(lines: &[&str], characters: usize, merges: usize, byte_fallback: bool) -> Trained {
        let words = Words::of(Rules { byte_fallback, ..Rules::SENTENCEPIECE }, lines);
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
        let extension = Extension::new(&base, Recipe::Clean, han());
        let merges = extension.merges_for(&new, extension.count(&new, 12)).unwrap();
        let model = extended(&base, extension.pieces(&new, merges), Scores::Distinct);

        assert_eq!(model.pieces[..base.pieces.len()], base.pieces[..]);
        let added = &model.pieces[base.pieces.len()..];
        assert!(added.iter().all(|piece| piece.text().chars().any(|c| han().own(c)) && piece.text() != "谷"));
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
        let pieces = Extension::new(&base, Recipe::Clean, han()).pieces(&new, 4).collect::<Vec<_>>();
        let model = extended(&base, pieces, Scores::Distinct);
        let scores: Vec<f32> = model.pieces[base.pieces.len() - 1..].iter().map(Piece::rank_score).collect();
        assert!(scores.len() > 4 && scores.is_sorted_by(|a, b| a > b), "{scores:?}");
    }

    #[test]
    fn exactly_as_many_pieces_as_asked() {
        let base = trained(&["the river"], 50, 3, true).model(3);
        let new = trained(&["春天来了，春天来了", "春天的the，山谷the", "山谷里，the的春天"], 100, 12, false);
        let extension = Extension::new(&base, Recipe::Clean, han());
        let single = extension.count(&new, 0);
        assert_eq!(extension.merges_for(&new, single - 1), None);
        for add in single..single + 4 {
            let merges = extension.merges_for(&new, add).unwrap();
            assert_eq!(extension.count(&new, merges), add);
        }
    }

    #[test]
    fn languages_take_turns() {
        let list = |pieces: &[&str]| pieces.iter().map(|piece| (*piece).to_owned()).collect::<Vec<_>>();
        let languages = [list(&["a", "b", "c", "d"]), list(&["x", "b"]), list(&[])];
        assert_eq!(interleaved(&languages), ["a", "x", "b", "c", "d"]);
        assert_eq!(interleaved(&[list(&["a", "b"]), list(&["x", "y"])]), ["a", "x", "b", "y"]);
    }
}
