//! The attention block of a layer: norm, projections, rotation, attention, output projection.

use candle_core::Tensor;

use super::linear::{Linear, Pass};
use super::ops::{self, Attention, AttentionShape, Rope};
use super::parameter::{Gradients, Parameter};
use super::precision::{Kept, Precision};
use crate::error::Result;

pub(super) struct AttentionBlock {
    pub norm: Parameter,
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    pub o: Linear,
}

/// Where a block's tokens stand, the same for every layer.
pub(super) struct Place<'a> {
    pub shape: AttentionShape,
    /// As [`super::Batch::documents`].
    pub documents: Option<&'a [u32]>,
    pub rope: &'a Rope,
    pub epsilon: f32,
    /// `None` outside training: nothing is dropped.
    pub pass: Option<Pass>,
    pub precision: Precision,
}

/// Keys and values of the positions before, of one layer and one sequence.
#[derive(Default)]
pub(super) struct Cache {
    /// [positions, kv_heads · width], rotated.
    keys: Option<Tensor>,
    values: Option<Tensor>,
}

/// What the forward pass leaves for the backward pass.
pub(super) struct Trace {
    q: Kept,
    k: Kept,
    v: Kept,
    output: Kept,
    log_sums: Vec<f32>,
    inner: [Option<Tensor>; 4],
}

impl AttentionBlock {
    /// x [n, width] plus the block's output.
    pub fn forward(&self, x: &Tensor, place: &Place, cache: Option<&mut Cache>) -> Result<(Tensor, Trace)> {
        let normed = self.normed(x, place)?;
        let (q, q_inner) = self.q.forward(&normed, place.pass)?;
        let (mut k, k_inner) = self.k.forward(&normed, place.pass)?;
        let (mut v, v_inner) = self.v.forward(&normed, place.pass)?;
        place.rope.rotate(&q, false)?;
        place.rope.rotate(&k, false)?;
        drop(normed);
        let precision = place.precision;
        let q = precision.rounded(q)?;
        (k, v) = (precision.rounded(k)?, precision.rounded(v)?);
        if let Some(cache) = cache {
            for (held, new) in [(&mut cache.keys, &mut k), (&mut cache.values, &mut v)] {
                if let Some(before) = held {
                    *new = Tensor::cat(&[&*before, &*new], 0)?;
                }
                *held = Some(new.clone());
            }
        }
        let Attention { output, log_sums } = Attention::forward(place.shape, place.documents, &q, &k, &v)?;
        let output = precision.rounded(output)?;
        let (y, o_inner) = self.o.forward(&output, place.pass)?;
        ops::add(&y, x)?;
        let y = precision.rounded(y)?;
        let inner = [q_inner, k_inner, v_inner, o_inner];
        let [q, k, v, output] =
            [precision.keep(q)?, precision.keep(k)?, precision.keep(v)?, precision.keep(output)?];
        Ok((y, Trace { q, k, v, output, log_sums, inner }))
    }

    /// Adds the gradient that reaches x through the block to `dx`, which holds the gradient of the output, as the
    /// residual passes it on.
    pub fn backward(
        &self,
        x: &Tensor,
        trace: Trace,
        place: &Place,
        gradients: &Gradients,
        dx: &Tensor,
    ) -> Result<()> {
        let Trace { q, k, v, output, log_sums, inner: [q_inner, k_inner, v_inner, o_inner] } = trace;
        let attention = Attention { output: output.restore()?, log_sums };
        let dattention = ops::zeros(attention.output.shape())?;
        let output = &attention.output;
        self.o.backward((output, o_inner.as_ref()), dx, place.pass, gradients, &dattention, false)?;
        let (q, k, v) = (q.restore()?, k.restore()?, v.restore()?);
        let (dq, dk, dv) = attention.backward(place.shape, place.documents, &q, &k, &v, &dattention)?;
        drop((attention, dattention, q, k, v));
        place.rope.rotate(&dq, true)?;
        place.rope.rotate(&dk, true)?;
        let normed = self.normed(x, place)?;
        let dnormed = ops::zeros(normed.shape())?;
        self.q.backward((&normed, q_inner.as_ref()), &dq, place.pass, gradients, &dnormed, false)?;
        self.k.backward((&normed, k_inner.as_ref()), &dk, place.pass, gradients, &dnormed, true)?;
        self.v.backward((&normed, v_inner.as_ref()), &dv, place.pass, gradients, &dnormed, true)?;
        let weight = &self.norm;
        let dweight = ops::rms_norm_backward(x, &weight.value, place.epsilon, &dnormed, dx, weight.is_trained())?;
        dweight.map_or(Ok(()), |dweight| gradients.add(weight, &dweight))
    }

    fn normed(&self, x: &Tensor, place: &Place) -> Result<Tensor> {
        place.precision.rounded(ops::rms_norm(x, &self.norm.value, place.epsilon)?)
    }
}
