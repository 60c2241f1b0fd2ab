//! A SentencePiece Unigram model at work: of all ways to cut a text into pieces, the one whose scores have the largest
//! sum, as Google's program finds it.

use std::cell::RefCell;
use std::collections::HashMap;

use super::proto::{ModelProto, Piece, PieceKind};
use super::usage::Usage;
use super::user_defined::UserDefined;
use super::vocabulary::{Vocabulary, check_pieces};
use crate::error::{Error, Result};

/// What a character that is no piece scores below the least of all pieces.
const UNKNOWN_PENALTY: f32 = 10.0;

/// Sums beyond this, above or below 0, are counted from 0 again, so that single precision is enough for long texts.
const FARTHEST: f32 = 100_000.0;

/// A model and what is needed to use it.
pub struct Unigram {
    vocabulary: Vocabulary,
    trie: Trie,
    /// By piece, as far as it can stand in a text.
    scores: Vec<Score>,
    user_defined: UserDefined,
    /// What a character that is no piece scores.
    unknown_score: f32,
    /// Byte → piece, with byte fallback.
    bytes: Option<Box<[u32; 256]>>,
}

#[derive(Clone, Copy)]
enum Score {
    /// Of a user-defined piece a bonus, so that nothing in its place scores as much.
    Known(f32),
    /// Never taken.
    Unused,
}

/// The best way to cut a text up to some place.
#[derive(Clone, Copy, Default)]
struct Best {
    score: f32,
    /// Its last piece, and where that starts; nothing before some piece ends here.
    last: Option<(u32, usize)>,
}

/// What one thread reuses from text to text.
#[derive(Default)]
struct Scratch {
    normalized: String,
    /// By place in the text.
    best: Vec<Best>,
    /// The pieces taken and where they start, from the last to the first.
    taken: Vec<(u32, usize)>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Unigram {
    /// Fails for what SentencePiece itself refuses ([`check_pieces`]) and for models that are not Unigram.
    pub fn new(model: ModelProto) -> Result<Self> {
        let trainer = model.trainer()?;
        if !trainer.is_unigram() {
            return Err(Error::invalid("this is no Unigram SentencePiece model"));
        }
        check_pieces(&model.pieces, trainer.byte_fallback())?;
        let vocabulary = Vocabulary::new(model)?;
        let model = vocabulary.model();
        let numbered = || (0_u32..).zip(&model.pieces);
        let normal = model.pieces.iter().filter(|piece| piece.kind() == PieceKind::Normal);
        let least = normal.map(Piece::score).fold(f32::MAX, f32::min);
        let user_defined = |piece: &Piece| piece.kind() == PieceKind::UserDefined;
        Ok(Self {
            trie: Trie::new(numbered().filter(|(_, piece)| piece.is_in_text())),
            scores: model.pieces.iter().map(Score::of).collect(),
            user_defined: UserDefined::new(
                numbered().filter(|(_, piece)| user_defined(piece)).map(|(id, piece)| (piece.text(), id)),
            ),
            unknown_score: least - UNKNOWN_PENALTY,
            bytes: trainer.byte_fallback().then(|| model.byte_ids(vocabulary.unknown())),
            vocabulary,
        })
    }

    /// As [`Vocabulary::with_usage`].
    #[must_use]
    pub fn with_usage(self, usage: Usage) -> Self {
        Self { vocabulary: self.vocabulary.with_usage(usage), ..self }
    }

    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Appends the ids of `text`; nothing is put before or after them.
    pub fn encode_into(&self, text: &str, ids: &mut Vec<u32>) {
        SCRATCH.with_borrow_mut(|Scratch { normalized, best, taken }| {
            self.vocabulary.normalize(text, &self.user_defined, normalized);
            self.find_best(normalized, best);
            taken.clear();
            let mut end = normalized.len();
            while let Some((piece, start)) = best[end].last {
                taken.push((piece, start));
                end = start;
            }
            let mut after_unknown = false;
            for (at, &(piece, start)) in taken.iter().enumerate().rev() {
                let is_unknown = piece == self.vocabulary.unknown();
                match &self.bytes {
                    Some(bytes) if is_unknown => {
                        let end = if at == 0 { normalized.len() } else { taken[at - 1].1 };
                        let own = &normalized.as_bytes()[start..end];
                        ids.extend(own.iter().map(|&byte| bytes[usize::from(byte)]));
                    }
                    // A run of unknown characters is one token.
                    _ if is_unknown && after_unknown => {}
                    _ => ids.push(piece),
                }
                after_unknown = is_unknown;
            }
        });
    }

    /// The best way to cut `text` up to each place of it. Sums are rounded where SentencePiece 0.2.3 rounds them, to
    /// single precision after every piece; of equal ones the first counts, which is that of the longest last piece. Many
    /// ties are decided by rounding alone, as with `^^ ^` and `^ ^^`.
    fn find_best(&self, text: &str, best: &mut Vec<Best>) {
        best.clear();
        best.resize(text.len() + 1, Best::default());
        let bytes = text.as_bytes();
        // The last place that some piece reaches.
        let mut farthest = 0;
        for (start, character) in text.char_indices() {
            let offset = best[start].score;
            if offset.abs() > FARTHEST {
                best[start..=farthest].iter_mut().for_each(|best| best.score -= offset);
            }
            let so_far = best[start].score;
            let (width, mut is_piece) = (character.len_utf8(), false);
            let mut node = Trie::ROOT;
            for (length, &byte) in (1..).zip(&bytes[start..]) {
                let Some(next) = self.trie.child(node, byte) else { break };
                node = next;
                let Some(piece) = self.trie.piece(node) else { continue };
                let Score::Known(score) = self.scores[piece as usize] else { continue };
                best[start + length].improve(score + so_far, piece, start);
                farthest = farthest.max(start + length);
                is_piece |= length == width;
            }
            if !is_piece {
                best[start + width].improve(self.unknown_score + so_far, self.vocabulary.unknown(), start);
                farthest = farthest.max(start + width);
            }
        }
    }
}

impl Score {
    fn of(piece: &Piece) -> Self {
        match piece.kind() {
            PieceKind::UserDefined => Self::Known((0.1 * (piece.text().len() - 1) as f64) as f32),
            PieceKind::Unused => Self::Unused,
            _ => Self::Known(piece.score()),
        }
    }
}

impl Best {
    fn improve(&mut self, score: f32, piece: u32, start: usize) {
        if self.last.is_none() || score > self.score {
            *self = Self { score, last: Some((piece, start)) };
        }
    }
}

/// The pieces by their bytes.
struct Trie {
    children: HashMap<(u32, u8), u32, foldhash::fast::RandomState>,
    /// By node: the piece that ends there.
    pieces: Vec<Option<u32>>,
}

impl Trie {
    const ROOT: u32 = 0;

