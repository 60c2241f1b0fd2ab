//! The merges of a training: the most frequent pair of neighbours becomes a symbol, again and again.
//!
//! A pair has its number of occurrences, kept exact, and the slots where they were seen, checked when they are used.
//! After the merge that it came up with a pair only grows rarer. So pairs that come up rarer than a floor, which are most
//! of them, are only counted; should one of them be needed after all, the floor is lowered and the text searched again.
//!
//! The work is the same on every number of threads: a frequent pair's places are dealt out by words, and what the threads
//! find is put together in the order of the text.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rayon::prelude::*;

use super::super::pair_map::{PairMap, pair_key};
use super::Rules;
use super::agenda::Agenda;
use super::census::Census;
use super::scan::{self, Found};
use super::shape::Shape;
use super::step::{Merge, Part, UNLISTED};
use super::text::Text;
use crate::error::Result;

/// After so many merges SentencePiece sets anew which pairs are active.
const REFRESH: usize = 100;

/// At first so many times as many pairs are kept as are active. The number of pairs, and of active ones with it, grows
/// as merges make symbols; with this many the floor seldom has to be lowered.
const KEPT: usize = 6;

/// From when on the means for large texts are used; they change nothing but time and memory.
#[derive(Clone, Copy)]
pub struct Limits {
    /// Of up to so many pairs all are kept.
    pub few_pairs: usize,
    /// A merge of up to so many places is done by one thread.
    pub few_places: usize,
}

impl Limits {
    pub const DEFAULT: Limits = Limits { few_pairs: 1 << 16, few_places: 1 << 14 };
}

struct Symbol {
    text: Box<str>,
    shape: Shape,
}

struct Pair {
    left: u32,
    right: u32,
    /// Occurrences now, times the counts of their words.
    count: u64,
    /// Occurrences at the last refresh, if they are known to have changed since: (number of the refresh, count).
    before: (u32, u64),
    /// First slots of its occurrences, ascending: a range of [`Learner::places`].
    start: usize,
    places: u32,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Merged, or found to spell a piece that there is already.
    Closed,
    /// Closed, but counted among the pairs again (see [`Learner::lose`]).
    Revived,
}

/// A pair in the agenda, with its count at that time.
#[derive(Clone, Copy)]
struct Entry {
    count: u64,
    pair: u32,
}

struct Learner {
    rules: Rules,
    limits: Limits,
    text: Text,
    symbols: Vec<Symbol>,
    /// Of the symbols, in characters.
    lengths: Vec<u32>,
    /// Those that are kept: that had a count of `floor` when they came up.
    pairs: Vec<Pair>,
    floor: u64,
    index: PairMap<u32>,
    places: Vec<AtomicU32>,
    agenda: Agenda<Entry>,
    set_aside: Vec<Entry>,
    census: Census,
    refreshes: u32,
    /// The symbols that there were at the last refresh.
    symbols_before: usize,
    /// Pairs rarer than this at the last refresh are not active.
    cut: u64,
    /// One for each thread.
    parts: Vec<Part>,
}

/// The merged texts, in order: `wanted` ones, and on while `more` says so; fewer if no pair is left.
pub fn learn(
    text: Text,
    rules: Rules,
    characters: &[(char, u64)],
    limits: Limits,
    wanted: usize,
    mut more: impl FnMut(&[String]) -> Result<bool>,
) -> Result<Vec<String>> {
    let mut learner = Learner::new(text, rules, characters, limits);
    let mut merges: Vec<String> = Vec::new();
    let mut seen = HashSet::new();
    let mut go_on = false;
    loop {
        if merges.len().is_multiple_of(REFRESH) {
            go_on = more(&merges)?;
            learner.refresh();
        }
        if merges.len() >= wanted && !go_on {
            break;
        }
        let Some(best) = learner.best() else { break };
        let text = learner.text(best);
        learner.close(best);
        // Another way to spell a piece that there is: "a" + "aa" after "aa" + "a". Never merged.
        if seen.insert(text.clone()) {
            learner.merge(best, &text);
            merges.push(text);
        }
    }
    Ok(merges)
}

