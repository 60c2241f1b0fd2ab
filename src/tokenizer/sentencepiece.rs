//! A SentencePiece BPE model at work: text to ids and back, as Google's program does it.

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::Path;

use super::bpe::{Bpe, MOST_PIECES, Scratch};
use super::normalizer::{Normalizer, SPACE};
use super::proto::{ModelProto, Piece, PieceKind, TrainerSpec};
use crate::error::{Error, Result};

/// A model and what is needed to use it.
pub struct SentencePiece {
    model: ModelProto,
    trainer: TrainerSpec,
    normalizer: Normalizer,
    bpe: Bpe,
    /// The encoder can be given a text whose spaces are not replaced yet.
    reads_spaces: bool,
    bos: Option<u32>,
    eos: Option<u32>,
}

thread_local! {
    /// The normal form of a text and the encoder's buffers, kept from text to text.
    static SCRATCH: RefCell<(String, Scratch)> = RefCell::default();
}

impl SentencePiece {
    pub fn open(path: &Path) -> Result<Self> {
        Self::new(ModelProto::read(path)?).map_err(|error| {
            let advice = error.advice().map(str::to_owned);
            let named = Error::invalid(format!("cannot use the tokenizer {}", path.display())).caused_by(error);
            match advice {
                Some(advice) => named.hint(advice),
                None => named,
            }
        })
    }

    /// Fails for what SentencePiece itself refuses (no or two unknown pieces, empty or repeated pieces, byte pieces
    /// that do not fit the byte fallback) and for what this encoder does not do: models that are not BPE, and
    /// character maps.
    pub fn new(model: ModelProto) -> Result<Self> {
        let trainer = model.trainer()?;
        check_kind(&model, &trainer)?;
        check_number(&model.pieces)?;
        let control = |wanted: &str| {
            let is_wanted = |piece: &Piece| piece.kind() == PieceKind::Control && piece.text() == wanted;
            model.pieces.iter().position(is_wanted).map(|id| id as u32)
        };
        let normalizer = Normalizer::of(&model)?;
        let has_space =
            |piece: &Piece| piece.kind() == PieceKind::UserDefined && piece.text().contains([' ', SPACE]);
        let reads_spaces = !model.pieces.iter().any(has_space);
        let alias = (reads_spaces && normalizer.escape_whitespaces).then_some((' ', SPACE));
        let (checked, bpe) = rayon::join(
            || check_pieces(&model.pieces, trainer.byte_fallback()),
            || Bpe::new(&model, trainer.byte_fallback(), alias),
        );
        checked?;
        Ok(Self {
            normalizer,
            bpe,
            reads_spaces,
            bos: control(trainer.bos_piece.as_deref().unwrap_or("<s>")),
            eos: control(trainer.eos_piece.as_deref().unwrap_or("</s>")),
            trainer,
            model,
        })
    }

    pub fn model(&self) -> &ModelProto {
        &self.model
    }

    pub fn bpe(&self) -> &Bpe {
        &self.bpe
    }

    pub fn normalizer(&self) -> Normalizer {
        self.normalizer
    }

    /// Whether characters that are in no piece become bytes.
    pub fn byte_fallback(&self) -> bool {
        self.trainer.byte_fallback()
    }

    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Appends the ids of `text`; nothing is put before or after them.
    pub fn encode_into(&self, text: &str, ids: &mut Vec<u32>) {
        SCRATCH.with_borrow_mut(|(normalized, scratch)| match self.normalizer.parts(text) {
            Some(parts) if self.reads_spaces => self.bpe.encode(&parts, scratch, ids),
            _ => {
                self.normalizer.normalize(text, self.bpe.user_defined(), normalized);
                self.bpe.encode(&[normalized], scratch, ids);
            }
        });
    }

    /// Gives `use_it` the normal form of `text` and the buffers of this thread.
    pub fn with_normalized<R>(&self, text: &str, use_it: impl FnOnce(&str, &mut Scratch) -> R) -> R {
        SCRATCH.with_borrow_mut(|(normalized, scratch)| {
            self.normalizer.normalize(text, self.bpe.user_defined(), normalized);
            use_it(normalized, scratch)
        })
    }

