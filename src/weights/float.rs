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

    /// The name that torch has for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::BF16 => "bfloat16",
            Self::F16 => "float16",
        }
    }

    /// The type that torch calls so.
    pub fn named(name: &str) -> Option<Self> {
        [Self::F32, Self::BF16, Self::F16].into_iter().find(|float| float.name() == name)
    }

    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::BF16 | Self::F16 => 2,
        }
    }

    /// Rounds to the nearest value of the type, ties to even.
    #[inline(always)]
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::BF16 => f32::from_bits(u32::from(bf16_bits(value)) << 16),
            Self::F16 => f16::from_f32(value).to_f32(),
        }
    }

    /// The values of little-endian `bytes`; exact.
    pub fn widen(self, bytes: &[u8]) -> Vec<f32> {
        let mut values = vec![0.0; bytes.len() / self.bytes()];
        self.widen_into(bytes, &mut values);
        values
    }

    /// The same, into a slice of as many values.
    pub fn widen_into(self, bytes: &[u8], values: &mut [f32]) {
        match self {
            Self::F32 => fill(values, bytes, f32::from_le_bytes),
            Self::BF16 => fill(values, bytes, |b| bf16::from_le_bytes(b).to_f32()),
            Self::F16 => fill(values, bytes, |b| f16::from_le_bytes(b).to_f32()),
        }
    }

    /// The values, rounded to the nearest of the type, as little-endian bytes.
    pub fn narrow(self, values: &[f32]) -> Vec<u8> {
        let mut bytes = vec![0; values.len() * self.bytes()];
        self.narrow_into(values, &mut bytes);
        bytes
    }

    /// The same, into a slice as long as they are.
    pub fn narrow_into(self, values: &[f32], bytes: &mut [u8]) {
        match self {
            Self::F32 => pour(values, bytes, f32::to_le_bytes),
            Self::BF16 => pour(values, bytes, |value| bf16_bits(value).to_le_bytes()),
            Self::F16 => pour(values, bytes, |value| f16::from_f32(value).to_le_bytes()),
        }
    }
}

/// The bits of the nearest bfloat16, ties to even; those of `half`, without its branches, so that loops over it become
/// vector code.
#[inline(always)]
pub fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let quiet = bits >> 16 | 0x40;
    (if value.is_nan() { quiet } else { rounded }) as u16
}

fn fill<const N: usize>(values: &mut [f32], bytes: &[u8], read: impl Fn([u8; N]) -> f32) {
    for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *value = read(*bytes);
    }
}

fn pour<const N: usize>(values: &[f32], bytes: &mut [u8], write: impl Fn(f32) -> [u8; N]) {
    for (value, bytes) in values.iter().zip(bytes.as_chunks_mut::<N>().0) {
        *bytes = write(*value);
    }
}

/// A float as Python's `repr` prints it: `1e-05`, `0.02`, `1000000.0`.
pub fn python_float(value: f64) -> String {
    let text = format!("{value:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        small @ ..-4 => format!("{digits}e-{:02}", -small),
        large @ 16.. => format!("{digits}e+{large:02}"),
        _ => format!("{value:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        let cases = [
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e-4, "0.0001"),
            (0.02, "0.02"),
            (0.0, "0.0"),
            (1e6, "1000000.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1e-300, "1e-300"),
        ];
        for (value, text) in cases {
            assert_eq!(python_float(value), text);
        }
    }

    #[test]
    fn bfloat16_is_rounded_as_half_rounds_it() {
        // Every bfloat16, and around it all that decides the rounding.
        for high in 0..=u16::MAX {
            for low in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let value = f32::from_bits(u32::from(high) << 16 | low);
                assert_eq!(bf16_bits(value), bf16::from_f32(value).to_bits(), "{value}");
            }
        }
        assert_eq!(Float::BF16.round(1.0 + 1.0 / 256.0), 1.0);
        assert_eq!(Float::BF16.narrow(&[1.0, -2.5]), [0x80, 0x3f, 0x20, 0xc0]);
    }
}
