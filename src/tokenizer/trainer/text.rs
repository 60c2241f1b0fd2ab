//! The text of a training as the symbols that it consists of at the moment.
//!
//! One array of slots, a character each, words parted by a barrier. A symbol of n characters owns n slots; its id stands
//! in the first and the last of them, so that both neighbours of a symbol are found without links. Threads that write
//! keep to different words; the slots are atomic only so that this needs no proof.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rayon::prelude::*;

use super::words::Words;
use crate::error::{Error, Result};

/// A slot between words, and one with a character that is no piece: nothing joins over it.
pub const BARRIER: u32 = u32::MAX;
/// A slot inside a symbol.
pub const INSIDE: u32 = u32::MAX - 1;

/// Memory: 4 bytes a character and a word.
pub struct Text {
    slots: Vec<AtomicU32>,
    /// From which slot on words have which count; descending counts.
    weights: Vec<(u32, u64)>,
    has_unknown: bool,
}

impl Text {
    /// The words with the symbol `n` for the n-th of `characters`.
    pub fn new(words: &Words, characters: &[(char, u64)]) -> Result<Self> {
        let mut symbols = vec![BARRIER; char::MAX as usize + 1];
        for (symbol, (c, _)) in (0..).zip(characters) {
            symbols[*c as usize] = symbol;
        }
        let stretches = words.stretches();
        let lengths: Vec<usize> = stretches.par_iter().map(|(text, _)| text.chars().count()).collect();
        let length = 1 + lengths.iter().sum::<usize>();
        if u32::try_from(length).is_err() {
            return Err(Error::invalid("the text to train on has more than 4 thousand million characters")
                .hint("train on a sample: lower `lines`"));
        }
        let slots: Vec<AtomicU32> = (0..length).into_par_iter().map(|_| AtomicU32::new(BARRIER)).collect();
        let mut weights: Vec<(u32, u64)> = Vec::new();
        let mut rest = &slots[1..];
        let mut pieces = Vec::new();
        for (&(ref text, count), length) in stretches.iter().zip(lengths) {
            if weights.last().is_none_or(|(_, last)| *last != count) {
                weights.push(((slots.len() - rest.len()) as u32, count));
            }
            let (piece, tail) = rest.split_at(length);
            pieces.push((text, piece));
            rest = tail;
        }
        pieces.into_par_iter().for_each(|(text, slots)| {
            text.chars().zip(slots).for_each(|(c, slot)| slot.store(symbols[c as usize], Relaxed));
        });
        let has_unknown = words.is_parted() || characters.len() < words.characters();
        Ok(Self { slots, weights, has_unknown })
    }

    pub fn at(&self, slot: usize) -> u32 {
        self.slots[slot].load(Relaxed)
    }

    pub fn put(&self, slot: usize, symbol: u32) {
        self.slots[slot].store(symbol, Relaxed);
    }

    /// Whether there is a character that is no piece.
    pub fn has_unknown(&self) -> bool {
        self.has_unknown
    }

    /// Whether a barrier stands among these slots.
    pub fn is_parted(&self, mut slots: Range<usize>) -> bool {
        slots.any(|slot| self.at(slot) == BARRIER)
    }

    /// About as many ranges as asked for that begin with a barrier and together are the whole text.
    pub fn parts(&self, number: usize) -> Vec<Range<usize>> {
        let mut parts = Vec::new();
        let mut start = 0;
        for part in 1..=number {
            let from = (self.slots.len() as u64 * part as u64 / number as u64) as usize;
            let end = (from..self.slots.len()).find(|slot| self.at(*slot) == BARRIER).unwrap_or(self.slots.len());
            if end > start {
                parts.push(start..end);
                start = end;
            }
        }
        parts
    }

    pub fn weights(&self) -> Weights<'_> {
        Weights { weights: &self.weights, run: 0, until: 0 }
    }
}

/// The counts of the words that slots lie in, for ascending slots.
pub struct Weights<'a> {
    weights: &'a [(u32, u64)],
    run: usize,
    /// The last slot of the run.
    until: u32,
}

impl Weights<'_> {
    pub fn at(&mut self, slot: u32) -> u64 {
        if slot > self.until {
            self.run += self.weights[self.run + 1..].partition_point(|(start, _)| *start <= slot);
            self.until = self.weights.get(self.run + 1).map_or(u32::MAX, |(start, _)| start - 1);
        }
        self.weights[self.run].1
    }
}
