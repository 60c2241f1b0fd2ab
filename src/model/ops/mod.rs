//! The arithmetic of the model, forward and backward, as fused loops over float32 slices of candle tensors.
//!
//! candle's fused operations have no backward pass and its automatic differentiation computes a dense gradient for
//! every frozen weight, so the model differentiates itself: each file here holds one operation and its derivative,
//! written out and checked against finite differences. Work is divided by the shape alone, never by the number of
//! threads, and every sum has a fixed order: the same inputs give the same bits on any number of threads.

mod attention;
mod bf16;
mod cross_entropy;
mod matmul;
mod noise;
mod norm;
mod rope;
mod router_losses;
mod routing;
mod rows;
mod swiglu;

pub use attention::{Attention, Shape as AttentionShape};
pub use bf16::{Half, round_to_bf16};
pub use cross_entropy::{IGNORED, Loss, LossFactors, cross_entropy};
pub use matmul::{Matrix, Panels, add_product, on_threads, product};
pub use noise::{Stream, dropout, dropout_add, uniform};
pub use norm::{rms_norm, rms_norm_backward};
pub use rope::Rope;
pub use router_losses::{RouterFactors, RouterLosses, RouterSums};
pub use routing::Routing;
pub use rows::{add_rows, gather_rows};
pub use swiglu::{swiglu, swiglu_backward};

use std::cell::Cell;
use std::ops::{Deref, Range};

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Storage, StorageRef, Tensor};
use rayon::prelude::*;

use crate::error::{Error, Result};

/// A contiguous float32 tensor in main memory, read as a slice.
pub struct View<'a> {
    storage: StorageRef<'a>,
    range: Range<usize>,
}

impl<'a> View<'a> {
    /// Fails if the tensor is of another type, lies on another device, or is strided.
    pub fn of(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let Some((start, end)) = layout.contiguous_offsets() else {
            return Err(Error::new(format!("a kernel was given a strided tensor of shape {:?}", layout.shape())));
        };
        match &*storage {
            Storage::Cpu(CpuStorage::F32(_)) => Ok(Self { storage, range: start..end }),
            _ => Err(Error::new("a kernel was given a tensor that is not float32 in main memory")),
        }
    }
}

impl Deref for View<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            _ => unreachable!("checked when the view was made"),
        }
    }
}

/// Lets `change` alter the values of a contiguous float32 tensor in place; every tensor that shares its storage sees it.
pub fn modify(tensor: &Tensor, change: impl FnOnce(&mut [f32])) -> Result<()> {
    struct Modify<F>(Cell<Option<F>>);
    impl<F: FnOnce(&mut [f32])> InplaceOp1 for Modify<F> {
        fn name(&self) -> &'static str {
            "modify"
        }
        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
            match (storage, layout.contiguous_offsets(), self.0.take()) {
                (CpuStorage::F32(values), Some((start, end)), Some(change)) => {
                    change(&mut values[start..end]);
                    Ok(())
                }
                _ => candle_core::bail!("only a contiguous float32 tensor can be changed in place"),
            }
        }
    }
    Ok(tensor.inplace_op1(&Modify(Cell::new(Some(change))))?)
}

/// A tensor of these values, which are moved, not copied.
pub fn tensor(values: Vec<f32>, shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
    Ok(Tensor::from_vec(values, shape.into(), &Device::Cpu)?)
}

/// A tensor of zeros.
pub fn zeros(shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
    let shape = shape.into();
    tensor(vec![0.0; shape.elem_count()], shape)
}

/// `a` += `b`, in place.
pub fn add(a: &Tensor, b: &Tensor) -> Result<()> {
    const CHUNK: usize = 16 * 1024;
    let b = View::of(b)?;
    modify(a, |a| {
        a.par_chunks_mut(CHUNK).zip(b.par_chunks(CHUNK)).for_each(|(a, b)| {
            vectorised(|| {
                for (a, b) in a.iter_mut().zip(b) {
                    *a += b;
                }
            });
        });
    })
}

/// Runs a loop in the widest form that the processor has: compiled for AVX-512, for AVX2, or as it is. No reassociation,
/// no fused multiply-add: the bits are those of the plain form.
#[inline(always)]
pub fn vectorised<R>(body: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        fn widest<R>(body: impl FnOnce() -> R) -> R {
            body()
        }
        #[target_feature(enable = "avx2")]
        fn wide<R>(body: impl FnOnce() -> R) -> R {
            body()
        }
        if std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512dq")
            && std::arch::is_x86_feature_detected!("avx512vl")
        {
            // SAFETY: the lines above found the features that `widest` is compiled for.
            return unsafe { widest(body) };
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the line above found the feature that `wide` is compiled for.
            return unsafe { wide(body) };
        }
    }
    body()
}

/// The sum of `term(i)` over `0..count`, in sixteen interleaved partial sums that are added in a fixed order.
#[inline(always)]
fn sum(count: usize, term: impl Fn(usize) -> f32) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [0f32; LANES];
    let whole = count / LANES * LANES;
    let mut start = 0;
    while start < whole {
        for (lane, total) in lanes.iter_mut().enumerate() {
            *total += term(start + lane);
        }
        start += LANES;
    }
    for (lane, index) in (whole..count).enumerate() {
        lanes[lane] += term(index);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Σ values².
pub fn square_sum(values: &[f32]) -> f32 {
    vectorised(|| dot(values, values))
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let count = a.len().min(b.len());
    let (a, b) = (&a[..count], &b[..count]);
    sum(count, |i| a[i] * b[i])
}

/// The largest value; NaN if one is NaN.
#[inline(always)]
fn maximum(values: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [f32::NEG_INFINITY; LANES];
    // `a > b` is false for a NaN `b`, so a NaN enters here and stays.
    let larger = |a: f32, b: f32| if a > b || a.is_nan() { a } else { b };
    let mut chunks = values.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, *value);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane = larger(*lane, *value);
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, larger)
}

/// eˣ within 2 ulp for x in [-87, 88], saturating outside; NaN stays NaN. Cephes' `expf` without branches, so that
/// loops over it become vector code and its bits do not depend on the C library.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Adding 1.5·2²³ rounds to the nearest integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let mantissa = p * (r * r) + r + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    mantissa * f32::from_bits(exponent)
}

#[cfg(test)]
pub mod check;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulp() {
        for i in -8700..8800 {
            let x = i as f32 / 100.0;
            let exact = (x as f64).exp();
            assert!((exp(x) as f64 / exact - 1.0).abs() < 2.4e-7, "exp({x}) = {} not {exact}", exp(x));
        }
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(-1000.0) < 1e-37 && exp(0.0) == 1.0);
    }

    #[test]
    fn sums_and_maxima_of_every_length() {
        for count in 0..70 {
            let values: Vec<f32> = (0..count).map(|i| ((i * 7919) % 31) as f32 - 15.0).collect();
            assert_eq!(sum(count, |i| values[i]), values.iter().sum::<f32>());
            assert_eq!(maximum(&values), values.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
        let mut values = vec![1.0; 40];
        values[33] = f32::NAN;
        assert!(maximum(&values).is_nan());
    }
}
