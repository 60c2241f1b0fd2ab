//! The losses of the routers themselves: load balancing, and the z-loss that keeps their logits small.

use candle_core::Tensor;
use rayon::prelude::*;

use super::{Routing, modify};
use crate::error::Result;

/// Tokens that one task takes.
const TOKENS: usize = 256;

/// The losses of all layers' routers, or the factors by which they enter what is differentiated.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RouterLosses {
    /// E · Σ over experts of (slots per position) · (mean probability), with E experts, over the positions of all
    /// layers together: `load_balancing_loss_func` of transformers (after Fedus et al. 2021). Equal to the experts per
    /// token when the load is even.
    pub balance: f64,
    /// The mean of (ln Z)² over the positions of all layers: the router z-loss of ST-MoE (Zoph et al. 2022).
    pub z: f64,
}

/// What the losses are made of, added up layer by layer on the way forward.
#[derive(Default)]
pub struct RouterSums {
    /// Positions of all layers.
    positions: usize,
    /// Expert → its slots.
    slots: Vec<u64>,
    /// Expert → the sum of its probabilities.
    probabilities: Vec<f64>,
    /// Σ (ln Z)²
    z: f64,
}

/// What a router's backward pass needs of the losses: dL/dlogit = p·(pull − Σ p·pull) + z·ln Z·p.
pub struct RouterFactors {
    /// Expert → dL/dprobability; the same for every position.
    pull: Vec<f32>,
    /// 2 · the factor of the z-loss / positions.
    z: f32,
}

impl RouterSums {
    /// Adds a layer.
    pub fn add(&mut self, routing: &Routing) {
        self.positions += routing.tokens;
        self.slots.resize(routing.experts, 0);
        self.probabilities.resize(routing.experts, 0.0);
        for (expert, slots) in self.slots.iter_mut().enumerate() {
            *slots += routing.tokens_of(expert).len() as u64;
        }
        for row in routing.probabilities.chunks_exact(routing.experts) {
            for (sum, p) in self.probabilities.iter_mut().zip(row) {
                *sum += f64::from(*p);
            }
        }
        self.z += routing.log_z.iter().map(|log_z| f64::from(*log_z).powi(2)).sum::<f64>();
    }

    pub fn losses(&self) -> RouterLosses {
        let positions = self.positions as f64;
        let pairs = self.slots.iter().zip(&self.probabilities);
        let product: f64 = pairs.map(|(slots, sum)| (*slots as f64 / positions) * (sum / positions)).sum();
        RouterLosses { balance: product * self.slots.len() as f64, z: self.z / positions }
    }

    /// For the gradient of the losses times `factors`. The slots are counts, through which no gradient flows.
    pub fn factors(&self, factors: &RouterLosses) -> RouterFactors {
        let positions = self.positions as f64;
        let each = factors.balance * self.slots.len() as f64 / (positions * positions);
        let pull = self.slots.iter().map(|slots| (each * *slots as f64) as f32).collect();
        RouterFactors { pull, z: (2.0 * factors.z / positions) as f32 }
    }
}

impl Routing {
    /// Adds the gradient of the router's own losses to `dlogits` [tokens, experts].
    pub fn add_losses(&self, factors: &RouterFactors, dlogits: &Tensor) -> Result<()> {
        let RouterFactors { pull, z } = factors;
        if *z == 0.0 && pull.iter().all(|pull| *pull == 0.0) {
            return Ok(());
        }
        modify(dlogits, |dlogits| {
            let chunks = dlogits.par_chunks_mut(TOKENS * self.experts);
            chunks.zip(self.log_z.par_chunks(TOKENS)).enumerate().for_each(|(chunk, (dlogits, log_z))| {
                let probabilities = self.probabilities[chunk * TOKENS * self.experts..].chunks(self.experts);
                for ((dlogits, p), log_z) in dlogits.chunks_mut(self.experts).zip(probabilities).zip(log_z) {
                    let mean: f32 = p.iter().zip(pull).map(|(p, pull)| p * pull).sum();
                    for ((dlogit, p), pull) in dlogits.iter_mut().zip(p).zip(pull) {
                        *dlogit += p * (pull - mean + z * log_z);
                    }
                }
            });
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ops::check::{gradient, numbers, zeros};
    use crate::model::ops::tensor;

    /// Two layers of routers over the same logits, the second's twice as large.
    fn sums(logits: &Tensor) -> RouterSums {
        let mut sums = RouterSums::default();
        sums.add(&Routing::new(logits, 2).unwrap());
        sums.add(&Routing::new(&(logits * 2.0).unwrap(), 2).unwrap());
        sums
    }

    #[test]
    fn gradients() {
        // Whole numbers of tenths by expert, so that a finite difference does not change the choice.
        let order = numbers((300, 4), 3).to_vec2::<f32>().unwrap().into_iter().flat_map(|row| {
            let rank = |i: usize| row.iter().filter(|other| **other < row[i]).count() as f32;
            (0..4).map(|i| rank(i) * 0.3 - 0.5 + row[i] * 0.05).collect::<Vec<_>>()
        });
        let logits = tensor(order.collect(), (300, 4)).unwrap();
        // Large, because each of 600 positions has a small part in a mean.
        for factors in [(500.0, 0.0), (0.0, 300.0), (500.0, 300.0)] {
            let factors = RouterLosses { balance: factors.0, z: factors.1 };
            let value = |logits: &Tensor| {
                let RouterLosses { balance, z } = sums(logits).losses();
                balance * factors.balance + z * factors.z
            };
            let pull = sums(&logits).factors(&factors);
            let (first, second) = (zeros((300, 4)), zeros((300, 4)));
            Routing::new(&logits, 2).unwrap().add_losses(&pull, &first).unwrap();
            Routing::new(&(&logits * 2.0).unwrap(), 2).unwrap().add_losses(&pull, &second).unwrap();
            let all = (first + (second * 2.0).unwrap()).unwrap();
            gradient("logits", &logits, &all, value);
        }
    }

    #[test]
    fn an_even_load_gives_the_experts_per_token() {
        let logits = tensor(vec![0.1, 0.1, 0.0, 0.0, 0.0, 0.0, 0.1, 0.1], (2, 4)).unwrap();
        let mut sums = RouterSums::default();
        sums.add(&Routing::new(&logits, 2).unwrap());
        assert!((sums.losses().balance - 2.0).abs() < 1e-6);
        // No factor, no change.
        let dlogits = numbers((2, 4), 1);
        let before = dlogits.to_vec2::<f32>().unwrap();
        let none = sums.factors(&RouterLosses::default());
        Routing::new(&logits, 2).unwrap().add_losses(&none, &dlogits).unwrap();
        assert_eq!(before, dlogits.to_vec2::<f32>().unwrap());
    }
}
