//! Rotary position embedding, with the halves of each head rotated against each other (the Hugging Face layout).

use candle_core::Tensor;
use rayon::prelude::*;

use super::{modify, vectorised};
use crate::error::Result;

/// Rows that one task takes.
const ROWS: usize = 64;

/// The angles of a run of positions.
pub struct Rope {
    /// cos and sin, [length, head width / 2] each.
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
    length: usize,
}

impl Rope {
    /// Angles of a run of positions for heads of `width` values: position · θ^(−2i/width), in float32 as the reference
    /// computes them.
    pub fn new(theta: f64, width: usize, positions: impl ExactSizeIterator<Item = usize>) -> Self {
        let half = width / 2;
        let inverse: Vec<f32> =
            (0..half).map(|i| 1.0 / (theta.powf((2 * i) as f64 / width as f64) as f32)).collect();
        let length = positions.len();
        let mut cos = Vec::with_capacity(length * half);
        let mut sin = Vec::with_capacity(length * half);
        for position in positions {
            for &frequency in &inverse {
                let angle = f64::from(position as f32 * frequency);
                cos.push(angle.cos() as f32);
                sin.push(angle.sin() as f32);
            }
        }
        Self { cos, sin, half, length }
    }

    /// Rotates, in place, every head of x [sequences · length, heads · width] by the angle of its position;
    /// `backward` turns it the other way, which is the derivative.
    pub fn rotate(&self, x: &Tensor, backward: bool) -> Result<()> {
        let (_, row) = x.dims2()?;
        let (half, length) = (self.half, self.length);
        let sign = if backward { -1.0 } else { 1.0 };
        modify(x, |values| {
            values.par_chunks_mut(ROWS * row).enumerate().for_each(|(chunk, values)| {
                vectorised(|| {
                    for (index, values) in (chunk * ROWS..).zip(values.chunks_exact_mut(row)) {
                        let position = index % length;
                        let cos = &self.cos[position * half..(position + 1) * half];
                        let sin = &self.sin[position * half..(position + 1) * half];
                        for head in values.chunks_exact_mut(2 * half) {
                            let (first, second) = head.split_at_mut(half);
                            for i in 0..half {
                                let (a, b, s) = (first[i], second[i], sign * sin[i]);
                                first[i] = a * cos[i] - b * s;
                                second[i] = b * cos[i] + a * s;
                            }
                        }
                    }
                });
            });
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ops::check::{gradient, inner, numbers};

    #[test]
    fn gradients() {
        let (x, dy) = (numbers((6, 8), 1), numbers((6, 8), 2));
        let rope = Rope::new(100.0, 4, 5..8);
        let forward = |x: &Tensor| {
            let y = x.copy().unwrap();
            rope.rotate(&y, false).unwrap();
            y
        };
        let dx = dy.copy().unwrap();
        rope.rotate(&dx, true).unwrap();
        gradient("x", &x, &dx, |x| inner(&forward(x), &dy));
    }
}