    /// The text of `ids`: control pieces vanish, bytes that are no UTF-8 become U+FFFD one by one, and so do ids that
    /// the vocabulary does not have.
    pub fn decode(&self, ids: &[u32]) -> String {
        let strips = self.normalizer.add_dummy_prefix || self.normalizer.remove_extra_whitespaces;
        let mut text = String::new();
        let mut bytes = Vec::new();
        // Whether a space at the beginning is still to be dropped, and whether the piece before began with one.
        let (mut at_start, mut dropped) = (true, false);
        for &id in ids {
            let piece = self.model.pieces.get(id as usize);
            if let Some(byte) = piece.filter(|piece| piece.kind() == PieceKind::Byte).and_then(Piece::byte) {
                bytes.push(byte);
                continue;
            }
            push_bytes(&mut text, &mut bytes);
            at_start &= !dropped && text.is_empty();
            dropped = false;
            let Some(piece) = piece else {
                text.push(char::REPLACEMENT_CHARACTER);
                continue;
            };
            match piece.kind() {
                PieceKind::Control => {}
                PieceKind::Unknown => text.push_str(self.trainer.unk_text()),
                _ => {
                    let mut surface = piece.text();
                    if at_start && strips {
                        let rest = surface.strip_prefix(SPACE);
                        dropped = rest.is_some() && !self.normalizer.remove_extra_whitespaces;
                        surface = rest.unwrap_or(surface);
                    }
                    text.extend(surface.chars().map(|c| if c == SPACE { ' ' } else { c }));
                }
            }
        }
        push_bytes(&mut text, &mut bytes);
        text
    }
}

/// Appends bytes as text, and empties them.
fn push_bytes(text: &mut String, bytes: &mut Vec<u8>) {
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let character = (1..=rest.len().min(4)).find_map(|length| std::str::from_utf8(&rest[..length]).ok());
        match character {
            Some(character) => {
                text.push_str(character);
                rest = &rest[character.len()..];
            }
            None => {
                text.push(char::REPLACEMENT_CHARACTER);
                rest = &rest[1..];
            }
        }
    }
    bytes.clear();
}

fn check_kind(model: &ModelProto, trainer: &TrainerSpec) -> Result<()> {
    if !trainer.is_bpe() {
        let kind = match trainer.model_type {
            None | Some(1) => "a Unigram",
            Some(3) => "a word",
            Some(4) => "a character",
            Some(_) => "an unknown kind of",
        };
        return Err(Error::invalid(format!("this is {kind} SentencePiece model, and only BPE ones can be encoded with"))
            .hint("give the tokenizer.json of the same tokenizer, or train a BPE one with the stage kind `train-tokenizer`"));
    }
    let specs = [model.normalizer()?, model.denormalizer()?];
    if let Some(spec) = specs.iter().find(|spec| spec.has_charsmap()) {
        let name = spec.name.as_deref().unwrap_or("a character map");
        return Err(Error::invalid(format!(
            "the SentencePiece model normalises with {name}, which is not supported"
        ))
        .hint("give the tokenizer.json of the same tokenizer, or train one with normalization = \"identity\""));
    }
    Ok(())
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

fn check_pieces(pieces: &[Piece], byte_fallback: bool) -> Result<()> {
    let mut in_text = HashSet::with_capacity_and_hasher(pieces.len(), foldhash::fast::RandomState::default());
    let mut reserved = HashSet::new();
    let mut bytes = HashSet::new();
    let mut unknown = 0;
    for (id, piece) in pieces.iter().enumerate() {
        let text = piece.text();
        if text.is_empty() {
            return Err(Error::invalid(format!("piece {id} of the SentencePiece model is empty")));
        }
        if piece.score().is_nan() {
            return Err(Error::invalid(format!("the score of piece {id} (`{text}`) is not a number")));
        }
        let is_new = if piece.is_in_text() { in_text.insert(text) } else { reserved.insert(text) };
        if !is_new {
            return Err(Error::invalid(format!(
                "piece {id} (`{text}`) of the SentencePiece model is a repetition"
            )));
        }
        match piece.kind() {
            PieceKind::Unknown => unknown += 1,
            PieceKind::Byte => {
                bytes.insert(piece.byte().ok_or_else(|| {
                    Error::invalid(format!("piece {id} (`{text}`) is marked as a byte but names none"))
                })?);
            }
            _ => {}
        }
    }
    if unknown != 1 {
        return Err(Error::invalid(format!("a SentencePiece model has one unknown piece; this one has {unknown}")));
    }
    let wanted = if byte_fallback { 256 } else { 0 };
    if bytes.len() != wanted {
        let has = bytes.len();
        return Err(Error::invalid(format!(
            "the SentencePiece model has {has} byte pieces; its trainer spec asks for {wanted}"
        )));
    }
    Ok(())
}
