//! Which block of which dataset stands where in a pass over the mix: computed when it is asked for, without a list.
//!
//! The blocks of each share are spread evenly over the pass. Of a share of n blocks, the k-th comes at a time drawn
//! from [k/n, (k+1)/n); all blocks are read in the order of their times. So at every moment each share has given its
//! part to within one block, a share of two and a half passes makes them one after the other, and how many blocks of
//! each share the first N positions hold can be counted without walking there: the plan is exact, and a run can start
//! anywhere.

use super::Permutation;
use crate::corpus::mix::Amount;
use crate::error::{Error, Result};
use crate::model::ops::Stream;

/// One share of a mix, in numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    pub name: String,
    /// Blocks that the dataset has.
    pub available: u64,
    /// Tokens of a block.
    pub length: usize,
    pub amount: Amount,
}

/// A mix in numbers: all that its order depends on.
#[derive(Clone, Debug)]
pub struct Blend {
    shares: Vec<Share>,
    /// Of each share, the blocks that a pass over the mix takes.
    taken: Vec<u64>,
    length: usize,
}

/// A block of a mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Index of the share.
    pub share: usize,
    /// The block's row in its dataset.
    pub row: u64,
    /// How often the run has gone through the dataset before, in this pass over the mix and in those before it.
    pub pass: u64,
}

/// One pass over a mix.
pub struct Pass<'a> {
    blend: &'a Blend,
    /// Its number, from 0.
    epoch: u64,
    /// Of each share.
    streams: Vec<ShareStreams>,
}

struct ShareStreams {
    times: Stream,
    order: Stream,
}

/// A time of a pass, in 2^-64 of it: 0 ..= 2^64.
type Time = u128;
const END: Time = 1 << 64;

impl Blend {
    /// All blocks must have one length.
    pub fn new(shares: Vec<Share>) -> Result<Self> {
        let Some(first) = shares.first() else {
            return Err(Error::invalid("the mix is empty: there is nothing to train on"));
        };
        for Share { name, available, length, amount } in &shares {
            if let Amount::Ratio(ratio) = amount
                && !(*ratio > 0.0 && ratio.is_finite())
            {
                return Err(Error::invalid(format!("the ratio of {name} is {ratio}; it must be above 0")));
            }
            if *available == 0 {
                return Err(Error::invalid(format!("the dataset {name} has no token blocks")));
            }
            if *length != first.length {
                let Share { name: other, length: its, .. } = first;
                return Err(Error::invalid(format!(
                    "the blocks of {other} have {its} tokens, those of {name} {length}"
                ))
                .hint("encode both with the same `sequence_length`"));
            }
        }
        let length = first.length;
        let taken = shares.iter().map(|share| share.amount.blocks(share.available, length)).collect();
        Ok(Self { shares, taken, length })
    }

    pub fn shares(&self) -> &[Share] {
        &self.shares
    }

    /// Of each share, the blocks that a pass over the mix takes.
    pub fn taken(&self) -> &[u64] {
        &self.taken
    }

    /// Blocks of a pass.
    pub fn len(&self) -> u64 {
        self.taken.iter().sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens of a block.
    pub fn sequence_length(&self) -> usize {
        self.length
    }

    /// The pass number `epoch`, from 0.
    pub fn pass(&self, seed: u64, epoch: u64) -> Pass<'_> {
        let pass = Stream::new(seed).named("order").numbered(epoch);
        let streams = |share: usize| {
            let stream = pass.numbered(share as u64);
            ShareStreams { times: stream.named("times"), order: stream.named("blocks") }
        };
        Pass { blend: self, epoch, streams: (0..self.shares.len()).map(streams).collect() }
    }
}

