//! bfloat16: float32 values rounded to it in place, and tensors of such values kept in half the memory.

use candle_core::{Shape, Tensor};
use rayon::prelude::*;

use super::{View, modify, tensor, vectorised};
use crate::error::Result;
use crate::weights::bf16_bits;

/// Values that one task takes.
const CHUNK: usize = 16 * 1024;

/// Rounds every value of a float32 tensor to the nearest of bfloat16, ties to even, in place.
pub fn round_to_bf16(x: &Tensor) -> Result<()> {
    modify(x, |values| {
        values.par_chunks_mut(CHUNK).for_each(|values| {
            vectorised(|| {
                for value in values {
                    *value = widen(bf16_bits(*value));
                }
            });
        });
    })
}

#[inline(always)]
fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// A tensor in bfloat16.
pub struct Half {
    bits: Vec<u16>,
    shape: Shape,
}

impl Half {
    /// Of a float32 tensor, rounded.
    pub fn of(x: &Tensor) -> Result<Self> {
        let values = View::of(x)?;
        let mut bits = vec![0; values.len()];
        bits.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK)).for_each(|(bits, values)| {
            vectorised(|| {
                for (bits, value) in bits.iter_mut().zip(values) {
                    *bits = bf16_bits(*value);
                }
            });
        });
        Ok(Self { bits, shape: x.shape().clone() })
    }

    /// Of a matrix's little-endian bytes.
    pub fn stored(bytes: &[u8], shape: impl Into<Shape>) -> Self {
        let (pairs, _) = bytes.as_chunks::<2>();
        Self { bits: pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect(), shape: shape.into() }
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The values from `start` on.
    pub fn widen_into(&self, start: usize, values: &mut [f32]) {
        let bits = &self.bits[start..start + values.len()];
        vectorised(|| {
            for (value, bits) in values.iter_mut().zip(bits) {
                *value = widen(*bits);
            }
        });
    }

    /// All values, in float32.
    pub fn widen(&self) -> Result<Tensor> {
        let mut values = vec![0.0; self.bits.len()];
        values.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| self.widen_into(chunk * CHUNK, values));
        tensor(values, self.shape.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ops::check::numbers;

    #[test]
    fn rounds_as_the_half_crate_does_and_keeps_what_is_rounded() {
        let mut values: Vec<f32> = numbers(40_000, 1).to_vec1().unwrap();
        // Ties, the largest values, infinities, NaN, subnormals.
        values.extend([
            1.0 + 1.0 / 256.0,
            1.0 + 3.0 / 256.0,
            f32::MAX,
            -f32::MAX,
            f32::INFINITY,
            -0.0,
            1e-40,
            f32::NAN,
        ]);
        let x = tensor(values.clone(), values.len()).unwrap();
        let half = Half::of(&x).unwrap();
        round_to_bf16(&x).unwrap();
        let (rounded, kept): (Vec<f32>, Vec<f32>) =
            (x.to_vec1().unwrap(), half.widen().unwrap().to_vec1().unwrap());
        for ((value, rounded), kept) in values.iter().zip(rounded).zip(kept) {
            let expected = half::bf16::from_f32(*value).to_f32();
            assert!(rounded.to_bits() == expected.to_bits() || value.is_nan() && rounded.is_nan(), "{value}");
            assert!(kept.to_bits() == rounded.to_bits());
        }
    }
}
