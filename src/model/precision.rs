//! In what type a training holds what it need not hold in float32.

use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ops::{self, Half};
use crate::error::Result;

/// The type of activations: of the layers' inputs and of what the forward pass keeps for the backward pass. Sums are
/// formed in float32 either way; so are router, norms, softmax, loss, gradients, trained weights and the optimiser.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    #[default]
    Float32,
    /// Every activation is rounded to bfloat16, and kept so: half the memory.
    Bfloat16,
}

impl Precision {
    /// The tensor with its values rounded, in place.
    pub(super) fn rounded(self, x: Tensor) -> Result<Tensor> {
        if self == Self::Bfloat16 {
            ops::round_to_bf16(&x)?;
        }
        Ok(x)
    }

    /// A rounded tensor, to be kept until the backward pass.
    pub(super) fn keep(self, x: Tensor) -> Result<Kept> {
        Ok(match self {
            Self::Float32 => Kept::Full(x),
            Self::Bfloat16 => Kept::Half(Half::of(&x)?),
        })
    }
}

/// A tensor that waits for the backward pass.
pub(super) enum Kept {
    Full(Tensor),
    Half(Half),
}

impl Kept {
    /// The tensor again, to the bit.
    pub fn restore(self) -> Result<Tensor> {
        match self {
            Self::Full(x) => Ok(x),
            Self::Half(half) => half.widen(),
        }
    }
}
