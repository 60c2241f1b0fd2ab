//! Frozen weights as 4-bit NormalFloat, made whole again for every use.

use candle_core::Tensor;

use super::ops::{self, Panels, View};
use crate::error::Result;
use crate::weights::Float;
use crate::weights::nf4::{Matrix, Packing};

/// A matrix of 4-bit codes, two in a byte, with a scale for every block of values.
pub struct Nf4(Matrix);

impl Nf4 {
    /// Packs a float32 matrix in blocks of 64, as bitsandbytes does by default.
    pub fn quantise(matrix: &Tensor) -> Result<Self> {
        let shape = matrix.dims2()?;
        let values = View::of(matrix)?;
        // The lock on a tensor's storage is not shared between threads; the slice behind it is.
        let values: &[f32] = &values;
        let packed = Matrix::pack(shape, Float::F32, Packing::DEFAULT, |range, part| {
            part.copy_from_slice(&values[range]);
        })?;
        Ok(Self(packed))
    }

    /// The matrix again, in float32: codebook value times the block's scale.
    pub fn dequantise(&self) -> Result<Tensor> {
        ops::tensor(self.0.unpack_all(), self.0.shape())
    }
}

impl Panels for Nf4 {
    fn shape(&self) -> (usize, usize) {
        self.0.shape()
    }

    fn widen_into(&self, start: usize, values: &mut [f32]) {
        self.0.unpack(start..start + values.len(), values);
    }
}

impl From<Matrix> for Nf4 {
    fn from(matrix: Matrix) -> Self {
        Self(matrix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ops::check::numbers;

    #[test]
    fn a_matrix_comes_back_within_the_widest_step() {
        let matrix = numbers((5, 77), 3);
        let again = Nf4::quantise(&matrix).unwrap().dequantise().unwrap();
        assert_eq!(again.dims(), [5, 77]);
        let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (before, after) in flat(&matrix).chunks(64).zip(flat(&again).chunks(64)) {
            let absmax = before.iter().fold(0f32, |largest, value| largest.max(value.abs()));
            // The sixteen values are at most 0.304 apart.
            assert!(before.iter().zip(after).all(|(a, b)| (a - b).abs() <= 0.152 * absmax));
        }
    }
}