impl Pass<'_> {
    /// The block at a position, which must be below the mix's length.
    pub fn at(&self, position: u64) -> Place {
        debug_assert!(position < self.blend.len());
        // The block that the first `position + 1` have and the first `position` have not.
        let (before, after) = (self.first(position), self.first(position + 1));
        let share = before.iter().zip(&after).position(|(before, after)| before < after).unwrap_or(0);
        let (time, row) = self.row(share, before[share]);
        let times = self.blend.taken[share].div_ceil(self.blend.shares[share].available);
        Place { share, row, pass: self.epoch * times + time }
    }

    /// Of each share, how many of the first `count` blocks of this pass are its own.
    pub fn first(&self, count: u64) -> Vec<u64> {
        let shares = 0..self.streams.len();
        let (mut from, mut to) = (0, END);
        if count >= self.blend.len() {
            return self.blend.taken.clone();
        }
        // At most `count` blocks come before `from`, more than that before `to`.
        while to - from > 1 {
            let middle = from + (to - from) / 2;
            let before: u64 = shares.clone().map(|share| self.before(share, middle)).sum();
            if before <= count { from = middle } else { to = middle }
        }
        let mut counts: Vec<u64> = shares.clone().map(|share| self.before(share, from)).collect();
        // What comes at the very same time comes in the order of the shares.
        let mut rest = count - counts.iter().sum::<u64>();
        for share in shares {
            let more = rest.min(self.before(share, to) - counts[share]);
            counts[share] += more;
            rest -= more;
        }
        counts
    }

    /// How many blocks of a share come before `time`: those with (k + u_k) / n < time, where u_k is drawn from [0, 1).
    fn before(&self, share: usize, time: Time) -> u64 {
        let taken = self.blend.taken[share];
        let scaled = time * Time::from(taken);
        let (whole, fraction) = ((scaled >> 64) as u64, scaled as u64);
        if whole >= taken {
            return taken;
        }
        whole + u64::from(self.streams[share].times.word(whole) < fraction)
    }

    /// Which time through a share's dataset its block number `index` belongs to, and its row. Each time that the dataset is gone through it has another order; of
    /// the last time, if it is a part, the dataset's first rows are taken.
    fn row(&self, share: usize, index: u64) -> (u64, u64) {
        let available = self.blend.shares[share].available;
        let (time, within) = (index / available, index % available);
        let rows = available.min(self.blend.taken[share] - time * available);
        (time, Permutation::new(rows, self.streams[share].order.numbered(time)).at(within))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn blend(shares: &[(u64, Amount)]) -> Blend {
        let share = |(index, (available, amount)): (usize, &(u64, Amount))| Share {
            name: format!("set {index}"),
            available: *available,
            length: 8,
            amount: *amount,
        };
        Blend::new(shares.iter().enumerate().map(share).collect()).unwrap()
    }

    fn rows(pass: &Pass<'_>, share: usize) -> Vec<u64> {
        let places = (0..pass.blend.len()).map(|position| pass.at(position));
        places.filter(|place| place.share == share).map(|place| place.row).collect()
    }

    #[test]
    fn every_block_once_and_each_share_evenly() {
        for (a, b, c) in [(101, 13, 1), (1, 1, 1), (64, 64, 64), (2, 997, 10)] {
            let blend = blend(&[(a, Amount::Ratio(1.0)), (b, Amount::Ratio(1.0)), (c, Amount::Ratio(1.0))]);
            let pass = blend.pass(42, 0);
            let places: Vec<Place> = (0..blend.len()).map(|position| pass.at(position)).collect();
            assert_eq!(places.iter().collect::<BTreeSet<_>>().len() as u64, a + b + c);
            let mut counts = vec![0; 3];
            for (position, place) in places.iter().enumerate() {
                assert_eq!(pass.first(position as u64), counts);
                for (share, &count) in counts.iter().enumerate() {
                    let even = position as f64 * blend.taken[share] as f64 / blend.len() as f64;
                    assert!((count as f64 - even).abs() < 3.0, "{count} of {even} at {position}");
                }
                counts[place.share] += 1;
            }
            assert_eq!(counts, [a, b, c]);
        }
    }

    #[test]
    fn a_part_is_the_first_blocks_as_published() {
        let blend = blend(&[(296, Amount::Ratio(0.1)), (1000, Amount::Ratio(0.29)), (50, Amount::Tokens(165))]);
        assert_eq!(blend.taken(), [29, 290, 20]);
        let pass = blend.pass(1, 0);
        for (share, taken) in [(0, 29), (1, 290), (2, 20)] {
            let rows = rows(&pass, share);
            assert!(!rows.is_sorted());
            assert_eq!(rows.into_iter().collect::<BTreeSet<_>>(), (0..taken).collect());
        }
    }

    /// 2.5 is a pass, a pass in another order, and the first half in a third one; one after the other, whatever
    /// stands between.
    #[test]
    fn above_1_are_whole_passes_and_a_part() {
        let blend = blend(&[(11, Amount::Ratio(1.0)), (100, Amount::Ratio(2.5))]);
        let rows = rows(&blend.pass(7, 0), 1);
        assert_eq!(rows.len(), 250);
        // The number of the pass goes on from one pass over the mix to the next.
        for epoch in [0, 1, 4] {
            let pass = blend.pass(7, epoch);
            let places = (0..blend.len()).map(|position| pass.at(position));
            let passes: Vec<u64> = places.filter(|place| place.share == 1).map(|place| place.pass).collect();
            assert!(passes.is_sorted());
            for (number, count) in [(3 * epoch, 100), (3 * epoch + 1, 100), (3 * epoch + 2, 50)] {
                assert_eq!(passes.iter().filter(|&&pass| pass == number).count(), count);
            }
        }
        let passes: Vec<&[u64]> = rows.chunks(100).collect();
        for (pass, count) in passes.iter().zip([100, 100, 50]) {
            assert_eq!(pass.iter().copied().collect::<BTreeSet<_>>(), (0..count).collect());
        }
        assert_ne!(passes[0], passes[1]);
        assert_ne!(passes[0][..50], passes[2][..]);
    }

    #[test]
    fn another_epoch_or_seed_is_another_order() {
        let blend = blend(&[(50, Amount::Ratio(1.0)), (50, Amount::Ratio(1.0))]);
        let order = |seed, epoch| {
            let pass = blend.pass(seed, epoch);
            (0..100).map(|position| pass.at(position)).collect::<Vec<_>>()
        };
        assert_eq!(order(42, 0), order(42, 0));
        assert_ne!(order(42, 0), order(42, 1));
        assert_ne!(order(42, 0), order(43, 0));
    }

    /// The same dataset twice is two shares with orders of their own.
    #[test]
    fn a_block_lands_anywhere() {
        let blend = blend(&[(10, Amount::Ratio(1.0)), (10, Amount::Ratio(1.0))]);
        let mut places = [0; 20];
        for seed in 0..4000 {
            let pass = blend.pass(seed, 0);
            let first = (0..20).find(|&position| pass.at(position) == Place { share: 0, row: 0, pass: 0 });
            places[first.unwrap() as usize] += 1;
        }
        assert!(places.iter().all(|&n| (120..290).contains(&n)), "{places:?}");
    }

    /// The published size: nothing is stored but the shares, and any position is found at once.
    #[test]
    fn a_hundred_billion_blocks_need_no_list() {
        let blend = blend(&[
            (60_000_000_000, Amount::Ratio(1.0)),
            (90_000_000_000, Amount::Ratio(0.1)),
            (7_000_000_003, Amount::Ratio(4.5)),
        ]);
        assert!(std::mem::size_of_val(&blend) + std::mem::size_of_val(&blend.pass(1, 0)) < 256);
        let pass = blend.pass(1, 0);
        for position in [0, 1, 50_000_000_000, blend.len() - 1] {
            let place = pass.at(position);
            assert_eq!(pass.first(position + 1)[place.share], pass.first(position)[place.share] + 1);
            assert_eq!(pass.first(position).iter().sum::<u64>(), position);
            assert!(place.row < blend.shares()[place.share].available);
        }
        assert_eq!(pass.first(blend.len()), blend.taken());
    }

    #[test]
    fn what_cannot_be_mixed() {
        let share =
            |name: &str, available, length, amount| Share { name: name.to_owned(), available, length, amount };
        let message = |shares| Blend::new(shares).unwrap_err().message().to_owned();
        assert_eq!(message(vec![]), "the mix is empty: there is nothing to train on");
        for ratio in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let shares = vec![share("a", 1, 8, Amount::Ratio(ratio))];
            assert_eq!(message(shares), format!("the ratio of a is {ratio}; it must be above 0"));
        }
        let empty = vec![share("a", 0, 8, Amount::Tokens(100))];
        assert_eq!(message(empty), "the dataset a has no token blocks");
        let lengths = vec![share("a", 5, 8, Amount::Ratio(1.0)), share("b", 5, 9, Amount::Ratio(1.0))];
        assert_eq!(message(lengths), "the blocks of a have 8 tokens, those of b 9");
    }
}
