//! The attention block of a layer: norm, projections, rotation, attention, output projection.

use candle_core::Tensor;

use super::linear::{Linear, Pass};
use super::ops::{self, Attention, AttentionShape, Rope};
use super::parameter::{Gradients, Parameter};
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
    normed: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attention: Attention,
    inner: [Option<Tensor>; 4],
}

impl AttentionBlock {
    /// x [n, width] plus the block's output.
    pub fn forward(&self, x: &Tensor, place: &Place, cache: Option<&mut Cache>) -> Result<(Tensor, Trace)> {
        let normed = ops::rms_norm(x, &self.norm.value, place.epsilon)?;
        let (q, q_inner) = self.q.forward(&normed, place.pass)?;
        let (mut k, k_inner) = self.k.forward(&normed, place.pass)?;
        let (mut v, v_inner) = self.v.forward(&normed, place.pass)?;
        place.rope.rotate(&q, false)?;
        place.rope.rotate(&k, false)?;
        if let Some(cache) = cache {
            for (held, new) in [(&mut cache.keys, &mut k), (&mut cache.values, &mut v)] {
                if let Some(before) = held {
                    *new = Tensor::cat(&[&*before, &*new], 0)?;
                }
                *held = Some(new.clone());
            }
        }
        let attention = Attention::forward(place.shape, place.documents, &q, &k, &v)?;
        let (y, o_inner) = self.o.forward(&attention.output, place.pass)?;
        ops::add(&y, x)?;
        Ok((y, Trace { normed, q, k, v, attention, inner: [q_inner, k_inner, v_inner, o_inner] }))
    }

    /// Adds the gradient that reaches x through the block to `dx`, which holds the gradient of the output, as the
    /// residual passes it on.
    pub fn backward(
        &self,
        x: &Tensor,
        trace: Trace,
        place: &Place,
        gradients: &mut Gradients,
        dx: &Tensor,
    ) -> Result<()> {
        let Trace { normed, q, k, v, attention, inner: [q_inner, k_inner, v_inner, o_inner] } = trace;
        let dattention = ops::zeros(attention.output.shape())?;
        let output = &attention.output;
        self.o.backward((output, o_inner.as_ref()), dx, place.pass, gradients, &dattention, false)?;
        let (dq, dk, dv) = attention.backward(place.shape, place.documents, &q, &k, &v, &dattention)?;
        place.rope.rotate(&dq, true)?;
        place.rope.rotate(&dk, true)?;
        let dnormed = ops::zeros(normed.shape())?;
        self.q.backward((&normed, q_inner.as_ref()), &dq, place.pass, gradients, &dnormed, false)?;
        self.k.backward((&normed, k_inner.as_ref()), &dk, place.pass, gradients, &dnormed, true)?;
        self.v.backward((&normed, v_inner.as_ref()), &dv, place.pass, gradients, &dnormed, true)?;
        let weight = &self.norm;
        let dweight = ops::rms_norm_backward(x, &weight.value, place.epsilon, &dnormed, dx, weight.is_trained())?;
        dweight.map_or(Ok(()), |dweight| gradients.add(weight, &dweight))
    }
}
