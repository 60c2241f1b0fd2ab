//! Normally distributed initial weights: the same values whatever the order, the cut into blocks, and the threads.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;

use super::{Float, ShardWriter};
use crate::error::Result;

/// N(0, deviation²), drawn for each tensor from a stream of its own: ChaCha8 keyed with BLAKE3 of seed and name.
#[derive(Clone, Copy, Debug)]
pub struct Normal {
    pub seed: u64,
    pub deviation: f64,
}

impl Normal {
    /// Values drawn from one position of the stream; blocks are drawn in parallel.
    const BLOCK: usize = 1 << 16;

    /// The first `count` values of the tensor called `name`.
    pub fn values(&self, name: &str, count: usize) -> Vec<f32> {
        let blocks = count.div_ceil(Self::BLOCK);
        (0..blocks).into_par_iter().flat_map_iter(|i| self.block(name, i, count)).collect()
    }

    /// Writes `count` values of the tensor called `name`, rounded to `float`, in bounded memory; `tick` is told the
    /// bytes written.
    pub fn write(
        &self,
        name: &str,
        count: usize,
        float: Float,
        writer: &mut ShardWriter,
        mut tick: impl FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        const GROUP: usize = 64;
        let blocks = count.div_ceil(Self::BLOCK);
        for first in (0..blocks).step_by(GROUP) {
            let group: Vec<Vec<u8>> = (first..blocks.min(first + GROUP))
                .into_par_iter()
                .map(|i| float.narrow(&self.block(name, i, count)))
                .collect();
            for bytes in group {
                writer.write(&bytes)?;
                tick(bytes.len() as u64)?;
            }
        }
        Ok(())
    }

    /// The values of one block of `count` in all: Box–Muller on 53-bit uniforms, in f64, rounded to f32.
    fn block(&self, name: &str, block: usize, count: usize) -> Vec<f32> {
        let length = Self::BLOCK.min(count - block * Self::BLOCK);
        let mut hasher = blake3::Hasher::new_derive_key("cmx 2024 initial weights");
        hasher.update(&self.seed.to_le_bytes());
        hasher.update(name.as_bytes());
        let mut random = ChaCha8Rng::from_seed(*hasher.finalize().as_bytes());
        random.set_stream(block as u64);
        // In (0, 1]: the logarithm must be finite.
        let mut uniform = || ((random.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
        let mut values = Vec::with_capacity(length + 1);
        while values.len() < length {
            let radius = (-2.0 * uniform().ln()).sqrt() * self.deviation;
            let (sine, cosine) = (std::f64::consts::TAU * uniform()).sin_cos();
            values.extend([(radius * cosine) as f32, (radius * sine) as f32]);
        }
        values.truncate(length);
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_moments_of_a_normal_distribution_and_depends_on_name_and_seed() {
        let normal = Normal { seed: 1, deviation: 0.02 };
        let values = normal.values("w", 200_000);
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let variance = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
        let kurtosis = values.iter().map(|&v| f64::from(v).powi(4)).sum::<f64>() / n / variance.powi(2);
        assert!(mean.abs() < 2e-4, "{mean}");
        assert!((variance.sqrt() - 0.02).abs() < 2e-4, "{variance}");
        assert!((kurtosis - 3.0).abs() < 0.06, "{kurtosis}");
        assert_eq!(values[..100], normal.values("w", 100));
        assert_ne!(values[..100], normal.values("v", 100));
        assert_ne!(values[..100], Normal { seed: 2, ..normal }.values("w", 100));
    }
}
