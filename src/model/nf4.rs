//! Frozen weights as 4-bit NormalFloat (Dettmers et al. 2023), with bitsandbytes' codebook, rounding and packing.

use candle_core::Tensor;
use rayon::prelude::*;

use super::ops::{self, View};
use crate::error::Result;

/// Values that share one scale.
const BLOCK: usize = 64;
/// Blocks that one task takes.
const BLOCKS: usize = 256;

/// The sixteen values; bitsandbytes' `get_4bit_type("nf4")`.
const CODEBOOK: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The midpoints between neighbours: a value strictly above one takes the higher code.
const MIDPOINTS: [f32; 15] = [
    -0.848_096_4,
    -0.610_632_9,
    -0.459_995_27,
    -0.339_679_43,
    -0.234_607_4,
    -0.137_911_73,
    -0.045_525_018,
    0.039_790_15,
    0.120_255_25,
    0.203_521_25,
    0.292_013_77,
    0.389_312_53,
    0.501_663_4,
    0.642_786_9,
    0.861_478_4,
];

/// A matrix of 4-bit codes, two in a byte, with one float32 scale for every 64 values.
pub struct Nf4 {
    /// The earlier value of a pair is in the high half.
    codes: Vec<u8>,
    /// The largest magnitude of each block.
    absmax: Vec<f32>,
    shape: (usize, usize),
}

impl Nf4 {
    /// Quantises a float32 matrix, row-major, in blocks of 64 (the last may be shorter). A block of zeros stays zero.
    pub fn quantise(matrix: &Tensor) -> Result<Self> {
        let shape = matrix.dims2()?;
        let values = View::of(matrix)?;
        let blocks: Vec<(Vec<u8>, f32)> = values
            .par_chunks(BLOCK)
            .map(|block| {
                let absmax = block.iter().fold(0f32, |largest, value| largest.max(value.abs()));
                // By the reciprocal, as bitsandbytes: division would round otherwise.
                let inverse = if absmax > 0.0 { 1.0 / absmax } else { 0.0 };
                let code =
                    |value: f32| MIDPOINTS.iter().filter(|midpoint| value * inverse > **midpoint).count() as u8;
                let pack = |pair: &[f32]| code(pair[0]) << 4 | pair.get(1).map_or(0, |value| code(*value));
                (block.chunks(2).map(pack).collect(), absmax)
            })
            .collect();
        let absmax = blocks.iter().map(|(_, absmax)| *absmax).collect();
        let codes = blocks.into_iter().flat_map(|(codes, _)| codes).collect();
        Ok(Self { codes, absmax, shape })
    }

    pub fn shape(&self) -> (usize, usize) {
        self.shape
    }

    /// The matrix again: codebook value times the block's scale.
    pub fn dequantise(&self) -> Result<Tensor> {
        let (rows, columns) = self.shape;
        let mut values = vec![0f32; rows * columns];
        values
            .par_chunks_mut(BLOCK * BLOCKS)
            .zip(self.codes.par_chunks(BLOCK * BLOCKS / 2))
            .zip(self.absmax.par_chunks(BLOCKS))
            .for_each(|((values, codes), absmax)| {
                ops::vectorised(|| {
                    let blocks = values.chunks_mut(BLOCK).zip(codes.chunks(BLOCK / 2)).zip(absmax);
                    for ((values, codes), absmax) in blocks {
                        for (pair, code) in values.chunks_mut(2).zip(codes) {
                            pair[0] = CODEBOOK[usize::from(code >> 4)] * absmax;
                            if let Some(second) = pair.get_mut(1) {
                                *second = CODEBOOK[usize::from(code & 15)] * absmax;
                            }
                        }
                    }
                });
            });
        ops::tensor(values, self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ops::check::numbers;

    #[test]
    fn the_codebook_survives_and_the_midpoints_are_its_own() {
        let mut values = CODEBOOK.to_vec();
        values.extend([0.0; 48]);
        values.extend([0.0; 64]);
        values.extend([-2.0, 1.0, 0.5]);
        let matrix = ops::tensor(values.clone(), (1, values.len())).unwrap();
        let packed = Nf4::quantise(&matrix).unwrap();
        assert_eq!(packed.codes[..8], [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]);
        assert_eq!(packed.absmax, [1.0, 0.0, 2.0]);
        let again = packed.dequantise().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(again[..128], values[..128]);
        assert_eq!(again[128..], [-2.0, 2.0 * CODEBOOK[12], 2.0 * CODEBOOK[10]]);
        for (midpoint, pair) in MIDPOINTS.iter().zip(CODEBOOK.windows(2)) {
            assert!((midpoint - (pair[0] + pair[1]) / 2.0).abs() < 1e-6);
        }
    }

    #[test]
    fn rounds_to_the_nearest() {
        let matrix = numbers((5, 77), 3);
        let packed = Nf4::quantise(&matrix).unwrap().dequantise().unwrap();
        let (matrix, packed) = (matrix.flatten_all().unwrap(), packed.flatten_all().unwrap());
        let (a, b) = (matrix.to_vec1::<f32>().unwrap(), packed.to_vec1::<f32>().unwrap());
        for (a, b) in a.chunks(BLOCK).zip(b.chunks(BLOCK)) {
            let absmax = a.iter().fold(0f32, |m, v| m.max(v.abs()));
            for (a, b) in a.iter().zip(b) {
                let nearest = CODEBOOK.iter().map(|c| (c * absmax - a).abs()).fold(f32::MAX, f32::min);
                assert!(((a - b).abs() - nearest).abs() < 1e-6);
            }
        }
    }
}
