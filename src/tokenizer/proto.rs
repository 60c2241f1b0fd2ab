//! SentencePiece's model file: a protocol buffer, read and written so that what we do not touch stays as it was.

use std::path::Path;

use prost::Message;

use crate::error::{Context, Error, Result};
use crate::files;

/// A whole model. The three specs are kept as raw bytes, so that every field of theirs, known here or not, survives a
/// round trip.
#[derive(Clone, PartialEq, Message)]
pub struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pub pieces: Vec<Piece>,
    #[prost(bytes = "vec", optional, tag = "2")]
    pub trainer_spec: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "3")]
    pub normalizer_spec: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "4")]
    pub self_test_data: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "5")]
    pub denormalizer_spec: Option<Vec<u8>>,
}

/// One entry of the vocabulary; its id is its place in the list.
#[derive(Clone, PartialEq, Message)]
pub struct Piece {
    #[prost(string, optional, tag = "1")]
    pub text: Option<String>,
    #[prost(float, optional, tag = "2")]
    pub score: Option<f32>,
    /// A [`PieceKind`]; absent means normal.
    #[prost(int32, optional, tag = "3")]
    pub type_number: Option<i32>,
}

/// What a piece is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceKind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// The fields of `TrainerSpec` that matter here. Absent fields have the proto's defaults, given by the accessors.
#[derive(Clone, PartialEq, Message)]
pub struct TrainerSpec {
    #[prost(int32, optional, tag = "3")]
    pub model_type: Option<i32>,
    #[prost(int32, optional, tag = "4")]
    pub vocab_size: Option<i32>,
    #[prost(float, optional, tag = "10")]
    pub character_coverage: Option<f32>,
    #[prost(uint64, optional, tag = "11")]
    pub input_sentence_size: Option<u64>,
    #[prost(int32, optional, tag = "18")]
    pub max_sentence_length: Option<i32>,
    #[prost(int32, optional, tag = "20")]
    pub max_sentencepiece_length: Option<i32>,
    #[prost(bool, optional, tag = "24")]
    pub treat_whitespace_as_suffix: Option<bool>,
    #[prost(bool, optional, tag = "25")]
    pub split_digits: Option<bool>,
    #[prost(bool, optional, tag = "26")]
    pub allow_whitespace_only_pieces: Option<bool>,
    #[prost(bool, optional, tag = "35")]
    pub byte_fallback: Option<bool>,
    #[prost(int32, optional, tag = "41")]
    pub bos_id: Option<i32>,
    #[prost(int32, optional, tag = "42")]
    pub eos_id: Option<i32>,
    #[prost(string, optional, tag = "44")]
    pub unk_surface: Option<String>,
    #[prost(string, optional, tag = "46")]
    pub bos_piece: Option<String>,
    #[prost(string, optional, tag = "47")]
    pub eos_piece: Option<String>,
}

/// The fields of `NormalizerSpec`.
#[derive(Clone, PartialEq, Message)]
pub struct NormalizerSpec {
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    #[prost(bytes = "vec", optional, tag = "2")]
    pub precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3")]
    pub add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    pub remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    pub escape_whitespaces: Option<bool>,
}

/// The value of `TrainerSpec.model_type` for byte-pair encoding.
pub const MODEL_TYPE_BPE: i32 = 2;

impl Piece {
    pub fn new(text: impl Into<String>, score: f32, kind: PieceKind) -> Self {
        // SentencePiece leaves the field out for normal pieces.
        let type_number = (kind != PieceKind::Normal).then_some(kind as i32);
        Self { text: Some(text.into()), score: Some(score), type_number }
    }

    pub fn kind(&self) -> PieceKind {
        match self.type_number {
            Some(2) => PieceKind::Unknown,
            Some(3) => PieceKind::Control,
            Some(4) => PieceKind::UserDefined,
            Some(5) => PieceKind::Unused,
            Some(6) => PieceKind::Byte,
            // 1, absent, and values that this proto does not know: proto2 reads those as the default.
            _ => PieceKind::Normal,
        }
    }

    /// The score with negative zero made plain zero, so that equal scores compare equal.
    pub fn rank_score(&self) -> f32 {
        self.score() + 0.0
    }

    /// Whether text can be segmented into this piece: normal, user-defined and unused ones.
    pub fn is_in_text(&self) -> bool {
        matches!(self.kind(), PieceKind::Normal | PieceKind::UserDefined | PieceKind::Unused)
    }

    /// The byte that a byte piece (`<0x0A>`) stands for.
    pub fn byte(&self) -> Option<u8> {
        let digits = self.text().strip_prefix("<0x")?.strip_suffix('>')?;
        // SentencePiece knows capital letters only, and Rust reads a `+` as well.
        let byte = u8::from_str_radix(digits, 16).ok()?;
        (self.text() == byte_piece(byte)).then_some(byte)
    }
}

/// The text of the piece that stands for a byte.
pub fn byte_piece(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

impl TrainerSpec {
    pub fn is_bpe(&self) -> bool {
        self.model_type == Some(MODEL_TYPE_BPE)
    }

    /// Unigram is what a model is that does not say.
    pub fn is_unigram(&self) -> bool {
        matches!(self.model_type, None | Some(1))
    }

    /// What an unknown piece is decoded to.
    pub fn unk_text(&self) -> &str {
        self.unk_surface.as_deref().unwrap_or(" \u{2047} ")
    }
}

impl NormalizerSpec {
    pub fn adds_dummy_prefix(&self) -> bool {
        self.add_dummy_prefix.unwrap_or(true)
    }

    pub fn removes_extra_whitespaces(&self) -> bool {
        self.remove_extra_whitespaces.unwrap_or(true)
    }

    pub fn escapes_whitespaces(&self) -> bool {
        self.escape_whitespaces.unwrap_or(true)
    }

    pub fn has_charsmap(&self) -> bool {
        self.precompiled_charsmap.as_deref().is_some_and(|map| !map.is_empty())
    }
}

impl ModelProto {
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).context(|| format!("cannot read {}", path.display()))?;
        Self::decode(bytes.as_slice()).map_err(|error| {
            Error::invalid(format!("{} is not a SentencePiece model", path.display())).caused_by(error)
        })
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        files::write_atomic(path, &self.encode_to_vec()).context(|| format!("cannot write {}", path.display()))
    }

    pub fn trainer(&self) -> Result<TrainerSpec> {
        decode_spec(self.trainer_spec.as_deref())
    }

    pub fn normalizer(&self) -> Result<NormalizerSpec> {
        decode_spec(self.normalizer_spec.as_deref())
    }

    pub fn denormalizer(&self) -> Result<NormalizerSpec> {
        decode_spec(self.denormalizer_spec.as_deref())
    }

    /// The piece of every byte; `unknown` for bytes that have none.
    pub fn byte_ids(&self, unknown: u32) -> Box<[u32; 256]> {
        let mut ids = Box::new([unknown; 256]);
        for (id, piece) in (0..).zip(&self.pieces) {
            if piece.kind() == PieceKind::Byte
                && let Some(byte) = piece.byte()
            {
                ids[usize::from(byte)] = id;
            }
        }
        ids
    }

    /// The smallest score of any piece.
    pub fn minimum_score(&self) -> f32 {
        self.pieces.iter().map(Piece::rank_score).fold(0.0, f32::min)
    }
}

fn decode_spec<M: Message + Default>(bytes: Option<&[u8]>) -> Result<M> {
    M::decode(bytes.unwrap_or_default()).context(|| "a spec of the SentencePiece model is damaged".to_owned())
}
