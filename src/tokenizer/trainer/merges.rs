//! The merges of a training: the most frequent pair of neighbours becomes a symbol, again and again.
//!
//! The text lies in one array of slots, a character each, words parted by a barrier. A symbol of n characters owns n
//! slots; its id stands in the first and the last of them, so that both neighbours of a symbol are found without links.
//! Pairs have their number of occurrences, kept exact, and the slots where they were seen, checked when they are used.

use std::collections::HashSet;

use super::super::pair_map::{PairMap, pair_key};
use super::Rules;
use super::agenda::Agenda;
use super::shape::Shape;
use super::words::Words;
use crate::error::{Error, Result};

/// A slot between words, and one with a character that is no piece: nothing joins over it.
const BARRIER: u32 = u32::MAX;
/// A slot inside a symbol.
const INSIDE: u32 = u32::MAX - 1;
/// In place of a pair: the two may not be joined.
const FORBIDDEN: u32 = u32::MAX;

/// SentencePiece looks for the best pair among active ones: after every so many merges the most frequent 5 % (at
/// least 1000), and all pairs that came up since.
const REFRESH: usize = 100;
const ACTIVE_SHARE: f32 = 0.05;
const ACTIVE_LEAST: usize = 1000;
/// Frequencies from here on are counted as one in [`Census`].
const FREQUENT: usize = 1 << 16;

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
    places: Places,
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

/// First slots of a pair's occurrences, ascending.
enum Places {
    /// A range of [`Learner::pool`].
    Pool(usize, usize),
    Own(Vec<u32>),
}

/// A pair in the agenda, with its count at that time.
#[derive(Clone, Copy)]
struct Entry {
    count: u64,
    pair: u32,
}

struct Learner<'a> {
    rules: &'a Rules,
    slots: Vec<u32>,
    /// From which slot on words have which count; descending counts.
    weights: Vec<(u32, u64)>,
    symbols: Vec<Symbol>,
    pairs: Vec<Pair>,
    index: PairMap<u32>,
    pool: Vec<u32>,
    agenda: Agenda<Entry>,
    set_aside: Vec<Entry>,
    census: Census,
    refreshes: u32,
    /// Pairs rarer than this at the last refresh are not active.
    cut: u64,
    neighbours: Neighbours,
    /// Pairs whose count changed in this step, with the count they had.
    touched: Vec<(u32, u64)>,
    newborn: Vec<u32>,
}

