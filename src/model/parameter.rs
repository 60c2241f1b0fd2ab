//! Named weights, and the gradients of those that are trained.

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

/// One buffer per trained parameter, which gradients are added to.
pub struct Gradients(Vec<Buffer>);

struct Buffer {
    value: Tensor,
    /// Nothing was added since the last [`Gradients::clear`]: the content is old and counts as zeros.
    stale: bool,
}

impl Gradients {
    /// Buffers for these parameters, whose indices must be their positions.
    pub fn of(parameters: &[&Parameter]) -> Result<Self> {
        let buffers = parameters
            .iter()
            .map(|parameter| Ok(Buffer { value: parameter.value.zeros_like()?, stale: true }))
            .collect::<Result<_>>()?;
        Ok(Self(buffers))
    }

    /// Makes every gradient zero.
    pub fn clear(&mut self) {
        for buffer in &mut self.0 {
            buffer.stale = true;
        }
    }

    /// The gradient of the parameter of that index.
    pub fn get(&mut self, index: usize) -> Result<&Tensor> {
        let buffer = &mut self.0[index];
        if buffer.stale {
            ops::modify(&buffer.value, |values| values.fill(0.0))?;
            buffer.stale = false;
        }
        Ok(&buffer.value)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds `scale` · `dy`ᵀ · `x`: the gradient of a weight [out, in] that made y [n, out] of x [n, in]. Frozen: nothing.
    pub(super) fn add_outer(&mut self, parameter: &Parameter, scale: f32, dy: &Tensor, x: &Tensor) -> Result<()> {
        let Some(index) = parameter.index else { return Ok(()) };
        let buffer = &mut self.0[index];
        ops::add_product(&buffer.value, scale, !buffer.stale, (dy, true), (x, false))?;
        buffer.stale = false;
        Ok(())
    }

    /// Adds `gradient`, of the parameter's shape. Frozen: nothing.
    pub(super) fn add(&mut self, parameter: &Parameter, gradient: &Tensor) -> Result<()> {
        let Some(index) = parameter.index else { return Ok(()) };
        let gradient = View::of(gradient)?;
        ops::modify(self.get(index)?, |values| {
            for (value, gradient) in values.iter_mut().zip(&gradient[..]) {
                *value += gradient;
            }
        })
    }

    /// Adds row i of `rows` to row `indices[i]`. Frozen: nothing.
    pub(super) fn add_rows(&mut self, parameter: &Parameter, indices: &[u32], rows: &Tensor) -> Result<()> {
        match parameter.index {
            Some(index) => ops::add_rows(self.get(index)?, indices, rows),
            None => Ok(()),
        }
    }
}
