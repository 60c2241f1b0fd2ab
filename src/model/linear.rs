//! A linear layer, frozen or trained, with or without a LoRA adapter.

use candle_core::Tensor;

use super::ops::{self, Panels, Stream};
use super::parameter::{Gradients, Parameter};
use crate::error::Result;

/// y = x·Wᵀ, and with an adapter + scale · dropout(x)·Aᵀ·Bᵀ. Nowhere a bias.
pub struct Linear {
    /// [out, in]
    pub weight: Weight,
    pub lora: Option<Lora>,
}

/// The matrix of a linear layer.
pub enum Weight {
    Dense(Parameter),
    /// Frozen, in fewer bits than float32; widened for every use, a panel at a time.
    Frozen(String, Box<dyn Panels + Send>),
}

/// How the weight of a linear layer is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// float32, which can be trained.
    Float32,
    /// bfloat16: a weight that is stored so loses nothing.
    Bfloat16,
    /// 4-bit NormalFloat in blocks of 64.
    Nf4,
}

impl Weight {
    /// The layer's name in the model: the weight's, without `.weight`.
    pub fn module(&self) -> &str {
        let name = match self {
            Self::Dense(parameter) => &parameter.name,
            Self::Frozen(name, _) => name,
        };
        name.strip_suffix(".weight").unwrap_or(name)
    }

    /// (out, in)
    pub fn shape(&self) -> Result<(usize, usize)> {
        match self {
            Self::Dense(parameter) => Ok(parameter.value.dims2()?),
            Self::Frozen(_, matrix) => Ok(matrix.shape()),
        }
    }

    /// `y` ← x·Wᵀ
    fn multiply_into(&self, x: &Tensor, y: &Tensor) -> Result<()> {
        match self {
            Self::Dense(parameter) => ops::add_product(y, 1.0, false, (x, false), (&parameter.value, true)),
            Self::Frozen(_, matrix) => matrix.multiply_into(x, y),
        }
    }

    /// `dx` ← dy·W (+ `dx` if `add`)
    fn multiply_back_into(&self, dy: &Tensor, dx: &Tensor, add: bool) -> Result<()> {
        match self {
            Self::Dense(parameter) => ops::add_product(dx, 1.0, add, (dy, false), (&parameter.value, false)),
            Self::Frozen(_, matrix) => matrix.multiply_back_into(dy, dx, add),
        }
    }
}

/// A low-rank adapter (Hu et al. 2021).
pub struct Lora {
    /// [rank, in]
    pub a: Parameter,
    /// [out, rank]
    pub b: Parameter,
    /// alpha / rank.
    pub scale: f32,
    /// Probability that a value of the adapter's input is dropped, in training.
    pub dropout: f32,
    /// Tells this module's dropout masks from those of the others.
    pub(super) stream: Stream,
}

/// The values between an adapter's two matrices [n, rank], and their gradient short of the scale.
#[derive(Clone, Copy)]
pub(super) struct Inner<'a> {
    pub value: Option<&'a Tensor>,
    pub gradient: Option<&'a Tensor>,
}

/// What makes one training pass through the model different from the next: the stream that its masks and its noise are
/// drawn from.
#[derive(Clone, Copy, Debug)]
pub struct Pass(Stream);

impl Pass {
    /// The pass of micro-batch `number` (counted over the whole run) with that seed.
    pub fn new(seed: u64, number: u64) -> Self {
        Self(Stream::new(seed).named("pass").numbered(number))
    }

    /// A stream of this pass.
    pub(super) fn stream(self, name: &str) -> Stream {
        self.0.named(name)
    }
}

impl Lora {
    /// The adapter's input and its mask's stream; `None` when nothing is dropped.
    fn dropping(&self, pass: Option<Pass>) -> Option<Stream> {
        let pass = pass.filter(|_| self.dropout > 0.0)?;
        Some(self.stream.numbered(pass.0.word(0)))
    }

    fn input(&self, x: &Tensor, pass: Option<Pass>) -> Result<Tensor> {
        match self.dropping(pass) {
            Some(stream) => ops::dropout(x, stream, self.dropout),
            None => Ok(x.clone()),
        }
    }
}