/// The merged texts, in order: `wanted` ones, and on while `more` says so; fewer if no pair is left.
pub fn learn(
    words: &Words,
    characters: &[(char, u64)],
    wanted: usize,
    mut more: impl FnMut(&[String]) -> Result<bool>,
) -> Result<Vec<String>> {
    let mut learner = Learner::new(words, characters)?;
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

impl<'a> Learner<'a> {
    fn new(words: &'a Words, characters: &[(char, u64)]) -> Result<Self> {
        let rules = words.rules();
        let symbols: Vec<_> = characters
            .iter()
            .map(|(c, _)| Symbol { text: c.to_string().into(), shape: Shape::of(*c, rules) })
            .collect();
        let ids: std::collections::HashMap<char, u32> = characters.iter().map(|(c, _)| *c).zip(0..).collect();
        let mut slots = vec![BARRIER];
        let mut weights: Vec<(u32, u64)> = Vec::new();
        let mut has_unknown = false;
        for (word, count) in words.sorted() {
            let Ok(start) = u32::try_from(slots.len() + word.len()).map(|_| slots.len() as u32) else {
                return Err(Error::invalid("the text to train on has more than 4 thousand million characters")
                    .hint("train on a sample: lower `lines`"));
            };
            if weights.last().is_none_or(|(_, last)| *last != count) {
                weights.push((start, count));
            }
            for c in word.chars() {
                let id = ids.get(&c).copied().unwrap_or(BARRIER);
                has_unknown |= id == BARRIER;
                slots.push(id);
            }
            slots.push(BARRIER);
        }
        let mut learner = Self {
            rules,
            slots,
            weights,
            neighbours: Neighbours::default(),
            census: Census::new(symbols.len() + usize::from(has_unknown)),
            symbols,
            pairs: Vec::new(),
            index: PairMap::default(),
            pool: Vec::new(),
            agenda: Agenda::new(Vec::new(), |_, _| false),
            set_aside: Vec::new(),
            refreshes: 0,
            cut: 0,
            touched: Vec::new(),
            newborn: Vec::new(),
        };
        learner.find_pairs();
        Ok(learner)
    }

    /// Counts the pairs of the text as it stands, and lists where they are.
    fn find_pairs(&mut self) {
        let mut at_slot = vec![FORBIDDEN; self.slots.len()];
        let mut occurrences: Vec<usize> = Vec::new();
        let mut run = 0;
        for (slot, found) in at_slot.iter_mut().enumerate().skip(1) {
            run += usize::from(self.weights.get(run + 1).is_some_and(|(start, _)| *start as usize == slot));
            let weight = self.weights[run].1;
            let (left, Some(&right)) = (self.slots[slot], self.slots.get(slot + 1)) else { break };
            if left == BARRIER || right == BARRIER {
                continue;
            }
            let pair = self.pair(left, right);
            if pair != FORBIDDEN {
                occurrences.resize(self.pairs.len(), 0);
                occurrences[pair as usize] += 1;
                self.pairs[pair as usize].count += weight;
                *found = pair;
            }
        }
        let mut start = 0;
        for (pair, occurrences) in self.pairs.iter_mut().zip(&occurrences) {
            pair.places = Places::Pool(start, start);
            start += occurrences;
        }
        self.pool = vec![0; start];
        for (slot, pair) in (0..).zip(&at_slot) {
            if *pair != FORBIDDEN
                && let Places::Pool(_, end) = &mut self.pairs[*pair as usize].places
            {
                self.pool[*end] = slot;
                *end += 1;
            }
        }
        let entries: Vec<_> =
            (0..).zip(&self.pairs).map(|(pair, Pair { count, .. })| Entry { count: *count, pair }).collect();
        entries.iter().for_each(|entry| self.census.enter(entry.count));
        self.agenda = Agenda::new(entries, before(&self.pairs, &self.symbols));
        self.newborn.clear();
    }

    /// The pair of two symbols, made if it is new; [`FORBIDDEN`] if they may not be joined.
    fn pair(&mut self, left: u32, right: u32) -> u32 {
        let key = pair_key(left, right);
        if let Some(&pair) = self.index.get(&key) {
            return pair;
        }
        let (l, r) = (self.symbols[left as usize].shape, self.symbols[right as usize].shape);
        let mut pair = FORBIDDEN;
        if l.join(r, self.rules).is_some() {
            pair = self.pairs.len() as u32;
            // New pairs are active until the next refresh: as if they had been frequent at the last one.
            let before = (self.refreshes, u64::MAX);
            let places = Places::Own(Vec::new());
            self.pairs.push(Pair { left, right, count: 0, before, places, state: State::Open });
            self.newborn.push(pair);
        }
        self.index.insert(key, pair);
        pair
    }

    fn text(&self, pair: u32) -> String {
        let Pair { left, right, .. } = self.pairs[pair as usize];
        [left, right].map(|symbol| &*self.symbols[symbol as usize].text).concat()
    }

    /// Sets anew which pairs are active.
    fn refresh(&mut self) {
        self.refreshes += 1;
        self.cut = self.census.cut();
        for entry in std::mem::take(&mut self.set_aside) {
            self.agenda.push(entry, before(&self.pairs, &self.symbols));
        }
    }

    /// The active pair of highest count; of equal ones the shorter, then the one that comes first in code order.
    fn best(&mut self) -> Option<u32> {
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
    }

    /// Replaces every occurrence of `best` by a new symbol.
    fn merge(&mut self, best: u32, text: &str) {
        let Pair { left, right, .. } = self.pairs[best as usize];
        let (l, r) = (self.symbols[left as usize].shape, self.symbols[right as usize].shape);
        let Some(shape) = l.join(r, self.rules) else { return };
        let union = self.symbols.len() as u32;
        self.symbols.push(Symbol { text: text.into(), shape });
        self.neighbours.begin(self.symbols.len());
        let places = std::mem::replace(&mut self.pairs[best as usize].places, Places::Pool(0, 0));
        match places {
            Places::Own(places) => {
                places.iter().for_each(|&at| self.replace(best, (left, l), (right, r), union, at))
            }
            Places::Pool(start, end) => {
                for place in start..end {
                    self.replace(best, (left, l), (right, r), union, self.pool[place]);
                }
            }
        }
        for pair in std::mem::take(&mut self.newborn) {
            let count = self.pairs[pair as usize].count;
            self.census.enter(count);
            if count > 0 {
                self.agenda.push(Entry { count, pair }, before(&self.pairs, &self.symbols));
            }
        }
        for (pair, earlier) in std::mem::take(&mut self.touched) {
            self.census.leave(earlier);
            self.census.enter(self.pairs[pair as usize].count);
        }
    }

    /// One occurrence of `best` at the slot `at`, if it is still there.
    fn replace(&mut self, best: u32, (left, l): (u32, Shape), (right, r): (u32, Shape), union: u32, at: u32) {
        let first = at as usize;
        let middle = first + l.length;
        if self.slots[first] != left || self.slots[middle] != right {
            return;
        }
        let end = middle + r.length;
        let (previous, next) = (self.slots[first - 1], self.slots[end]);
        let weight = self.weight(at);
        if previous != BARRIER {
            let start = at - self.symbols[previous as usize].shape.length as u32;
            if let Some(pair) = self.neighbour(Side::BeforeOld, previous, (previous, left)) {
                self.lose(pair, best, weight, union);
            }
            if let Some(pair) = self.neighbour(Side::BeforeNew, previous, (previous, union)) {
                self.gain(pair, start, weight);
            }
        }
        if next != BARRIER {
            if let Some(pair) = self.neighbour(Side::AfterOld, next, (right, next)) {
                self.lose(pair, best, weight, union);
            }
            if let Some(pair) = self.neighbour(Side::AfterNew, next, (union, next)) {
                self.gain(pair, at, weight);
            }
        }
        self.slots[middle - 1] = INSIDE;
        self.slots[middle] = INSIDE;
        self.slots[first] = union;
        self.slots[end - 1] = union;
    }

    /// The pair that a neighbour is or will be part of: looked up once in a step.
    fn neighbour(&mut self, side: Side, symbol: u32, (left, right): (u32, u32)) -> Option<u32> {
        let pair = match self.neighbours.get(side, symbol) {
            Some(pair) => pair,
            None => {
                let pair = self.pair(left, right);
                self.neighbours.set(side, symbol, pair);
                pair
            }
        };
        (pair != FORBIDDEN).then_some(pair)
    }

    /// An occurrence of `pair` has gone. Where SentencePiece meets a closed pair again it makes it anew, without
    /// occurrences: it is never merged but counts among all pairs.
    fn lose(&mut self, number: u32, best: u32, weight: u64, union: u32) {
        if number == best {
            return;
        }
        let pair = &mut self.pairs[number as usize];
        match pair.state {
            State::Open => {
                if pair.before.0 != self.refreshes {
                    pair.before = (self.refreshes, pair.count);
                }
                let is_new = pair.left == union || pair.right == union;
                if !is_new && self.neighbours.touch(number) {
                    self.touched.push((number, pair.count));
                }
                pair.count -= weight;
            }
            State::Closed => {
                pair.state = State::Revived;
                self.census.enter(0);
            }
            State::Revived => {}
        }
    }

    fn gain(&mut self, pair: u32, at: u32, weight: u64) {
        let pair = &mut self.pairs[pair as usize];
        pair.count += weight;
        if let Places::Own(places) = &mut pair.places {
            places.push(at);
        }
    }

    /// The count of the word that a slot lies in.
    fn weight(&self, slot: u32) -> u64 {
        match self.weights.last() {
            Some((start, count)) if slot >= *start => *count,
            _ => {
                let after = self.weights.partition_point(|(start, _)| *start <= slot);
                self.weights[after.saturating_sub(1)].1
            }
        }
    }
}

/// Which of two entries is to be merged first.
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
        order.then_with(|| compare_texts(a, b)).is_lt()
    }
}

