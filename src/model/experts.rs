//! The mixture-of-experts block of a layer: norm, router, and the experts on the tokens sent to them.

use candle_core::Tensor;

use super::attention::Place;
use super::linear::{Inner, Linear};
use super::ops::{self, Routing};
use super::parameter::{Gradients, Parameter};
use crate::error::Result;

pub(super) struct ExpertBlock {
    pub norm: Parameter,
    /// The router, [experts, width].
    pub gate: Linear,
    pub experts: Vec<Expert>,
    /// Experts per token.
    pub top: usize,
}

/// y = w2·(silu(w1·x) ∘ w3·x)
pub(super) struct Expert {
    pub w1: Linear,
    pub w2: Linear,
    pub w3: Linear,
}

/// What the forward pass leaves for the backward pass.
pub(super) struct Trace {
    normed: Tensor,
    gate_inner: Option<Tensor>,
    routing: Routing,
    /// Per expert; `None` if no token came.
    experts: Vec<Option<ExpertTrace>>,
    /// The experts' outputs, sorted by expert, [slots, width].
    outputs: Tensor,
}

struct ExpertTrace {
    x: Tensor,
    a: Tensor,
    b: Tensor,
    inner: [Option<Tensor>; 3],
}

impl ExpertBlock {
    /// x [n, width] plus the block's output.
    pub fn forward(&self, x: &Tensor, place: &Place) -> Result<(Tensor, Trace)> {
        let normed = ops::rms_norm(x, &self.norm.value, place.epsilon)?;
        let (logits, gate_inner) = self.gate.forward(&normed, place.pass)?;
        let routing = Routing::new(&logits, self.top)?;
        let outputs = ops::zeros((routing.token_of_row.len(), x.dim(1)?))?;
        let mut traces = Vec::new();
        for (index, expert) in self.experts.iter().enumerate() {
            let rows = routing.rows_of(index);
            if rows.is_empty() {
                traces.push(None);
                continue;
            }
            let output = outputs.narrow(0, rows.start, rows.len())?;
            let x = ops::gather_rows(&normed, &routing.token_of_row[rows])?;
            let (a, w1) = expert.w1.forward(&x, place.pass)?;
            let (b, w3) = expert.w3.forward(&x, place.pass)?;
            let w2 = expert.w2.forward_into(&ops::swiglu(&a, &b)?, place.pass, &output)?;
            traces.push(Some(ExpertTrace { x, a, b, inner: [w1, w2, w3] }));
        }
        let y = routing.combine(x, &outputs)?;
        Ok((y, Trace { normed, gate_inner, routing, experts: traces, outputs }))
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
        let Trace { normed, gate_inner, routing, experts, outputs } = trace;
        let (doutputs, dlogits) = routing.backward(&outputs, dx)?;
        let dnormed = ops::zeros(normed.shape())?;
        self.gate.backward((&normed, gate_inner.as_ref()), &dlogits, place.pass, gradients, &dnormed, false)?;
        for (index, (expert, trace)) in self.experts.iter().zip(experts).enumerate() {
            let Some(ExpertTrace { x, a, b, inner: [w1, w2, w3] }) = trace else { continue };
            let rows = routing.rows_of(index);
            let dy = doutputs.narrow(0, rows.start, rows.len())?;
            let dhidden = ops::zeros(a.shape())?;
            let dinner = expert.w2.backward_input(&dy, place.pass, &dhidden, false)?;
            // w2's own gradient needs its input again, which comes out of the same pass as the gradients of a and b.
            let (hidden, da, db) = ops::swiglu_backward(&a, &b, &dhidden)?;
            let inner = Inner { value: w2.as_ref(), gradient: dinner.as_ref() };
            expert.w2.backward_weights(&hidden, inner, &dy, place.pass, gradients)?;
            let dx = ops::zeros(x.shape())?;
            expert.w1.backward((&x, w1.as_ref()), &da, place.pass, gradients, &dx, false)?;
            expert.w3.backward((&x, w3.as_ref()), &db, place.pass, gradients, &dx, true)?;
            ops::add_rows(&dnormed, &routing.token_of_row[rows], &dx)?;
        }
        let weight = &self.norm;
        let dweight = ops::rms_norm_backward(x, &weight.value, place.epsilon, &dnormed, dx, weight.is_trained())?;
        dweight.map_or(Ok(()), |dweight| gradients.add(weight, &dweight))
    }
}
