//! SwiGLU: y = silu(a) · b with silu(a) = a / (1 + e⁻ᵃ).

use candle_core::Tensor;
use rayon::prelude::*;

use super::{View, exp, tensor, vectorised};
use crate::error::Result;

/// Values that one task takes.
const CHUNK: usize = 16 * 1024;

#[inline(always)]
fn sigmoid(a: f32) -> f32 {
    1.0 / (1.0 + exp(-a))
}

/// y of a and b, all of one shape.
pub fn swiglu(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (av, bv) = (View::of(a)?, View::of(b)?);
    let mut y = vec![0f32; av.len()];
    y.par_chunks_mut(CHUNK).zip(av.par_chunks(CHUNK)).zip(bv.par_chunks(CHUNK)).for_each(|((y, a), b)| {
        vectorised(|| {
            for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
                *y = a * sigmoid(a) * b;
            }
        });
    });
    tensor(y, a.shape())
}

/// (y, da, db) of a, b and dy: the value again, which the next weight's gradient needs, and both gradients, in one pass.
///
/// With σ = sigmoid(a): da = dy·b·σ·(1 + a·(1 − σ)), db = dy·a·σ.
pub fn swiglu_backward(a: &Tensor, b: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
    let (av, bv, dyv) = (View::of(a)?, View::of(b)?, View::of(dy)?);
    let count = av.len();
    let (mut y, mut da, mut db) = (vec![0f32; count], vec![0f32; count], vec![0f32; count]);
    y.par_chunks_mut(CHUNK)
        .zip(da.par_chunks_mut(CHUNK))
        .zip(db.par_chunks_mut(CHUNK))
        .zip(av.par_chunks(CHUNK))
        .zip(bv.par_chunks(CHUNK))
        .zip(dyv.par_chunks(CHUNK))
        .for_each(|(((((y, da), db), a), b), dy)| {
            vectorised(|| {
                let count = y.len();
                let (da, db, a, b, dy) =
                    (&mut da[..count], &mut db[..count], &a[..count], &b[..count], &dy[..count]);
                for i in 0..count {
                    let sigma = sigmoid(a[i]);
                    let silu = a[i] * sigma;
                    y[i] = silu * b[i];
                    da[i] = dy[i] * b[i] * (sigma + silu * (1.0 - sigma));
                    db[i] = dy[i] * silu;
                }
            });
        });
    Ok((tensor(y, a.shape())?, tensor(da, a.shape())?, tensor(db, a.shape())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ops::check::{gradient, inner, numbers};

    #[test]
    fn gradients() {
        let (a, b, dy) = (numbers((9, 7), 1), numbers((9, 7), 2), numbers((9, 7), 3));
        let (y, da, db) = swiglu_backward(&a, &b, &dy).unwrap();
        let again = swiglu(&a, &b).unwrap();
        assert_eq!(y.to_vec2::<f32>().unwrap(), again.to_vec2::<f32>().unwrap());
        gradient("a", &a, &da, |a| inner(&swiglu(a, &b).unwrap(), &dy));
        gradient("b", &b, &db, |b| inner(&swiglu(&a, b).unwrap(), &dy));
    }
}