impl Learner {
    fn new(text: Text, rules: Rules, characters: &[(char, u64)], limits: Limits) -> Self {
        let symbols: Vec<_> = characters
            .iter()
            .map(|(c, _)| Symbol { text: c.to_string().into(), shape: Shape::of(*c, &rules) })
            .collect();
        let mut learner = Self {
            rules,
            limits,
            census: Census::new(symbols.len() + usize::from(text.has_unknown())),
            text,
            lengths: vec![1; symbols.len()],
            symbols_before: symbols.len(),
            symbols,
            pairs: Vec::new(),
            floor: 0,
            index: PairMap::default(),
            places: Vec::new(),
            agenda: Agenda::new(Vec::new(), |_, _| false),
            set_aside: Vec::new(),
            refreshes: 0,
            cut: 0,
            parts: Vec::new(),
        };
        learner.begin();
        learner
    }

    /// Finds the pairs of characters, and a floor under which lie most of them but not the active ones.
    fn begin(&mut self) {
        let joins = |left, right, _| join(&self.symbols, left, right, &self.rules).is_some();
        let (found, places) = scan::pairs(&self.text, &self.lengths, joins);
        self.census.born(found.len());
        self.places = places;
        let kept = KEPT * self.census.active();
        self.floor = 1;
        if found.len() > self.limits.few_pairs.max(kept) {
            let mut counts: Vec<u64> = found.iter().map(|pair| pair.count).collect();
            self.floor = *counts.select_nth_unstable_by(kept, |a, b| b.cmp(a)).1;
        }
        let floor = self.floor;
        self.keep(found.iter().filter(|pair| pair.count >= floor).map(|pair| (pair, pair.start as usize)));
        // Over the places of the pairs that are not kept.
        self.close_gaps();
    }

    /// Lowers the floor, and finds the pairs that are above it now.
    fn lower_floor(&mut self) {
        self.close_gaps();
        self.floor = (self.floor / 2).max(1);
        let wanted = |left, right, count| {
            count >= self.floor
                && !self.index.contains_key(&pair_key(left, right))
                && join(&self.symbols, left, right, &self.rules).is_some()
        };
        let (found, places) = scan::pairs(&self.text, &self.lengths, wanted);
        let mut starts = Vec::new();
        for pair in &found {
            starts.push(self.places.len());
            let range = pair.start as usize..(pair.start + pair.places) as usize;
            self.places.extend(places[range].iter().map(|place| AtomicU32::new(place.load(Relaxed))));
        }
        self.keep(found.iter().zip(starts));
    }

