//! What the fuzz targets (`fuzz/`) reach and nobody else outside: compiled for them only.

pub use crate::corpus::document::check;
pub use crate::hub::names::{check_file, of_url};
pub use crate::tokenizer::proto::{MODEL_TYPE_BPE, Piece, PieceKind, TrainerSpec, byte_piece};
