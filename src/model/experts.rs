//! The mixture-of-experts block of a layer: norm, router, and the experts on the tokens sent to them.

use std::sync::{Mutex, PoisonError};

use candle_core::Tensor;
use rayon::prelude::*;

use super::attention::Place;
use super::linear::{Inner, Linear};
use super::ops::{self, RouterFactors, Routing};
use super::parameter::{Gradients, Parameter};
use super::precision::Kept;
use crate::error::{Error, Result};

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
    gate_inner: Option<Tensor>,
    routing: Routing,
    /// Per expert; `None` if no token came.
    experts: Vec<Option<ExpertTrace>>,
    /// The experts' outputs, per expert, [rows, width].
    outputs: Vec<Option<Kept>>,
}

/// What an expert leaves; its input is gathered again.
struct ExpertTrace {
    a: Kept,
    b: Kept,
    inner: [Option<Tensor>; 3],
}

impl Trace {
    pub fn routing(&self) -> &Routing {
        &self.routing
    }
}

impl ExpertBlock {
    /// x [n, width] plus the block's output.
    pub fn forward(&self, x: &Tensor, place: &Place) -> Result<(Tensor, Trace)> {
        let normed = self.normed(x, place)?;
        let (logits, gate_inner) = self.gate.forward(&normed, place.pass)?;
        let routing = Routing::new(&logits, self.top)?;
        let done = self.each_expert(&routing, |index, expert| {
            let x = ops::gather_rows(&normed, routing.tokens_of(index))?;
            let (a, w1) = expert.w1.forward(&x, place.pass)?;
            let (b, w3) = expert.w3.forward(&x, place.pass)?;
            let (a, b) = (place.precision.rounded(a)?, place.precision.rounded(b)?);
            let hidden = place.precision.rounded(ops::swiglu(&a, &b)?)?;
            let (output, w2) = expert.w2.forward(&hidden, place.pass)?;
            let (a, b) = (place.precision.keep(a)?, place.precision.keep(b)?);
            Ok((place.precision.rounded(output)?, ExpertTrace { a, b, inner: [w1, w2, w3] }))
        })?;
        let (outputs, experts): (Vec<_>, Vec<_>) = done.into_iter().map(Option::unzip).unzip();
        let y = place.precision.rounded(routing.combine(x, &outputs)?)?;
        let keep = |output: Option<Tensor>| output.map(|output| place.precision.keep(output)).transpose();
        let outputs = outputs.into_iter().map(keep).collect::<Result<_>>()?;
        Ok((y, Trace { gate_inner, routing, experts, outputs }))
    }

    /// Adds the gradient that reaches x through the block to `dx`, which holds the gradient of the output, as the
    /// residual passes it on. `router` is what the router's own losses add.
    pub fn backward(
        &self,
        x: &Tensor,
        trace: Trace,
        router: &RouterFactors,
        place: &Place,
        gradients: &Gradients,
        dx: &Tensor,
    ) -> Result<()> {
        let Trace { gate_inner, routing, experts, outputs } = trace;
        let normed = self.normed(x, place)?;
        let outputs: Vec<_> =
            outputs.into_iter().map(|output| output.map(Kept::restore).transpose()).collect::<Result<_>>()?;
        let dlogits = routing.logits_backward(&outputs, dx)?;
        drop(outputs);
        routing.add_losses(router, &dlogits)?;
        let dnormed = ops::zeros(normed.shape())?;
        self.gate.backward((&normed, gate_inner.as_ref()), &dlogits, place.pass, gradients, &dnormed, false)?;
        // Each expert's trace is taken by its task, so that it is freed when the task is done.
        let experts: Vec<_> = experts.into_iter().map(Mutex::new).collect();
        let dxs = self.each_expert(&routing, |index, expert| {
            let trace = experts[index].lock().unwrap_or_else(PoisonError::into_inner).take();
            let ExpertTrace { a, b, inner: [w1, w2, w3] } =
                trace.ok_or_else(|| Error::new("an expert's trace is not there"))?;
            let (a, b) = (a.restore()?, b.restore()?);
            let dy = routing.weighted_rows(index, dx)?;
            let dhidden = ops::zeros(a.shape())?;
            let dinner = expert.w2.backward_input(&dy, place.pass, &dhidden, false)?;
            // w2's own gradient needs its input again, which comes out of the same pass as the gradients of a and b.
            let (hidden, da, db) = ops::swiglu_backward(&a, &b, &dhidden)?;
            drop((a, b, dhidden));
            let hidden = place.precision.rounded(hidden)?;
            let inner = Inner { value: w2.as_ref(), gradient: dinner.as_ref() };
            expert.w2.backward_weights(&hidden, inner, &dy, place.pass, gradients)?;
            drop(hidden);
            let x = ops::gather_rows(&normed, routing.tokens_of(index))?;
            let dx = ops::zeros(x.shape())?;
            expert.w1.backward((&x, w1.as_ref()), &da, place.pass, gradients, &dx, false)?;
            expert.w3.backward((&x, w3.as_ref()), &db, place.pass, gradients, &dx, true)?;
            Ok(dx)
        })?;
        routing.scatter(&dnormed, &dxs)?;
        let weight = &self.norm;
        let dweight = ops::rms_norm_backward(x, &weight.value, place.epsilon, &dnormed, dx, weight.is_trained())?;
        dweight.map_or(Ok(()), |dweight| gradients.add(weight, &dweight))
    }

    fn normed(&self, x: &Tensor, place: &Place) -> Result<Tensor> {
        place.precision.rounded(ops::rms_norm(x, &self.norm.value, place.epsilon)?)
    }

    /// Runs a task for every expert that got tokens, beside each other.
    fn each_expert<R: Send>(
        &self,
        routing: &Routing,
        task: impl Fn(usize, &Expert) -> Result<R> + Sync,
    ) -> Result<Vec<Option<R>>> {
        let busy = (0..self.experts.len()).filter(|&index| !routing.tokens_of(index).is_empty()).count();
        let threads = rayon::current_num_threads().div_ceil(busy.max(1));
        let run = |(index, expert)| {
            if routing.tokens_of(index).is_empty() {
                return Ok(None);
            }
            ops::on_threads(threads, || task(index, expert)).map(Some)
        };
        self.experts.par_iter().enumerate().with_max_len(1).map(run).collect()
    }
}
