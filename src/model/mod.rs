//! Mixtral: configuration, forward and backward for training, KV cache and sampling for inference.

mod attention;
mod config;
mod experts;
mod generation;
mod layout;
mod linear;
mod mixtral;
mod nf4;
pub mod ops;
mod parameter;
mod precision;

pub use config::Config;
pub use generation::{Generator, Sampling};
pub use linear::{Linear, Lora, Pass, Storage, Weight};
pub use mixtral::{Batch, KeyValueCache, Losses, Mixtral, Objective};
pub use nf4::Nf4;
pub use ops::{IGNORED, Loss, LossFactors, RouterLosses};
pub use parameter::{Gradients, Parameter};
pub use precision::Precision;

/// A tiny model folder and an adapter for it, for the tests of other rooms.
#[cfg(test)]
pub mod fixture {
    pub use super::mixtral::tests::{
        formula, golden_adapter, golden_block, tiny_config, write_adapter, write_model,
    };
}
