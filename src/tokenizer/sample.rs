//! A sample of lines of a stated size, the same on every machine.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Keeps all lines up to a number, and an even choice of that many from then on (reservoir sampling, Algorithm R,
/// with a fixed seed). Memory: the lines kept.
pub struct Sample {
    lines: Vec<String>,
    limit: usize,
    seen: u64,
    random: ChaCha8Rng,
}

impl Sample {
    /// Of at most `limit` lines.
    pub fn new(limit: usize) -> Self {
        Self { lines: Vec::new(), limit, seen: 0, random: ChaCha8Rng::seed_from_u64(1) }
    }

    pub fn add(&mut self, line: &str) {
        self.seen += 1;
        if self.lines.len() < self.limit {
            self.lines.push(line.to_owned());
            return;
        }
        let place = (u128::from(self.random.next_u64()) * u128::from(self.seen)) >> 64;
        if let Some(kept) = self.lines.get_mut(place as usize) {
            line.clone_into(kept);
        }
    }

    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// How many lines there were to choose from.
    pub fn seen(&self) -> u64 {
        self.seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_even_and_repeatable() {
        let draw = |limit| {
            let mut sample = Sample::new(limit);
            (0..1000).for_each(|n| sample.add(&n.to_string()));
            sample.lines().iter().map(|line| line.parse().unwrap()).collect::<Vec<usize>>()
        };
        assert_eq!(draw(2000), (0..1000).collect::<Vec<_>>());
        assert_eq!(draw(100), draw(100));
        let mean = draw(100).iter().sum::<usize>() / 100;
        assert!((400..600).contains(&mean), "{mean}");
    }
}