impl Linear {
    pub fn new(weight: Weight) -> Self {
        Self { weight, lora: None }
    }

    /// y [n, out] of x [n, in], and what the backward pass needs: the adapter's inner values [n, rank].
    pub(super) fn forward(&self, x: &Tensor, pass: Option<Pass>) -> Result<(Tensor, Option<Tensor>)> {
        let (out, _) = self.weight.shape()?;
        let y = ops::zeros((x.dim(0)?, out))?;
        let inner = self.forward_into(x, pass, &y)?;
        Ok((y, inner))
    }

    /// The same, into a `y` that is there already.
    pub(super) fn forward_into(&self, x: &Tensor, pass: Option<Pass>, y: &Tensor) -> Result<Option<Tensor>> {
        self.weight.multiply_into(x, y)?;
        let Some(lora) = &self.lora else { return Ok(None) };
        let inner = ops::product((&lora.input(x, pass)?, false), (&lora.a.value, true))?;
        ops::add_product(y, lora.scale, true, (&inner, false), (&lora.b.value, true))?;
        Ok(Some(inner))
    }

    /// Puts the gradient of x into `dx`, which it replaces unless `add`. Returns the gradient of the adapter's inner
    /// values, short of the scale, for [`Self::backward_weights`].
    pub(super) fn backward_input(
        &self,
        dy: &Tensor,
        pass: Option<Pass>,
        dx: &Tensor,
        add: bool,
    ) -> Result<Option<Tensor>> {
        self.weight.multiply_back_into(dy, dx, add)?;
        let Some(lora) = &self.lora else { return Ok(None) };
        let dinner = ops::product((dy, false), (&lora.b.value, false))?;
        match lora.dropping(pass) {
            None => ops::add_product(dx, lora.scale, true, (&dinner, false), (&lora.a.value, false))?,
            Some(stream) => {
                let through = ops::zeros(dx.shape())?;
                ops::add_product(&through, lora.scale, false, (&dinner, false), (&lora.a.value, false))?;
                ops::dropout_add(dx, &through, stream, lora.dropout)?;
            }
        }
        Ok(Some(dinner))
    }

    /// Adds the gradients of the trained weights.
    pub(super) fn backward_weights(
        &self,
        x: &Tensor,
        Inner { value, gradient }: Inner,
        dy: &Tensor,
        pass: Option<Pass>,
        gradients: &Gradients,
    ) -> Result<()> {
        if let Weight::Dense(weight) = &self.weight {
            gradients.add_outer(weight, 1.0, dy, x)?;
        }
        if let (Some(lora), Some(value), Some(gradient)) = (&self.lora, value, gradient) {
            gradients.add_outer(&lora.b, lora.scale, dy, value)?;
            gradients.add_outer(&lora.a, lora.scale, gradient, &lora.input(x, pass)?)?;
        }
        Ok(())
    }

    /// Both: the gradients of the weights, and that of x into `dx`.
    pub(super) fn backward(
        &self,
        (x, inner): (&Tensor, Option<&Tensor>),
        dy: &Tensor,
        pass: Option<Pass>,
        gradients: &Gradients,
        dx: &Tensor,
        add: bool,
    ) -> Result<()> {
        let dinner = self.backward_input(dy, pass, dx, add)?;
        self.backward_weights(x, Inner { value: inner, gradient: dinner.as_ref() }, dy, pass, gradients)
    }

    /// Every weight of the layer that is held in float32, in a fixed order.
    pub(super) fn visit<'a>(&'a self, each: &mut dyn FnMut(&'a Parameter)) {
        if let Weight::Dense(weight) = &self.weight {
            each(weight);
        }
        if let Some(lora) = &self.lora {
            each(&lora.a);
            each(&lora.b);
        }
    }

    pub(super) fn visit_mut(&mut self, each: &mut dyn FnMut(&mut Parameter)) {
        if let Weight::Dense(weight) = &mut self.weight {
            each(weight);
        }
        if let Some(lora) = &mut self.lora {
            each(&mut lora.a);
            each(&mut lora.b);
        }
    }
}

#[cfg(test)]
mod tests;
