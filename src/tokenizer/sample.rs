//! A sample of lines of a stated size, the same on every machine.

use std::ops::Range;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// So many bytes may be dead in any case.
const SLACK: usize = 1 << 20;

/// Keeps all lines up to a number, and an even choice of that many from then on (reservoir sampling, Algorithm R,
/// with a fixed seed). Memory: the text of the lines kept, a quarter more while lines are replaced, and 16 bytes a line.
pub struct Sample {
    /// The lines one behind the other, and some that were replaced.
    text: String,
    lines: Vec<Range<usize>>,
    /// Bytes of `text` that belong to no line any more.
    dead: usize,
    limit: usize,
    seen: u64,
    random: ChaCha8Rng,
}

impl Sample {
    /// Of at most `limit` lines.
    pub fn new(limit: usize) -> Self {
        let random = ChaCha8Rng::seed_from_u64(1);
        Self { text: String::new(), lines: Vec::new(), dead: 0, limit, seen: 0, random }
    }

    pub fn add(&mut self, line: &str) {
        self.seen += 1;
        let span = self.text.len()..self.text.len() + line.len();
        if self.lines.len() < self.limit {
            self.lines.push(span);
        } else {
            let place = (u128::from(self.random.next_u64()) * u128::from(self.seen)) >> 64;
            let Some(kept) = self.lines.get_mut(place as usize) else { return };
            self.dead += std::mem::replace(kept, span).len();
        }
        self.text.push_str(line);
        if self.dead > (self.text.len() - self.dead) / 4 + SLACK {
            self.close_gaps();
        }
    }

    /// Moves the lines together, over those that were replaced.
    fn close_gaps(&mut self) {
        let mut order: Vec<&mut Range<usize>> = self.lines.iter_mut().collect();
        order.sort_unstable_by_key(|line| line.start);
        let mut bytes = std::mem::take(&mut self.text).into_bytes();
        let mut end = 0;
        for line in order {
            bytes.copy_within(line.clone(), end);
            *line = end..end + line.len();
            end = line.end;
        }
        bytes.truncate(end);
        self.text = String::from_utf8(bytes).expect("whole lines of UTF-8 are UTF-8");
        self.dead = 0;
    }

    /// The lines kept.
    pub fn lines(&self) -> Vec<&str> {
        self.lines.iter().map(|line| &self.text[line.clone()]).collect()
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

    /// Algorithm R word for word, with a string for each line.
    #[test]
    fn replaced_lines_leave_neither_gaps_nor_traces() {
        let line = |n: usize| format!("{n}: {}", "的".repeat(n * 7919 % 600));
        let mut sample = Sample::new(1000);
        let mut expected: Vec<String> = Vec::new();
        let mut random = ChaCha8Rng::seed_from_u64(1);
        for n in 0..20_000 {
            sample.add(&line(n));
            if expected.len() < 1000 {
                expected.push(line(n));
                continue;
            }
            let place = (u128::from(random.next_u64()) * (n as u128 + 1)) >> 64;
            if let Some(kept) = expected.get_mut(place as usize) {
                *kept = line(n);
            }
        }
        assert_eq!(sample.lines(), expected);
        assert!(sample.text.len() < 1000 * 900 * 5 / 4 + SLACK, "{}", sample.text.len());
    }
}