    /// Keeps pairs whose places begin there.
    fn keep<'f>(&mut self, found: impl Iterator<Item = (&'f Found, usize)>) {
        let mut entries = std::mem::replace(&mut self.agenda, Agenda::new(Vec::new(), |_, _| false)).into_entries();
        for (&Found { left, right, count, places, .. }, start) in found {
            // What came up since the last refresh is active until the next, as if it had been frequent then. What was
            // there was below the floor, and so not active.
            let is_new = left.max(right) as usize >= self.symbols_before;
            let before = (self.refreshes, if is_new { u64::MAX } else { 0 });
            let pair = self.pairs.len() as u32;
            self.pairs.push(Pair { left, right, count, before, start, places, state: State::Open });
            self.index.insert(pair_key(left, right), pair);
            self.census.enter(count);
            entries.push(Entry { count, pair });
        }
        self.agenda = Agenda::new(entries, before(&self.pairs, &self.symbols));
    }

    /// Moves the places of the open pairs together.
    fn close_gaps(&mut self) {
        let mut order: Vec<&mut Pair> = self.pairs.iter_mut().filter(|pair| pair.places > 0).collect();
        order.sort_unstable_by_key(|pair| pair.start);
        let mut end = 0;
        for pair in order {
            let from = std::mem::replace(&mut pair.start, end);
            for place in from..from + pair.places as usize {
                *self.places[end].get_mut() = *self.places[place].get_mut();
                end += 1;
            }
        }
        self.places.truncate(end);
        self.places.shrink_to_fit();
    }

    fn text(&self, pair: u32) -> String {
        let Pair { left, right, .. } = self.pairs[pair as usize];
        [left, right].map(|symbol| &*self.symbols[symbol as usize].text).concat()
    }

    /// Sets anew which pairs are active.
    fn refresh(&mut self) {
        self.cut = loop {
            match self.census.cut(self.floor) {
                Some(cut) => break cut,
                None => self.lower_floor(),
            }
        };
        self.refreshes += 1;
        self.symbols_before = self.symbols.len();
        for entry in std::mem::take(&mut self.set_aside) {
            self.agenda.push(entry, before(&self.pairs, &self.symbols));
        }
    }

    /// The active pair of highest count; of equal ones the shorter, then the one that comes first in code order.
    fn best(&mut self) -> Option<u32> {
        loop {
            let best = self.best_kept();
            if self.floor <= 1 || best.is_some_and(|best| self.pairs[best as usize].count >= self.floor) {
                return best;
            }
            // A pair that is not kept may come first.
            if let Some(pair) = best {
                let entry = Entry { count: self.pairs[pair as usize].count, pair };
                self.agenda.push(entry, before(&self.pairs, &self.symbols));
            }
            self.lower_floor();
        }
    }

    fn best_kept(&mut self) -> Option<u32> {
        while let Some(entry) = self.agenda.pop(before(&self.pairs, &self.symbols)) {
            let Pair { count, before: (refresh, earlier), state, .. } = self.pairs[entry.pair as usize];
            if state != State::Open || count == 0 {
                continue;
            }
            if count != entry.count {
                self.agenda.push(Entry { count, ..entry }, before(&self.pairs, &self.symbols));
                continue;
            }
            let at_refresh = if refresh == self.refreshes { earlier } else { count };
            if at_refresh >= self.cut {
                return Some(entry.pair);
            }
            self.set_aside.push(entry);
        }
        None
    }

    fn close(&mut self, pair: u32) {
        let pair = &mut self.pairs[pair as usize];
        pair.state = State::Closed;
        self.census.leave(pair.count);
        self.census.died();
    }

    /// Replaces every occurrence of `best` by a new symbol.
    fn merge(&mut self, best: u32, text: &str) {
        let Pair { left, right, start, places, .. } = self.pairs[best as usize];
        let Some(shape) = join(&self.symbols, left, right, &self.rules) else { return };
        let union = self.symbols.len() as u32;
        self.symbols.push(Symbol { text: text.into(), shape });
        self.lengths.push(shape.length as u32);
        let [left_length, right_length] = [left, right].map(|symbol| self.lengths[symbol as usize] as usize);
        let merge = Merge { left, right, union, left_length, right_length };
        let range = start..start + places as usize;
        self.pairs[best as usize].places = 0;

        let mut parts = std::mem::take(&mut self.parts);
        let shares = self.shares(range);
        parts.resize_with(shares.len().max(parts.len()), Part::default);
        let symbols = self.symbols.len();
        let replace = |(part, share): (&mut Part, &Range<usize>)| {
            part.replace(&merge, &self.text, &self.places[share.clone()], symbols);
        };
        let used = &mut parts[..shares.len()];
        match &mut *used {
            [only] => replace((only, &shares[0])),
            several => several.par_iter_mut().zip(&shares).for_each(replace),
        }
        let end = self.places.len();
        if let [first, others @ ..] = &mut *used {
            first.absorb(others);
            self.settle(first, &merge, best);
            first.share(others);
        }
        let listed = &self.places[end..];
        match used {
            [only] => only.list(&self.lengths, listed),
            several => several.par_iter_mut().for_each(|part| part.list(&self.lengths, listed)),
        }
        self.parts = parts;
    }

    /// What a merge did to other pairs: the old ones with its halves grew rarer, the new ones with the union came up.
    fn settle(&mut self, part: &mut Part, merge: &Merge, best: u32) {
        let &Merge { left, right, union, .. } = merge;
        let mut listed = 0;
        let before: Vec<u32> = part.before.symbols().collect();
        let old: Vec<_> = before.iter().map(|symbol| self.number((*symbol, left))).collect();
        for (&symbol, old) in before.iter().zip(old) {
            let tally = part.before.of(symbol);
            self.lose(old, tally.count, best);
            tally.next = self.gain((symbol, union), tally.count, tally.occurrences, &mut listed);
        }
        let after: Vec<u32> = part.after.symbols().collect();
        let old: Vec<_> = after.iter().map(|symbol| self.number((right, *symbol))).collect();
        for (&symbol, old) in after.iter().zip(old) {
            let tally = part.after.of(symbol);
            self.lose(old, tally.count, best);
            let overlap = if symbol == left { part.overlap } else { 0 };
            tally.next = self.gain((union, symbol), tally.count - overlap, tally.occurrences, &mut listed);
        }
        self.places.resize_with(self.places.len() + listed as usize, AtomicU32::default);
    }

    /// The number of a pair; `None` if it is not kept, or may not be joined.
    fn number(&self, (left, right): (u32, u32)) -> Option<u32> {
        self.index.get(&pair_key(left, right)).copied()
    }

    /// Occurrences of a pair have gone. Where SentencePiece meets a closed pair again it makes it anew, without
    /// occurrences: it is never merged but counts among all pairs.
    fn lose(&mut self, number: Option<u32>, count: u64, best: u32) {
        let Some(number) = number.filter(|number| *number != best) else { return };
        let pair = &mut self.pairs[number as usize];
        match pair.state {
            State::Open => {
                if pair.before.0 != self.refreshes {
                    pair.before = (self.refreshes, pair.count);
                }
                self.census.leave(pair.count);
                pair.count -= count;
                self.census.enter(pair.count);
            }
            State::Closed => {
                pair.state = State::Revived;
                self.census.born(1);
                self.census.enter(0);
            }
            State::Revived => {}
        }
    }

    /// A pair has come up. Gives the place among those listed where its own begin, if it is kept.
    fn gain(&mut self, (left, right): (u32, u32), count: u64, occurrences: u32, listed: &mut u32) -> u32 {
        if join(&self.symbols, left, right, &self.rules).is_none() {
            return UNLISTED;
        }
        self.census.born(1);
        if count < self.floor {
            return UNLISTED;
        }
        let pair = self.pairs.len() as u32;
        let start = self.places.len() + *listed as usize;
        // Active until the next refresh, as if it had been frequent at the last one.
        let before = (self.refreshes, u64::MAX);
        self.pairs.push(Pair { left, right, count, before, start, places: occurrences, state: State::Open });
        self.index.insert(pair_key(left, right), pair);
        self.census.enter(count);
        self.agenda.push(Entry { count, pair }, self::before(&self.pairs, &self.symbols));
        std::mem::replace(listed, *listed + occurrences)
    }

    /// A range of places, cut between words, into a part for each thread.
    fn shares(&self, places: Range<usize>) -> Vec<Range<usize>> {
        let threads = if places.len() > self.limits.few_places { rayon::current_num_threads() } else { 1 };
        let place = |place: usize| self.places[place].load(Relaxed) as usize;
        let mut shares = Vec::new();
        let mut start = places.start;
        for part in 1..threads {
            let mut end = start.max(places.start + places.len() * part / threads);
            while end > start && end < places.end && !self.text.is_parted(place(end - 1)..place(end)) {
                end += 1;
            }
            if end > start {
                shares.push(start..end);
                start = end;
            }
        }
        shares.push(start..places.end);
        shares
    }
}

