//! One merge in the text, by one thread or several: every occurrence of a pair becomes a symbol, its neighbours are
//! counted, and the places of the new pairs listed.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::text::{BARRIER, INSIDE, Text};

/// So many places are looked up at once.
const BLOCK: usize = 64;

/// The symbols `left` and `right`, of so many characters, become `union`.
pub struct Merge {
    pub left: u32,
    pub right: u32,
    pub union: u32,
    pub left_length: usize,
    pub right_length: usize,
}

/// The words of one thread in a merge.
#[derive(Default)]
pub struct Part {
    /// What stood before the union, and what behind it.
    pub before: Tallies,
    pub after: Tallies,
    /// Of the occurrences in `after` those whose right neighbour, the left half of another, became a union too.
    pub overlap: u64,
    /// Slot and neighbours of each occurrence.
    occurrences: Vec<(u32, u32, u32)>,
}

/// Neighbours on one side, by symbol.
#[derive(Default)]
pub struct Tallies {
    by_symbol: Vec<Tally>,
    /// The symbols with a tally, in order of their first occurrence.
    met: Vec<u32>,
}

#[derive(Clone, Copy, Default)]
pub struct Tally {
    /// Occurrences, times the counts of their words.
    pub count: u64,
    pub occurrences: u32,
    /// Where the next place of the new pair is put, or [`UNLISTED`].
    pub next: u32,
}

/// The places of a pair are not kept.
pub const UNLISTED: u32 = u32::MAX;

impl Tallies {
    pub fn of(&mut self, symbol: u32) -> &mut Tally {
        &mut self.by_symbol[symbol as usize]
    }

    pub fn symbols(&self) -> impl Iterator<Item = u32> {
        self.met.iter().copied()
    }

    fn meet(&mut self, symbol: u32, occurrences: u32, count: u64) {
        let tally = &mut self.by_symbol[symbol as usize];
        if tally.occurrences == 0 {
            self.met.push(symbol);
        }
        tally.occurrences += occurrences;
        tally.count += count;
    }

    /// Takes in the tallies of the next part; its places come behind.
    fn absorb(&mut self, other: &mut Tallies) {
        for &symbol in &other.met {
            let theirs = &mut other.by_symbol[symbol as usize];
            theirs.next = self.by_symbol[symbol as usize].occurrences;
            self.meet(symbol, theirs.occurrences, theirs.count);
        }
    }

    /// Tells the next part where its places come.
    fn share(&self, other: &mut Tallies) {
        for &symbol in &other.met {
            let (ours, theirs) = (self.by_symbol[symbol as usize], &mut other.by_symbol[symbol as usize]);
            theirs.next = if ours.next == UNLISTED { UNLISTED } else { ours.next + theirs.next };
        }
    }

    fn begin(&mut self, symbols: usize) {
        for symbol in self.met.drain(..) {
            self.by_symbol[symbol as usize] = Tally::default();
        }
        self.by_symbol.resize(symbols, Tally::default());
    }

    fn put(&mut self, symbol: u32, slot: u32, places: &[AtomicU32]) {
        if symbol != BARRIER {
            let tally = &mut self.by_symbol[symbol as usize];
            if tally.next != UNLISTED {
                places[tally.next as usize].store(slot, Relaxed);
                tally.next += 1;
            }
        }
    }
}

impl Part {
    /// Replaces the occurrences at `places`, ascending, that are still there. `symbols`: how many there are, the union
    /// included.
    pub fn replace(&mut self, merge: &Merge, text: &Text, places: &[AtomicU32], symbols: usize) {
        let Merge { left, right, union, left_length, right_length } = *merge;
        self.before.begin(symbols);
        self.after.begin(symbols);
        self.occurrences.clear();
        self.overlap = 0;
        let mut weights = text.weights();
        for places in places.chunks(BLOCK) {
            // First all is read, so that the processor waits for many slots at once.
            let mut slots = [(0, false); BLOCK];
            for (slot, place) in slots.iter_mut().zip(places) {
                let at = place.load(Relaxed);
                let first = at as usize;
                *slot = (at, text.at(first) == left && text.at(first + left_length) == right);
            }
            for (at, _) in slots[..places.len()].iter().filter(|(_, there)| *there) {
                let first = *at as usize;
                let middle = first + left_length;
                // Not if the pair overlapped with the one before: "aaa".
                if text.at(first) != left {
                    continue;
                }
                let end = middle + right_length;
                let (previous, next) = (text.at(first - 1), text.at(end));
                let weight = weights.at(*at);
                if previous != BARRIER {
                    self.before.meet(previous, 1, weight);
                    if previous == union {
                        self.overlap += weight;
                    }
                }
                if next != BARRIER {
                    self.after.meet(next, 1, weight);
                }
                self.occurrences.push((*at, previous, next));
                text.put(middle - 1, INSIDE);
                text.put(middle, INSIDE);
                text.put(first, union);
                text.put(end - 1, union);
            }
        }
    }

    /// Takes in what the later `parts` have found.
    pub fn absorb(&mut self, parts: &mut [Part]) {
        for part in parts {
            self.before.absorb(&mut part.before);
            self.after.absorb(&mut part.after);
            self.overlap += part.overlap;
        }
    }

    /// Tells the later `parts` where the places of their pairs are to be put.
    pub fn share(&self, parts: &mut [Part]) {
        for part in parts {
            self.before.share(&mut part.before);
            self.after.share(&mut part.after);
        }
    }

    /// Puts down the places of the new pairs. `lengths`: of the symbols, in characters.
    pub fn list(&mut self, lengths: &[u32], places: &[AtomicU32]) {
        for &(at, previous, next) in &self.occurrences {
            let start = if previous == BARRIER { at } else { at - lengths[previous as usize] };
            self.before.put(previous, start, places);
            self.after.put(next, at, places);
        }
    }
}
