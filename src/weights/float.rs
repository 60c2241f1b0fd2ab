//! The floating-point types of weights, their bytes, and their rounding.

use half::{bf16, f16};
use safetensors::Dtype;

/// A type that weights are computed on; everything is widened to `f32` first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float {
    F32,
    BF16,
    F16,
}

impl Float {
    /// `None` for integers, 8-bit floats and packed types, on which no arithmetic is done here.
    pub fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32),
            Dtype::BF16 => Some(Self::BF16),
            Dtype::F16 => Some(Self::F16),
            _ => None,
        }
    }

    pub fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::BF16 => Dtype::BF16,
            Self::F16 => Dtype::F16,
        }
    }

    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::BF16 | Self::F16 => 2,
        }
    }

    /// Rounds to the nearest value of the type, ties to even.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::BF16 => bf16::from_f32(value).to_f32(),
            Self::F16 => f16::from_f32(value).to_f32(),
        }
    }

    /// The values of little-endian `bytes`; exact.
    pub fn widen(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => elements(bytes, f32::from_le_bytes),
            Self::BF16 => elements(bytes, |b| bf16::from_le_bytes(b).to_f32()),
            Self::F16 => elements(bytes, |b| f16::from_le_bytes(b).to_f32()),
        }
    }

    /// The values, rounded to the nearest of the type, as little-endian bytes.
    pub fn narrow(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::BF16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
            Self::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
        }
    }
}

fn elements<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(|&chunk| read(chunk)).collect()
}
