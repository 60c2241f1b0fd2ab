//! What SentencePiece models of all kinds have in common: their pieces, the normal form of a text, and the text of ids.

use std::collections::HashSet;
use std::path::Path;

use super::charsmap::Charsmap;
use super::normalizer::{Normalizer, SPACE};
use super::proto::{ModelProto, Piece, PieceKind, TrainerSpec};
use super::usage::Usage;
use super::user_defined::UserDefined;
use crate::error::{Error, Result};

/// The pieces of a model, and how a text is made ready for them.
pub struct Vocabulary {
    model: ModelProto,
    trainer: TrainerSpec,
    normalizer: Normalizer,
    charsmap: Option<Charsmap>,
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: u32,
    usage: Usage,
    /// The tokens before which no dummy prefix is put when they begin a text.
    unprefixed: UserDefined,
}

impl Vocabulary {
    /// Fails for a map of characters that is damaged, and for one that decoded text would go through. The pieces are
    /// [checked](check_pieces) apart.
    pub fn new(model: ModelProto) -> Result<Self> {
        let trainer = model.trainer()?;
        if let Some(spec) = Some(model.denormalizer()?).filter(|spec| spec.has_charsmap()) {
            let name = spec.name.as_deref().unwrap_or("a character map");
            let message =
                format!("the SentencePiece model sends decoded text through {name}, which is not supported");
            return Err(Error::invalid(message).hint("give the tokenizer.json of the same tokenizer"));
        }
        let control = |wanted: &str| {
            let is_wanted = |piece: &Piece| piece.kind() == PieceKind::Control && piece.text() == wanted;
            model.pieces.iter().position(is_wanted).map(|id| id as u32)
        };
        Ok(Self {
            normalizer: Normalizer::of(&model)?,
            charsmap: Charsmap::of(&model.normalizer()?)?,
            bos: control(trainer.bos_piece.as_deref().unwrap_or("<s>")),
            eos: control(trainer.eos_piece.as_deref().unwrap_or("</s>")),
            unknown: model.pieces.iter().position(|piece| piece.kind() == PieceKind::Unknown).unwrap_or(0) as u32,
            trainer,
            model,
            usage: Usage::default(),
            unprefixed: UserDefined::default(),
        })
    }

    /// The same used otherwise; the tokens that are named are pieces of the model.
    #[must_use]
    pub fn with_usage(mut self, usage: Usage) -> Self {
        let special = usage.tokens().filter_map(|token| Some((token, self.id(token)?)));
        let user_defined =
            special.filter(|(_, id)| self.model.pieces[*id as usize].kind() == PieceKind::UserDefined);
        self.unprefixed = UserDefined::new(user_defined);
        self.eos = usage.eos.as_deref().and_then(|eos| self.id(eos)).or(self.eos);
        self.usage = usage;
        self
    }

    pub fn usage(&self) -> &Usage {
        &self.usage
    }

    /// The id of a piece.
    fn id(&self, text: &str) -> Option<u32> {
        self.model.pieces.iter().position(|piece| piece.text() == text).map(|id| id as u32)
    }

    pub fn model(&self) -> &ModelProto {
        &self.model
    }

    pub fn trainer(&self) -> &TrainerSpec {
        &self.trainer
    }

    pub fn normalizer(&self) -> Normalizer {
        self.normalizer
    }

    /// That of `text`: where it begins with a special token, it gets no dummy prefix.
    pub fn normalizer_of(&self, text: &str) -> Normalizer {
        let is_special = self.unprefixed.longest_prefix(text.as_bytes()).is_some();
        Normalizer { add_dummy_prefix: self.normalizer.add_dummy_prefix && !is_special, ..self.normalizer }
    }

    /// Whether the normal form of a text has other characters than white space replaced.
    pub fn has_charsmap(&self) -> bool {
        self.charsmap.is_some()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The token that fills up a batch, where one is named.
    pub fn pad(&self) -> Option<u32> {
        self.id(self.usage.pad.as_deref()?)
    }

    /// The token of what no piece can spell.
    pub fn unknown(&self) -> u32 {
        self.unknown
    }

    /// Writes the normal form of `text` into `out`, which is cleared first.
    pub fn normalize(&self, text: &str, user_defined: &UserDefined, out: &mut String) {
        match &self.charsmap {
            None => self.normalizer_of(text).normalize(text, user_defined, out),
            Some(map) => self.normalizer_of(text).normalize_mapped(text, user_defined, map, out),
        }
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

/// An error about a model says which file it came from.
pub fn named<T>(path: &Path, result: Result<T>) -> Result<T> {
    result.map_err(|error| {
        let advice = error.advice().map(str::to_owned);
        let named = Error::invalid(format!("cannot use the tokenizer {}", path.display())).caused_by(error);
        match advice {
            Some(advice) => named.hint(advice),
            None => named,
        }
    })
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

/// Fails for what SentencePiece itself refuses (no or two unknown pieces, empty or repeated pieces, byte pieces that do
/// not fit the byte fallback), and for scores that are no numbers.
pub fn check_pieces(pieces: &[Piece], byte_fallback: bool) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// SentencePiece reads capital letters only, and Rust's parser takes a sign as well.
    #[test]
    fn a_byte_that_is_none() {
        for text in ["<0x+F>", "<0x0a>", "<0xF>", "<0x00F>", "0x0F", "<0xG0>"] {
            let pieces = [Piece::new("<unk>", 0.0, PieceKind::Unknown), Piece::new(text, 0.0, PieceKind::Byte)];
            let error = check_pieces(&pieces, true).unwrap_err();
            assert_eq!(error.message(), format!("piece 1 (`{text}`) is marked as a byte but names none"));
        }
    }
}
