//! The merging itself: the neighbours whose union has the best rank become one symbol, ties to the left, until nothing
//! can be merged.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Watcher;
use super::unions::Unions;

/// A node that was merged into its left neighbour, and the end of a list.
const NONE: u32 = u32::MAX;

/// Up to this many symbols the next merge is looked for in all of them.
pub const FEW: usize = 32;

/// What the merges go by.
pub struct Rules {
    /// Of two characters. There are far fewer of them, and they are asked for most.
    pub pairs: Unions,
    /// Of symbols of which one at least is longer.
    pub unions: Unions,
    /// By piece: the order of its score among all, best first; equal for equal scores.
    pub ranks: Vec<u32>,
    /// By piece: its length in characters.
    pub lengths: Vec<u32>,
}

/// One step of an encoding.
#[derive(Clone, Copy, Debug)]
pub struct Merge {
    /// Order of the new piece's score, best first.
    pub rank: u32,
    pub left: u32,
    pub right: u32,
    pub union: u32,
}

/// Buffers for stretches of any length.
#[derive(Default)]
pub struct Agenda {
    nodes: Vec<Node>,
    candidates: BinaryHeap<Reverse<Candidate>>,
}

#[derive(Clone, Copy)]
struct Node {
    symbol: u32,
    previous: u32,
    next: u32,
}

/// A possible merge: rank and place of the left node in one number, so that the smallest is next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank_and_left: u64,
    right: u32,
    union: u32,
}

impl Rules {
    /// Merges at most [`FEW`] symbols in their place and gives how many are left.
    #[inline]
    pub fn merge_few(&self, symbols: &mut [u32; FEW], count: usize) -> usize {
        // Rank and place of each pair in one number, and what the pair makes.
        let mut order = [u32::MAX; FEW];
        let mut unions = [0; FEW];
        let mut count = count.min(FEW);
        let look_up =
            |table: &Unions, symbols: &[u32; FEW], at: usize| match table.get(symbols[at], symbols[at + 1]) {
                Some(union) => (self.ranks[union as usize], union),
                None => (u32::MAX, 0),
            };
        for at in 0..count.saturating_sub(1) {
            (order[at], unions[at]) = look_up(&self.pairs, symbols, at);
        }
        while count > 1 {
            let (mut best, mut rank) = (0, order[0]);
            for (at, &other) in order[..count - 1].iter().enumerate().skip(1) {
                if other < rank {
                    (best, rank) = (at, other);
                }
            }
            if rank == u32::MAX {
                break;
            }
            symbols[best] = unions[best];
            for at in best + 1..count - 1 {
                symbols[at] = symbols[at + 1];
                order[at] = order[at + 1];
                unions[at] = unions[at + 1];
            }
            count -= 1;
            if best > 0 {
                (order[best - 1], unions[best - 1]) = look_up(&self.unions, symbols, best - 1);
            }
            if best + 1 < count {
                (order[best], unions[best]) = look_up(&self.unions, symbols, best);
            }
        }
        count
    }

    /// Merges any number of symbols while `watcher` looks on; [`Agenda::segments`] has the result.
    pub fn merge(&self, symbols: &[u32], agenda: &mut Agenda, watcher: &mut impl Watcher) {
        let Agenda { nodes, candidates } = agenda;
        nodes.clear();
        nodes.extend((0..).zip(symbols).map(|(at, &symbol)| Node {
            symbol,
            previous: if at == 0 { NONE } else { at - 1 },
            next: at + 1,
        }));
        if let Some(last) = nodes.last_mut() {
            last.next = NONE;
        }
        candidates.clear();
        for right in 1..nodes.len() as u32 {
            self.propose(&self.pairs, nodes, right - 1, right, candidates, watcher);
        }
        while let Some(Reverse(Candidate { rank_and_left, right, union })) = candidates.pop() {
            let left = rank_and_left as u32;
            let (l, r) = (nodes[left as usize], nodes[right as usize]);
            // A node that has grown or gone since makes the candidate void.
            if l.next != right || self.length(l.symbol) + self.length(r.symbol) != self.length(union) {
                continue;
            }
            if !watcher.allows() {
                continue;
            }
            watcher.merged(Merge { rank: (rank_and_left >> 32) as u32, left: l.symbol, right: r.symbol, union });
            nodes[left as usize] = Node { symbol: union, next: r.next, ..l };
            nodes[right as usize].next = NONE;
            if r.next != NONE {
                nodes[r.next as usize].previous = left;
            }
            self.propose(&self.unions, nodes, l.previous, left, candidates, watcher);
            self.propose(&self.unions, nodes, left, r.next, candidates, watcher);
        }
    }

    fn propose(
        &self,
        table: &Unions,
        nodes: &[Node],
        left: u32,
        right: u32,
        candidates: &mut BinaryHeap<Reverse<Candidate>>,
        watcher: &mut impl Watcher,
    ) {
        if left == NONE || right == NONE {
            return;
        }
        let (l, r) = (nodes[left as usize].symbol, nodes[right as usize].symbol);
        if l.max(r) >= super::FROZEN {
            return;
        }
        if let Some(union) = table.get(l, r) {
            watcher.proposed(union, l, r);
            let rank_and_left = u64::from(self.ranks[union as usize]) << 32 | u64::from(left);
            candidates.push(Reverse(Candidate { rank_and_left, right, union }));
        }
    }

    /// Of a symbol, in characters.
    fn length(&self, symbol: u32) -> u32 {
        self.lengths.get(symbol as usize).copied().unwrap_or(1)
    }
}

impl Agenda {
    /// The symbols that are left after a merge.
    pub fn segments(&self) -> impl Iterator<Item = u32> {
        let mut at = if self.nodes.is_empty() { NONE } else { 0 };
        std::iter::from_fn(move || {
            let node = self.nodes.get(at as usize)?;
            at = node.next;
            Some(node.symbol)
        })
    }
}
