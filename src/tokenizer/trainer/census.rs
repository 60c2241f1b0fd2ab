//! How many pairs have which count: gives the count of the last active pair without sorting.

/// SentencePiece looks for the best pair among active ones: after every so many merges the most frequent 5 % (at
/// least 1000), and all pairs that came up since.
const ACTIVE_SHARE: f32 = 0.05;
const ACTIVE_LEAST: usize = 1000;
/// Frequencies from here on are counted as one.
const FREQUENT: usize = 1 << 16;

pub struct Census {
    /// All pairs, those that are not kept included.
    pairs: usize,
    /// The kept ones by their count.
    by_count: Vec<usize>,
    /// Symbols of one character, which SentencePiece counts with the pairs.
    single: usize,
}

impl Census {
    pub fn new(single: usize) -> Self {
        Self { pairs: 0, by_count: vec![0; FREQUENT + 1], single }
    }

    /// So many pairs came up.
    pub fn born(&mut self, pairs: usize) {
        self.pairs += pairs;
    }

    /// A pair is gone for good.
    pub fn died(&mut self) {
        self.pairs -= 1;
    }

    /// A pair of this count is kept.
    pub fn enter(&mut self, count: u64) {
        self.by_count[count.min(FREQUENT as u64) as usize] += 1;
    }

    /// A kept pair has this count no more.
    pub fn leave(&mut self, count: u64) {
        self.by_count[count.min(FREQUENT as u64) as usize] -= 1;
    }

    /// How many pairs are active.
    pub fn active(&self) -> usize {
        (((self.pairs + self.single) as f32 * ACTIVE_SHARE) as usize).max(ACTIVE_LEAST)
    }

    /// The count of the last pair that is active; 0 if all are. `None` if it is below `floor`: rarer pairs are not all
    /// kept. Where several have that count, SentencePiece's choice among them depends on its hash table; here all of
    /// them are active. Counts above [`FREQUENT`] are not told apart.
    pub fn cut(&self, floor: u64) -> Option<u64> {
        let active = self.active();
        let mut above = 0;
        let reaches = |pairs: &usize| {
            above += pairs;
            above >= active
        };
        let cut = if active >= self.pairs {
            0
        } else {
            self.by_count.iter().rev().position(reaches).map_or(0, |from_top| (FREQUENT - from_top) as u64)
        };
        (cut >= floor || floor <= 1).then_some(cut)
    }
}
