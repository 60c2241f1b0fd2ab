//! A seeded permutation of 0..n that needs no list: where an index goes is computed when it is asked for.

use crate::model::ops::Stream;

/// A four-round Feistel network over the next power of four, walked until it lands inside (Black and Rogaway 2002).
#[derive(Clone, Copy, Debug)]
pub struct Permutation {
    count: u64,
    /// Bits of each half.
    half: u32,
    stream: Stream,
}

impl Permutation {
    pub fn new(count: u64, stream: Stream) -> Self {
        let bits = u64::BITS - count.saturating_sub(1).leading_zeros();
        Self { count, half: bits.div_ceil(2).max(1), stream }
    }

    /// The element at `index`, which must be below the count.
    pub fn at(&self, index: u64) -> u64 {
        debug_assert!(index < self.count);
        let mut value = index;
        loop {
            value = self.network(value);
            if value < self.count {
                return value;
            }
        }
    }

    fn network(&self, value: u64) -> u64 {
        let mask = (1u64 << self.half) - 1;
        let (mut left, mut right) = (value >> self.half, value & mask);
        for round in 0..4 {
            let mixed = self.stream.numbered(round).word(right) & mask;
            (left, right) = (right, left ^ mixed);
        }
        left << self.half | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_once_and_not_in_order() {
        for count in [1, 2, 3, 5, 64, 65, 1000] {
            let permutation = Permutation::new(count, Stream::new(count));
            let order: Vec<u64> = (0..count).map(|i| permutation.at(i)).collect();
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..count).collect::<Vec<_>>());
            if count > 5 {
                assert_ne!(order, sorted);
            }
        }
    }

    #[test]
    fn is_even() {
        // Over many seeds, where the first of ten lands.
        let mut places = [0; 10];
        for seed in 0..2000 {
            places[Permutation::new(10, Stream::new(seed)).at(0) as usize] += 1;
        }
        assert!(places.iter().all(|&n| (140..260).contains(&n)), "{places:?}");
    }
}