/// The shape of two symbols as one, if they may be joined.
fn join(symbols: &[Symbol], left: u32, right: u32, rules: &Rules) -> Option<Shape> {
    symbols[left as usize].shape.join(symbols[right as usize].shape, rules)
}

/// Which of two entries is to be merged first. Two spellings of one text: the one that came up first.
fn before<'a>(pairs: &'a [Pair], symbols: &'a [Symbol]) -> impl Fn(Entry, Entry) -> bool + 'a {
    let parts = |entry: Entry| {
        let Pair { left, right, .. } = pairs[entry.pair as usize];
        [left, right].map(|symbol| &symbols[symbol as usize])
    };
    let length = move |entry| parts(entry).iter().map(|symbol| symbol.shape.length).sum::<usize>();
    let compare_texts = move |a, b| {
        let bytes = |entry| parts(entry).into_iter().flat_map(|symbol| symbol.text.bytes());
        bytes(a).cmp(bytes(b))
    };
    move |a, b| {
        let order = b.count.cmp(&a.count).then_with(|| length(a).cmp(&length(b)));
        order.then_with(|| compare_texts(a, b)).then_with(|| a.pair.cmp(&b.pair)).is_lt()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Alphabet, Words};
    use super::*;

    const ALL_KEPT_ONE_THREAD: Limits = Limits { few_pairs: usize::MAX, few_places: usize::MAX };
    const FEW_KEPT_MANY_THREADS: Limits = Limits { few_pairs: 0, few_places: 1 };

    /// Lines of words that grow from few characters, some of them one after the other, with long runs of one character.
    fn lines(seed: u64) -> Vec<String> {
        let mut state = seed;
        let mut below = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        let letters: Vec<char> = ('一'..='龥').step_by(120).chain("aab 0。".chars()).collect();
        let mut words: Vec<String> = Vec::new();
        let mut lines = Vec::new();
        for _ in 0..5000 {
            let mut line = String::new();
            for _ in 0..2 + below(12) {
                // The square of a chance: some letters and words are frequent.
                let chance = below(1000) * below(1000);
                let letter = letters[(chance * letters.len() as u64 / 1_000_000) as usize];
                match below(4) {
                    0 if !words.is_empty() => line += &words[(chance * words.len() as u64 / 1_000_000) as usize],
                    1 => line += &letter.to_string().repeat(1 + below(9) as usize),
                    _ => line.push(letter),
                }
            }
            words.push(line.chars().take(7).collect());
            lines.push(line);
        }
        // Half of them four times, half of them twice.
        lines.extend_from_within(..2500);
        lines.extend_from_within(..);
        lines
    }

    fn text(words: &Words) -> (Text, Vec<(char, u64)>) {
        let characters = words.alphabet(Alphabet::Coverage(0.998));
        (Text::new(words, &characters).unwrap(), characters)
    }

    fn learn_with(limits: Limits, threads: usize, words: &Words, wanted: usize) -> Vec<String> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (text, characters) = text(words);
            learn(text, *words.rules(), &characters, limits, wanted, |_| Ok(false)).unwrap()
        })
    }

    #[test]
    fn neither_threads_nor_pairs_that_are_not_kept_change_a_merge() {
        let llama = Rules { split_digits: true, allow_whitespace_only_pieces: true, ..Rules::SENTENCEPIECE };
        for (seed, rules) in [(1, Rules::SENTENCEPIECE), (2, llama)] {
            let words = Words::of(rules, &lines(seed));
            let (text, characters) = text(&words);
            assert!(Learner::new(text, rules, &characters, FEW_KEPT_MANY_THREADS).floor > 3);
            // To the end of the text: the floor is lowered down to 1.
            let expected = learn_with(ALL_KEPT_ONE_THREAD, 1, &words, usize::MAX);
            assert!(expected.len() > 5000, "{}", expected.len());
            for threads in [1, 3] {
                let found = learn_with(FEW_KEPT_MANY_THREADS, threads, &words, usize::MAX);
                assert!(found == expected, "{:?}", found.iter().zip(&expected).position(|(a, b)| a != b));
            }
        }
    }
}