/// How many pairs have which count: gives the count of the last active pair without sorting.
struct Census {
    by_count: Vec<usize>,
    pairs: usize,
    single: usize,
}

impl Census {
    fn new(single: usize) -> Self {
        Self { by_count: vec![0; FREQUENT + 1], pairs: 0, single }
    }

    fn enter(&mut self, count: u64) {
        self.by_count[count.min(FREQUENT as u64) as usize] += 1;
        self.pairs += 1;
    }

    fn leave(&mut self, count: u64) {
        self.by_count[count.min(FREQUENT as u64) as usize] -= 1;
        self.pairs -= 1;
    }

    /// The count of the last pair that is active; 0 if all are. Where several have that count, SentencePiece's choice
    /// among them depends on its hash table; here all of them are active. Counts above [`FREQUENT`] are not told apart.
    fn cut(&self) -> u64 {
        let share = ((self.pairs + self.single) as f32 * ACTIVE_SHARE) as usize;
        let active = share.max(ACTIVE_LEAST);
        if active >= self.pairs {
            return 0;
        }
        let mut above = 0;
        let reaches = |pairs: &usize| {
            above += pairs;
            above >= active
        };
        self.by_count.iter().rev().position(reaches).map_or(0, |from_top| (FREQUENT - from_top) as u64)
    }
}

#[derive(Clone, Copy)]
enum Side {
    BeforeOld,
    BeforeNew,
    AfterOld,
    AfterNew,
}

/// What a step has looked up already: pairs by side and symbol, and the pairs that were touched.
#[derive(Default)]
struct Neighbours {
    step: u32,
    pairs: [Vec<(u32, u32)>; 4],
    touched: Vec<u32>,
}

impl Neighbours {
    fn begin(&mut self, symbols: usize) {
        self.step += 1;
        self.pairs.iter_mut().for_each(|pairs| pairs.resize(symbols, (0, 0)));
    }

    fn get(&self, side: Side, symbol: u32) -> Option<u32> {
        let (step, pair) = self.pairs[side as usize][symbol as usize];
        (step == self.step).then_some(pair)
    }

    fn set(&mut self, side: Side, symbol: u32, pair: u32) {
        self.pairs[side as usize][symbol as usize] = (self.step, pair);
    }

    /// Whether this is the first time in this step.
    fn touch(&mut self, pair: u32) -> bool {
        let pair = pair as usize;
        if self.touched.len() <= pair {
            self.touched.resize(pair + 1, 0);
        }
        std::mem::replace(&mut self.touched[pair], self.step) != self.step
    }
}
