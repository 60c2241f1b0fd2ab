//! A SentencePiece BPE model at work: text to ids and back, as Google's program does it.

use std::cell::RefCell;
use std::path::Path;

use super::bpe::{Bpe, MOST_PIECES, Scratch};
use super::normalizer::{Normalizer, SPACE};
use super::proto::{ModelProto, Piece, PieceKind, TrainerSpec};
use super::usage::Usage;
use super::vocabulary::{Vocabulary, check_pieces, named};
use crate::error::{Error, Result};

/// A model and what is needed to use it.
pub struct SentencePiece {
    vocabulary: Vocabulary,
    bpe: Bpe,
    /// The encoder can be given a text whose spaces are not replaced yet.
    reads_spaces: bool,
}

thread_local! {
    /// The normal form of a text and the encoder's buffers, kept from text to text.
    static SCRATCH: RefCell<(String, Scratch)> = RefCell::default();
}

impl SentencePiece {
    pub fn open(path: &Path) -> Result<Self> {
        named(path, Self::new(ModelProto::read(path)?))
    }

    /// Fails for what SentencePiece itself refuses ([`check_pieces`]) and for what this encoder does not do: models that
    /// are not BPE.
    pub fn new(model: ModelProto) -> Result<Self> {
        check_kind(&model.trainer()?)?;
        check_number(&model.pieces)?;
        let vocabulary = Vocabulary::new(model)?;
        let (model, normalizer) = (vocabulary.model(), vocabulary.normalizer());
        let has_space =
            |piece: &Piece| piece.kind() == PieceKind::UserDefined && piece.text().contains([' ', SPACE]);
        let reads_spaces = !vocabulary.has_charsmap() && !model.pieces.iter().any(has_space);
        let alias = (reads_spaces && normalizer.escape_whitespaces).then_some((' ', SPACE));
        let byte_fallback = vocabulary.trainer().byte_fallback();
        let (checked, bpe) =
            rayon::join(|| check_pieces(&model.pieces, byte_fallback), || Bpe::new(model, byte_fallback, alias));
        checked?;
        Ok(Self { vocabulary, bpe, reads_spaces })
    }

    /// As [`Vocabulary::with_usage`].
    #[must_use]
    pub fn with_usage(self, usage: Usage) -> Self {
        Self { vocabulary: self.vocabulary.with_usage(usage), ..self }
    }

    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    pub fn model(&self) -> &ModelProto {
        self.vocabulary.model()
    }

    pub fn bpe(&self) -> &Bpe {
        &self.bpe
    }

    pub fn normalizer(&self) -> Normalizer {
        self.vocabulary.normalizer()
    }

    /// Whether characters that are in no piece become bytes.
    pub fn byte_fallback(&self) -> bool {
        self.vocabulary.trainer().byte_fallback()
    }

    /// Appends the ids of `text`; nothing is put before or after them.
    pub fn encode_into(&self, text: &str, ids: &mut Vec<u32>) {
        SCRATCH.with_borrow_mut(|(normalized, scratch)| match self.vocabulary.normalizer_of(text).parts(text) {
            Some(parts) if self.reads_spaces => self.bpe.encode(&parts, scratch, ids),
            _ => {
                self.vocabulary.normalize(text, self.bpe.user_defined(), normalized);
                self.bpe.encode(&[normalized], scratch, ids);
            }
        });
    }

    /// As [`Self::encode_into`], with merges left out; see [`Bpe::sample`].
    pub fn sample_into(&self, text: &str, drops: &mut dyn FnMut() -> bool, ids: &mut Vec<u32>) {
        self.with_normalized(text, |normalized, scratch| self.bpe.sample(&[normalized], drops, scratch, ids));
    }

    /// Gives `use_it` the normal form of `text` and the buffers of this thread.
    pub fn with_normalized<R>(&self, text: &str, use_it: impl FnOnce(&str, &mut Scratch) -> R) -> R {
        SCRATCH.with_borrow_mut(|(normalized, scratch)| {
            self.vocabulary.normalize(text, self.bpe.user_defined(), normalized);
            use_it(normalized, scratch)
        })
    }

    /// As [`Vocabulary::decode`].
    pub fn decode(&self, ids: &[u32]) -> String {
        self.vocabulary.decode(ids)
    }
}

fn check_kind(trainer: &TrainerSpec) -> Result<()> {
    if trainer.is_bpe() {
        return Ok(());
    }
    let kind = match trainer.model_type {
        None | Some(1) => "a Unigram",
        Some(3) => "a word",
        Some(4) => "a character",
        Some(_) => "an unknown kind of",
    };
    Err(Error::invalid(format!("this is {kind} SentencePiece model, and no BPE one")).hint(
        "give the tokenizer.json of the same tokenizer, or train a BPE one with the stage kind `train-tokenizer`",
    ))
}

fn check_number(pieces: &[Piece]) -> Result<()> {
    if pieces.len() > MOST_PIECES {
        let has = pieces.len();
        return Err(Error::invalid(format!(
            "the SentencePiece model has {has} pieces, and {MOST_PIECES} are the most that can be encoded with"
        )));
    }
    Ok(())
}
