//! Named weights, and the gradients of those that are trained.

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;

use super::ops::{self, View};
use crate::error::Result;

/// A weight under its name in the model folder (`model.layers.0.self_attn.q_proj.weight`).
pub struct Parameter {
    pub name: String,
    /// float32, contiguous. The optimiser changes it in place.
    pub value: Tensor,
    /// Its place among the trained parameters; `None` when frozen.
    pub(super) index: Option<usize>,
}

impl Parameter {
    pub fn frozen(name: impl Into<String>, value: Tensor) -> Self {
        Self { name: name.into(), value, index: None }
    }

    pub fn is_trained(&self) -> bool {
        self.index.is_some()
    }
}

/// One buffer per trained parameter, which gradients are added to. Experts add to theirs at the same time, so each has a
/// lock; no two tasks ever add to one buffer, or the order of the sum would be left to chance.
pub struct Gradients(Vec<Mutex<Buffer>>);

struct Buffer {
    value: Tensor,
    /// Nothing was added since the last [`Gradients::clear`]: the content is old and counts as zeros.
    stale: bool,
}

impl Buffer {
    /// The content, zeros if it was old.
    fn fresh(&mut self) -> Result<&Tensor> {
        if self.stale {
            ops::modify(&self.value, |values| values.fill(0.0))?;
            self.stale = false;
        }
        Ok(&self.value)
    }
}

impl Gradients {
    /// Buffers for these parameters, whose indices must be their positions.
    pub fn of(parameters: &[&Parameter]) -> Result<Self> {
        let buffers = parameters
            .iter()
            .map(|parameter| Ok(Mutex::new(Buffer { value: parameter.value.zeros_like()?, stale: true })))
            .collect::<Result<_>>()?;
        Ok(Self(buffers))
    }

    /// Makes every gradient zero.
    pub fn clear(&mut self) {
        for buffer in &mut self.0 {
            buffer.get_mut().unwrap_or_else(PoisonError::into_inner).stale = true;
        }
    }

    /// The gradient of the parameter of that index.
    pub fn get(&mut self, index: usize) -> Result<&Tensor> {
        self.0[index].get_mut().unwrap_or_else(PoisonError::into_inner).fresh()
    }

    fn buffer(&self, index: usize) -> MutexGuard<'_, Buffer> {
        self.0[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds `scale` · `dy`ᵀ · `x`: the gradient of a weight [out, in] that made y [n, out] of x [n, in]. Frozen: nothing.
    pub(super) fn add_outer(&self, parameter: &Parameter, scale: f32, dy: &Tensor, x: &Tensor) -> Result<()> {
        let Some(index) = parameter.index else { return Ok(()) };
        let mut buffer = self.buffer(index);
        ops::add_product(&buffer.value, scale, !buffer.stale, (dy, true), (x, false))?;
        buffer.stale = false;
        Ok(())
    }

    /// Adds `gradient`, of the parameter's shape. Frozen: nothing.
    pub(super) fn add(&self, parameter: &Parameter, gradient: &Tensor) -> Result<()> {
        let Some(index) = parameter.index else { return Ok(()) };
        let gradient = View::of(gradient)?;
        ops::modify(self.buffer(index).fresh()?, |values| {
            for (value, gradient) in values.iter_mut().zip(&gradient[..]) {
                *value += gradient;
            }
        })
    }

    /// Adds row i of `rows` to row `indices[i]`. Frozen: nothing.
    pub(super) fn add_rows(&self, parameter: &Parameter, indices: &[u32], rows: &Tensor) -> Result<()> {
        match parameter.index {
            Some(index) => ops::add_rows(self.buffer(index).fresh()?, indices, rows),
            None => Ok(()),
        }
    }
}
