//! RMSNorm: y = w · x / √(mean(x²) + ε), row by row.

use candle_core::Tensor;
use rayon::prelude::*;

use super::{View, dot, modify, sum, tensor, vectorised};
use crate::error::Result;

/// Rows that one task takes, and whose part of the weight's gradient is summed before the parts are.
const ROWS: usize = 64;

fn inverse_rms(x: &[f32], epsilon: f32) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + epsilon).sqrt()
}

/// y [rows, width] of x [rows, width] and w [width].
pub fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f32) -> Result<Tensor> {
    let width = weight.elem_count();
    let (xs, w) = (View::of(x)?, View::of(weight)?);
    let mut y = vec![0f32; xs.len()];
    y.par_chunks_mut(ROWS * width).zip(xs.par_chunks(ROWS * width)).for_each(|(y, x)| {
        vectorised(|| {
            for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                let scale = inverse_rms(x, epsilon);
                for ((y, x), w) in y.iter_mut().zip(x).zip(&w[..]) {
                    *y = w * (x * scale);
                }
            }
        });
    });
    tensor(y, x.shape())
}

/// Adds to `dx` [rows, width] the gradient that reaches x through y, given `dy`; returns the weight's gradient [width]
/// if `wants_weight`.
///
/// With s = 1/√(mean(x²) + ε) and n the width: dx = s·(w·dy) − x·s³/n·Σ w·dy·x, and dw = Σ over rows of dy·x·s.
pub fn rms_norm_backward(
    x: &Tensor,
    weight: &Tensor,
    epsilon: f32,
    dy: &Tensor,
    dx: &Tensor,
    wants_weight: bool,
) -> Result<Option<Tensor>> {
    let width = weight.elem_count();
    let (xs, w, dys) = (View::of(x)?, View::of(weight)?, View::of(dy)?);
    modify(dx, |dx| {
        dx.par_chunks_mut(ROWS * width)
            .zip(xs.par_chunks(ROWS * width))
            .zip(dys.par_chunks(ROWS * width))
            .for_each(|((dx, x), dy)| {
                vectorised(|| {
                    let rows = dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(dy.chunks_exact(width));
                    for ((dx, x), dy) in rows {
                        let scale = inverse_rms(x, epsilon);
                        let w = &w[..width];
                        let along = sum(width, |i| w[i] * dy[i] * x[i]) * scale * scale * scale / width as f32;
                        for i in 0..width {
                            dx[i] += scale * (w[i] * dy[i]) - along * x[i];
                        }
                    }
                });
            });
    })?;
    if !wants_weight {
        return Ok(None);
    }
    let parts: Vec<Vec<f32>> = xs
        .par_chunks(ROWS * width)
        .zip(dys.par_chunks(ROWS * width))
        .map(|(x, dy)| {
            let mut part = vec![0f32; width];
            vectorised(|| {
                for (x, dy) in x.chunks_exact(width).zip(dy.chunks_exact(width)) {
                    let scale = inverse_rms(x, epsilon);
                    for ((part, x), dy) in part.iter_mut().zip(x).zip(dy) {
                        *part += dy * (x * scale);
                    }
                }
            });
            part
        })
        .collect();
    let mut dw = vec![0f32; width];
    for part in parts {
        for (dw, part) in dw.iter_mut().zip(part) {
            *dw += part;
        }
    }
    Ok(Some(tensor(dw, width)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ops::check::{gradient, inner, numbers, zeros};

    #[test]
    fn gradients() {
        let (x, w, dy) = (numbers((70, 12), 1), numbers(12, 2), numbers((70, 12), 3));
        let dx = zeros((70, 12));
        let dw = rms_norm_backward(&x, &w, 1e-5, &dy, &dx, true).unwrap().unwrap();
        gradient("x", &x, &dx, |x| inner(&rms_norm(x, &w, 1e-5).unwrap(), &dy));
        gradient("w", &w, &dw, |w| inner(&rms_norm(&x, w, 1e-5).unwrap(), &dy));
    }
}
