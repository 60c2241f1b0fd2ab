//! How long a run is and what it reads, known before it starts.

use serde::Deserialize;

use super::blend::{Blend, Share};
use crate::error::{Error, Result};

/// The settings that decide it: parameters of `train`.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Extent {
    /// Passes over the mix; a part of one is allowed.
    pub epochs: f64,
    /// Steps in all, in place of `epochs`.
    pub max_steps: Option<u64>,
    /// Blocks of a micro-batch.
    pub batch_size: usize,
    /// Micro-batches of a step.
    pub gradient_accumulation_steps: usize,
    pub seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Blocks of a step.
    pub blocks_per_step: u64,
    /// Whole steps in a pass over the mix; blocks that do not fill one are left out.
    pub steps_per_epoch: u64,
    pub steps: u64,
    pub tokens: u64,
}

impl Plan {
    pub fn new(blend: &Blend, extent: &Extent) -> Result<Self> {
        let blocks_per_step = (extent.batch_size * extent.gradient_accumulation_steps) as u64;
        if blocks_per_step == 0 {
            return Err(Error::invalid("`batch_size` and `gradient_accumulation_steps` must be at least 1"));
        }
        let steps_per_epoch = blend.len() / blocks_per_step;
        if steps_per_epoch == 0 {
            return Err(Error::invalid(format!(
                "the mix has {} blocks, fewer than one step takes ({blocks_per_step})",
                blend.len()
            ))
            .hint("lower `batch_size` or `gradient_accumulation_steps`, or raise the ratios of the mix"));
        }
        let steps = match extent.max_steps {
            Some(steps) => steps,
            None => (extent.epochs * steps_per_epoch as f64).ceil() as u64,
        };
        if steps == 0 {
            return Err(Error::invalid("there is not one step to make: `epochs` and `max_steps` must be above 0"));
        }
        let tokens = steps * blocks_per_step * blend.sequence_length() as u64;
        Ok(Self { blocks_per_step, steps_per_epoch, steps, tokens })
    }

    /// A sentence on each share with several encoded passes over its corpus, of which `passes` has the number, that the
    /// run goes through more often than that.
    pub fn repeated_passes(&self, blend: &Blend, passes: &[u64]) -> Vec<String> {
        let epochs = self.steps.div_ceil(self.steps_per_epoch);
        let sentence = |((share, taken), passes): ((&Share, &u64), &u64)| {
            let times = taken.div_ceil(share.available) * epochs;
            (*passes > 1 && times > *passes).then(|| {
                format!(
                    "{} is gone through {times} times, and {passes} passes with other merges left out are encoded: \
                     they come again",
                    share.name
                )
            })
        };
        blend.shares().iter().zip(blend.taken()).zip(passes).filter_map(sentence).collect()
    }

    /// Of each share of the mix, the blocks that the run reads.
    pub fn blocks(&self, blend: &Blend, seed: u64) -> Vec<u64> {
        let mut blocks = vec![0; blend.shares().len()];
        let passes = self.steps.div_ceil(self.steps_per_epoch);
        for epoch in 0..passes {
            let steps = self.steps_per_epoch.min(self.steps - epoch * self.steps_per_epoch);
            let first = blend.pass(seed, epoch).first(steps * self.blocks_per_step);
            blocks.iter_mut().zip(first).for_each(|(blocks, more)| *blocks += more);
        }
        blocks
    }
}