    fn new<'a>(pieces: impl Iterator<Item = (u32, &'a Piece)>) -> Self {
        let mut trie = Self { children: HashMap::default(), pieces: vec![None] };
        for (id, piece) in pieces {
            let mut node = Self::ROOT;
            for &byte in piece.text().as_bytes() {
                let next = trie.pieces.len() as u32;
                node = *trie.children.entry((node, byte)).or_insert(next);
                if node == next {
                    trie.pieces.push(None);
                }
            }
            trie.pieces[node as usize] = Some(id);
        }
        trie
    }

    fn child(&self, node: u32, byte: u8) -> Option<u32> {
        self.children.get(&(node, byte)).copied()
    }

    fn piece(&self, node: u32) -> Option<u32> {
        self.pieces[node as usize]
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::super::proto::TrainerSpec;
    use super::*;

    fn model(pieces: &[(&str, f32, PieceKind)], byte_fallback: bool) -> ModelProto {
        let trainer = TrainerSpec { byte_fallback: Some(byte_fallback), ..TrainerSpec::default() };
        let bytes = (0..=255)
            .filter(|_| byte_fallback)
            .map(|byte| Piece::new(super::super::proto::byte_piece(byte), 0.0, PieceKind::Byte));
        let unknown = Piece::new("<unk>", 0.0, PieceKind::Unknown);
        let own = pieces.iter().map(|&(text, score, kind)| Piece::new(text, score, kind));
        ModelProto {
            pieces: [unknown].into_iter().chain(bytes).chain(own).collect(),
            trainer_spec: Some(trainer.encode_to_vec()),
            ..ModelProto::default()
        }
    }

    fn pieces(model: ModelProto, text: &str) -> Vec<String> {
        let unigram = Unigram::new(model).unwrap();
        let mut ids = Vec::new();
        unigram.encode_into(text, &mut ids);
        ids.iter().map(|&id| unigram.vocabulary.model().pieces[id as usize].text().to_owned()).collect()
    }

    #[test]
    fn the_largest_sum_of_scores_and_not_the_longest_piece() {
        use PieceKind::{Normal, Unused, UserDefined};
        let own = [
            ("▁", -1.0, Normal),
            ("a", -3.0, Normal),
            ("b", -3.0, Normal),
            ("ab", -5.0, Normal),
            ("abc", -20.0, Normal),
            ("c", -3.0, Normal),
            ("ca", -0.5, Unused),
            ("【a】", 0.0, UserDefined),
        ];
        assert_eq!(pieces(model(&own, false), "abca"), ["▁", "ab", "c", "a"]);
        assert_eq!(pieces(model(&own, false), "  a 【a】【】  b "), ["▁", "a", "▁", "【a】", "<unk>", "▁", "b"]);
        assert_eq!(pieces(model(&own, true), "xya"), ["▁", "<0x78>", "<0x79>", "a"]);
        assert!(pieces(model(&own, true), "").is_empty());
    }

    #[test]
    fn other_kinds_of_models_are_refused() {
        let mut bpe = model(&[("a", 0.0, PieceKind::Normal)], false);
        bpe.trainer_spec = Some(TrainerSpec { model_type: Some(2), ..TrainerSpec::default() }.encode_to_vec());
        let error = Unigram::new(bpe).err().expect("an error");
        assert_eq!(error.message(), "this is no Unigram SentencePiece model");
    }
}
