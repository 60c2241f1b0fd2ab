//! The pairs of neighbours in a text with their places, found by two counting sorts: by left symbol, then by right.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rayon::prelude::*;

use super::text::{BARRIER, Text};

/// A pair of neighbours.
pub struct Found {
    pub left: u32,
    pub right: u32,
    /// Occurrences, times the counts of their words.
    pub count: u64,
    /// Index of its first place among all, and how many it has: the first slots of its occurrences, ascending.
    pub start: u32,
    pub places: u32,
}

/// The pairs that are `wanted`, given their symbols and count, by left and right symbol, and the places of all pairs.
/// `lengths` are those of the symbols in characters. Memory: 4 bytes a symbol of the text and 24 a pair, and about as
/// much again for a moment. Uses the threads of Rayon's current pool; their number changes nothing.
pub fn pairs(
    text: &Text,
    lengths: &[u32],
    wanted: impl Fn(u32, u32, u64) -> bool + Sync,
) -> (Vec<Found>, Vec<AtomicU32>) {
    let parts = text.parts(rayon::current_num_threads());
    let mut starts: Vec<Vec<u32>> = parts
        .par_iter()
        .map(|part| {
            let mut counts = vec![0; lengths.len()];
            each_place(text, lengths, part, |left, _| counts[left as usize] += 1);
            counts
        })
        .collect();
    let mut total = 0;
    let mut ends = Vec::with_capacity(lengths.len());
    for left in 0..lengths.len() {
        for part in &mut starts {
            total += std::mem::replace(&mut part[left], total);
        }
        ends.push(total);
    }
    let places: Vec<AtomicU32> = (0..total).into_par_iter().map(|_| AtomicU32::new(0)).collect();
    parts.par_iter().zip(&mut starts).for_each(|(part, next)| {
        each_place(text, lengths, part, |left, slot| {
            let next = &mut next[left as usize];
            places[*next as usize].store(slot as u32, Relaxed);
            *next += 1;
        });
    });
    let found: Vec<Vec<Found>> = (0..lengths.len())
        .into_par_iter()
        .map_init(
            || ByRight::new(lengths.len()),
            |by_right, left| {
                let start = if left == 0 { 0 } else { ends[left - 1] };
                let places = &places[start as usize..ends[left] as usize];
                by_right.sort(text, lengths[left], places);
                by_right.found(left as u32, start, &wanted)
            },
        )
        .collect();
    (found.into_iter().flatten().collect(), places)
}

/// Calls `place` with the left symbol and the first slot of every pair of neighbours.
fn each_place(text: &Text, lengths: &[u32], part: &Range<usize>, mut place: impl FnMut(u32, usize)) {
    let mut slot = part.start;
    while slot < part.end {
        let left = text.at(slot);
        if left == BARRIER {
            slot += 1;
            continue;
        }
        let next = slot + lengths[left as usize] as usize;
        // Behind the last word stands a barrier.
        if text.at(next) != BARRIER {
            place(left, slot);
        }
        slot = next;
    }
}

/// The places of one left symbol, sorted by right symbol.
struct ByRight {
    /// By right symbol; zero but for those in `met`.
    tallies: Vec<Tally>,
    met: Vec<u32>,
    places: Vec<(u32, u32)>,
}

#[derive(Clone, Copy, Default)]
struct Tally {
    count: u64,
    places: u32,
    next: u32,
}

impl ByRight {
    fn new(symbols: usize) -> Self {
        Self { tallies: vec![Tally::default(); symbols], met: Vec::new(), places: Vec::new() }
    }

    fn sort(&mut self, text: &Text, length: u32, places: &[AtomicU32]) {
        // The text is read before anything is done with it, so that the processor waits for many slots at once.
        self.places.clear();
        self.places.extend(places.iter().map(|place| {
            let slot = place.load(Relaxed);
            (text.at((slot + length) as usize), slot)
        }));
        let mut weights = text.weights();
        for &(right, slot) in &self.places {
            let tally = &mut self.tallies[right as usize];
            if tally.places == 0 {
                self.met.push(right);
            }
            tally.places += 1;
            tally.count += weights.at(slot);
        }
        self.met.sort_unstable();
        let mut next = 0;
        for right in &self.met {
            let tally = &mut self.tallies[*right as usize];
            tally.next = next;
            next += tally.places;
        }
        for (right, slot) in &self.places {
            let tally = &mut self.tallies[*right as usize];
            places[tally.next as usize].store(*slot, Relaxed);
            tally.next += 1;
        }
    }

    /// What was found; begins anew.
    fn found(&mut self, left: u32, start: u32, wanted: &impl Fn(u32, u32, u64) -> bool) -> Vec<Found> {
        let mut found = Vec::new();
        for right in self.met.drain(..) {
            let Tally { count, places, next } = std::mem::take(&mut self.tallies[right as usize]);
            if wanted(left, right, count) {
                found.push(Found { left, right, count, start: start + next - places, places });
            }
        }
        found
    }
}
