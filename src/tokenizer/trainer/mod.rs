//! Training of byte-pair encodings by SentencePiece's rules: on the same lines the same pieces in the same order.

mod agenda;
mod census;
mod merges;
mod scan;
mod shape;
mod step;
mod text;
mod words;

use std::borrow::Borrow;

use prost::Message;

use super::normalizer::Normalizer;
use super::proto::{MODEL_TYPE_BPE, ModelProto, Piece, PieceKind, TrainerSpec, byte_piece};
use crate::error::{Error, Result};

use merges::Limits;
use text::Text;

pub use words::Words;

/// What decides which pieces come out. SentencePiece's other switches stand at its defaults: pieces are split by white
/// space, by script (Han, Hiragana and Katakana are one) and by number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    pub normalizer: Normalizer,
    /// Unknown characters become bytes: 256 pieces for them.
    pub byte_fallback: bool,
    /// Every digit is a piece of its own.
    pub split_digits: bool,
    /// Runs of spaces may be pieces.
    pub allow_whitespace_only_pieces: bool,
    /// In characters.
    pub max_sentencepiece_length: usize,
    /// In bytes; longer lines are passed over.
    pub max_sentence_length: usize,
}

/// Which single characters become pieces: the most frequent ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Alphabet {
    /// So many that this share of the text consists of them.
    Coverage(f32),
    /// This many, or all there are.
    Characters(usize),
}

/// A finished training: the pieces of its vocabulary and, by taking fewer merges, of every smaller one.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    pub rules: Rules,
    /// The pieces of more than one character, in the order in which they were merged.
    pub merges: Vec<String>,
    /// The single characters, most frequent first, with their counts.
    pub characters: Vec<(char, u64)>,
}

impl Rules {
    /// What `spm_train --model_type=bpe --normalization_rule_name=identity` takes when nothing else is said.
    pub const SENTENCEPIECE: Rules = Rules {
        normalizer: Normalizer {
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
            whitespace_as_suffix: false,
        },
        byte_fallback: false,
        split_digits: false,
        allow_whitespace_only_pieces: false,
        max_sentencepiece_length: 16,
        max_sentence_length: 4192,
    };

    /// The pieces that no text is made of: unknown, beginning, end, and the bytes.
    pub fn meta_pieces(&self) -> Vec<Piece> {
        let mut pieces = vec![
            Piece::new("<unk>", 0.0, PieceKind::Unknown),
            Piece::new("<s>", 0.0, PieceKind::Control),
            Piece::new("</s>", 0.0, PieceKind::Control),
        ];
        if self.byte_fallback {
            pieces.extend((0..=255).map(|byte| Piece::new(byte_piece(byte), 0.0, PieceKind::Byte)));
        }
        pieces
    }
}

/// Trains a vocabulary of at least `vocab_size` pieces: meta pieces, merges, single characters. `more` sees the merges
/// so far, after every hundred, and says whether the training is to go on beyond `vocab_size`, as far as the text has
/// more to give; with its errors the training ends.
///
/// Words that are given away are let go as soon as they are not needed. Uses the threads of Rayon's current pool; their
/// number changes nothing.
///
/// Fails if `vocab_size` leaves no room for the single characters, or asks for more than the text has to give.
pub fn train(
    words: impl Borrow<Words>,
    alphabet: Alphabet,
    vocab_size: usize,
    more: impl FnMut(&[String]) -> Result<bool>,
) -> Result<Trained> {
    let rules = *words.borrow().rules();
    let characters = words.borrow().alphabet(alphabet);
    let fixed = rules.meta_pieces().len() + characters.len();
    let Some(wanted) = vocab_size.checked_sub(fixed) else {
        return Err(Error::invalid(format!(
            "a vocabulary of {vocab_size} pieces has no room for {} single characters and {} special pieces",
            characters.len(),
            rules.meta_pieces().len(),
        ))
        .hint(format!("ask for more than {fixed} pieces, or for fewer single characters")));
    };
    let text = Text::new(words.borrow(), &characters)?;
    drop(words);
    let merges = merges::learn(text, rules, &characters, Limits::DEFAULT, wanted, more)?;
    if merges.len() < wanted {
        return Err(Error::invalid(format!(
            "the text gives a vocabulary of {} pieces at most, not the {vocab_size} asked for",
            fixed + merges.len(),
        ))
        .hint("ask for a smaller vocabulary or give more text"));
    }
    Ok(Trained { rules, merges, characters })
}

impl Trained {
    /// The size of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.size_with(self.merges.len())
    }

    /// The size of the vocabulary with the first `merges` merges.
    pub fn size_with(&self, merges: usize) -> usize {
        self.rules.meta_pieces().len() + merges + self.characters.len()
    }

    /// The model with the first `merges` merges (all, if there are fewer).
    pub fn model(&self, merges: usize) -> ModelProto {
        let mut pieces = self.rules.meta_pieces();
        let merged = self.merges.iter().take(merges).cloned();
        let single = self.characters.iter().map(|(c, _)| c.to_string());
        pieces.extend((0..).zip(merged.chain(single)).map(|(order, text)| {
            // Negative zero for the first, as SentencePiece writes it.
            Piece::new(text, -(order as f32), PieceKind::Normal)
        }));
        let trainer = TrainerSpec {
            model_type: Some(MODEL_TYPE_BPE),
            vocab_size: Some(pieces.len() as i32),
            max_sentence_length: Some(self.rules.max_sentence_length as i32),
            max_sentencepiece_length: Some(self.rules.max_sentencepiece_length as i32),
            split_digits: Some(self.rules.split_digits),
            allow_whitespace_only_pieces: Some(self.rules.allow_whitespace_only_pieces),
            byte_fallback: Some(self.rules.byte_fallback),
            ..TrainerSpec::default()
        };
        ModelProto {
            pieces,
            trainer_spec: Some(trainer.encode_to_vec()),
            normalizer_spec: Some(self.rules.normalizer.spec().encode_to_vec()),
            self_test_data: None,
            denormalizer_spec: None,
        }
    }
}
