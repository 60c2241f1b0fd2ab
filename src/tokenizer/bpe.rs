//! SentencePiece's byte-pair encoding: the neighbours whose union is the piece of best score are merged first, ties
//! to the left, until nothing can be merged.
//!
//! Pieces are looked up by pairs of symbol ids, not by text: for every piece and every place to cut it, the pair of
//! halves that can really be symbols leads to the piece. A text is encoded in stretches, cut wherever two characters
//! stand side by side in no piece: no merge can cross such a place, so the result is that of the whole text.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::pair_map::{PairMap, PairSet, pair_key};
use super::proto::{ModelProto, Piece, PieceKind};
use super::user_defined::UserDefined;

/// A symbol that is no piece and takes part in no merge: a character (the low 21 bits) that no piece contains.
const FOREIGN: u32 = 1 << 31;
/// A symbol that is a piece but takes part in no merge: a user-defined one.
const FROZEN: u32 = 1 << 30;
/// A node that was merged into its left neighbour, and the end of a list.
const NONE: u32 = u32::MAX;

/// The encoder of one vocabulary. A symbol is a piece id or, from [`Self::piece_count`] on, a character that stands
/// in pieces without being one.
pub struct Bpe {
    piece_count: u32,
    /// Symbols of the characters below U+10000, [`NONE`] for foreign ones; and of those above.
    basic: Vec<u32>,
    astral: HashMap<char, u32>,
    /// The characters that are symbols but not pieces.
    extra: Vec<char>,
    /// Union of two symbols → piece.
    unions: PairMap<u32>,
    /// Characters (as symbols) that stand side by side in some piece.
    neighbours: PairSet,
    /// By piece: the order of its score among all, best first; equal for equal scores.
    ranks: Vec<u32>,
    /// By piece: its length in characters.
    lengths: Vec<u32>,
    /// By piece: what SentencePiece reports when a segment has this text.
    reported: Vec<u32>,
    /// By piece: to be taken apart again at the end.
    unused: Vec<bool>,
    has_unused: bool,
    user_defined: UserDefined,
    unknown: u32,
    /// Byte → piece, with byte fallback.
    bytes: Option<Vec<u32>>,
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

/// Someone who looks on while a text is merged.
pub trait Watcher {
    /// `union` could be made of `left` and `right`.
    fn proposed(&mut self, _union: u32, _left: u32, _right: u32) {}
    /// A merge was made.
    fn merged(&mut self, _merge: Merge) {}
}

/// Nobody looks on.
struct Unwatched;

impl Watcher for Unwatched {}

/// What unused pieces were last proposed to be made of, which is how SentencePiece takes them apart.
struct Origins<'a> {
    unused: &'a [bool],
    halves: HashMap<u32, (u32, u32)>,
}

impl Watcher for Origins<'_> {
    fn proposed(&mut self, union: u32, left: u32, right: u32) {
        if self.unused[union as usize] {
            self.halves.insert(union, (left, right));
        }
    }
}

/// Buffers that one thread reuses from text to text.
#[derive(Default)]
pub struct Scratch {
    stretch: Vec<u32>,
    nodes: Vec<Node>,
    agenda: BinaryHeap<Reverse<Candidate>>,
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

impl Bpe {
    /// `pieces` must have passed the checks of `SentencePiece::new`: one unknown piece, no duplicates.
    pub fn new(model: &ModelProto, byte_fallback: bool) -> Self {
        let pieces = &model.pieces;
        let in_text = |piece: &&Piece| piece.is_in_text();
        let ids: HashMap<&str, u32> =
            (0..).zip(pieces).filter(|(_, piece)| in_text(piece)).map(|(id, piece)| (piece.text(), id)).collect();
        let reserved: HashMap<&str, u32> =
            (0..).zip(pieces).filter(|(_, piece)| !in_text(piece)).map(|(id, piece)| (piece.text(), id)).collect();
        let unknown =
            (0..).zip(pieces).find(|(_, piece)| piece.kind() == PieceKind::Unknown).map_or(0, |(id, _)| id);
        let mut bpe = Self {
            piece_count: pieces.len() as u32,
            basic: vec![NONE; 0x1_0000],
            astral: HashMap::new(),
            extra: Vec::new(),
            unions: PairMap::default(),
            neighbours: PairSet::default(),
            ranks: ranks(pieces),
            lengths: pieces.iter().map(|piece| piece.text().chars().count() as u32).collect(),
            reported: (0..)
                .zip(pieces)
                .map(|(id, piece)| reserved.get(piece.text()).copied().unwrap_or(id))
                .collect(),
            unused: pieces.iter().map(|piece| piece.kind() == PieceKind::Unused).collect(),
            has_unused: pieces.iter().any(|piece| piece.kind() == PieceKind::Unused),
            user_defined: UserDefined::new(
                (0..)
                    .zip(pieces)
                    .filter(|(_, piece)| piece.kind() == PieceKind::UserDefined)
                    .map(|(id, piece)| (piece.text(), id)),
            ),
            unknown,
            bytes: byte_fallback.then(|| byte_ids(pieces, unknown)),
        };
        bpe.index(pieces, &ids);
        bpe
    }

    /// Fills the character tables, then the unions of every way to cut every piece.
    fn index(&mut self, pieces: &[Piece], ids: &HashMap<&str, u32>) {
        let texts = || pieces.iter().filter(|piece| piece.is_in_text()).map(Piece::text);
        let mut buffer = [0; 4];
        for c in texts().flat_map(str::chars) {
            if self.character(c) != NONE {
                continue;
            }
            let symbol = ids.get(&*c.encode_utf8(&mut buffer)).copied().unwrap_or_else(|| {
                self.extra.push(c);
                self.piece_count + self.extra.len() as u32 - 1
            });
            match self.basic.get_mut(c as usize) {
                Some(entry) => *entry = symbol,
                None => _ = self.astral.insert(c, symbol),
            }
        }
        let symbol = |bpe: &Self, text: &str| {
            let mut chars = text.chars();
            match (ids.get(text), chars.next(), chars.next()) {
                (Some(id), ..) => Some(*id),
                (None, Some(c), None) => Some(bpe.character(c)),
                _ => None,
            }
        };
        for text in texts() {
            let Some(&id) = ids.get(text) else { continue };
            let mut before = None;
            for (at, c) in text.char_indices() {
                let here = self.character(c);
                if let Some(before) = before.replace(here) {
                    self.neighbours.insert(pair_key(before, here));
                    let (left, right) = text.split_at(at);
                    if let (Some(left), Some(right)) = (symbol(self, left), symbol(self, right)) {
                        self.unions.insert(pair_key(left, right), id);
                    }
                }
            }
        }
    }

    pub fn piece_count(&self) -> u32 {
        self.piece_count
    }

    pub fn unknown(&self) -> u32 {
        self.unknown
    }

    pub fn user_defined(&self) -> &UserDefined {
        &self.user_defined
    }

    /// The symbol of a character; [`NONE`] when no piece contains it.
    fn character(&self, c: char) -> u32 {
        self.basic.get(c as usize).copied().unwrap_or_else(|| self.astral.get(&c).copied().unwrap_or(NONE))
    }

    /// Appends the ids of a normalised text.
    pub fn encode(&self, normalized: &str, scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let mut out = Output { bpe: self, ids, after_unknown: false };
        self.stretches(normalized, scratch, |scratch| {
            if self.has_unused {
                let mut origins = Origins { unused: &self.unused, halves: HashMap::new() };
                self.merge(scratch, &mut origins);
                scratch.segments().for_each(|symbol| out.push_apart(symbol, &origins.halves));
            } else {
                self.merge(scratch, &mut Unwatched);
                scratch.segments().for_each(|symbol| out.push(symbol));
            }
        });
    }

    /// Follows the encoding of a normalised text, for those who count. Of each stretch `start` sees the symbols
    /// before any merge, as ids (the unknown id for characters that are no pieces); then `watcher` sees the merges.
    /// `finish` is called at the end of a stretch.
    pub fn trace<W: Watcher>(
        &self,
        normalized: &str,
        scratch: &mut Scratch,
        watcher: &mut W,
        start: impl Fn(&mut W, u32),
        finish: impl Fn(&mut W),
    ) {
        self.stretches(normalized, scratch, |scratch| {
            for &symbol in &scratch.stretch {
                start(watcher, self.reported_id(symbol));
            }
            self.merge(scratch, watcher);
            finish(watcher);
        });
    }

    /// Length of a symbol in characters.
    fn length(&self, symbol: u32) -> u32 {
        self.lengths.get(symbol as usize).copied().unwrap_or(1)
    }

    fn reported_id(&self, symbol: u32) -> u32 {
        self.reported.get((symbol & !FROZEN) as usize).copied().unwrap_or(self.unknown)
    }

    /// Cuts a text into stretches that no merge can cross and calls `each` with every one in `scratch.stretch`.
    fn stretches(&self, text: &str, scratch: &mut Scratch, mut each: impl FnMut(&mut Scratch)) {
        scratch.stretch.clear();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let (length, symbol) = match self.user_defined.longest_prefix(rest) {
                Some((length, id)) => (length, id | FROZEN),
                None => match self.character(c) {
                    NONE => (c.len_utf8(), FOREIGN | c as u32),
                    symbol => (c.len_utf8(), symbol),
                },
            };
            rest = &rest[length..];
            // Where pieces are taken apart again, how depends on the whole text, so that stays in one stretch.
            if let Some(&before) = scratch.stretch.last()
                && !self.has_unused
                && !self.neighbours.contains(&pair_key(before, symbol))
            {
                each(scratch);
                scratch.stretch.clear();
            }
            scratch.stretch.push(symbol);
        }
        if !scratch.stretch.is_empty() {
            each(scratch);
        }
    }

    /// Merges what can be merged in `scratch.stretch`; the result is the list that begins at node 0.
    fn merge(&self, scratch: &mut Scratch, watcher: &mut impl Watcher) {
        let Scratch { stretch, nodes, agenda } = scratch;
        nodes.clear();
        nodes.extend((0..).zip(stretch.iter()).map(|(at, &symbol)| Node {
            symbol,
            previous: if at == 0 { NONE } else { at - 1 },
            next: at + 1,
        }));
        if let Some(last) = nodes.last_mut() {
            last.next = NONE;
        }
        agenda.clear();
        for right in 1..nodes.len() as u32 {
            self.propose(nodes, right - 1, right, agenda, watcher);
        }
        while let Some(Reverse(Candidate { rank_and_left, right, union })) = agenda.pop() {
            let left = rank_and_left as u32;
            let (l, r) = (nodes[left as usize], nodes[right as usize]);
            // A node that has grown or gone since makes the candidate void.
            if l.next != right || self.length(l.symbol) + self.length(r.symbol) != self.length(union) {
                continue;
            }
            watcher.merged(Merge { rank: (rank_and_left >> 32) as u32, left: l.symbol, right: r.symbol, union });
            nodes[left as usize] = Node { symbol: union, next: r.next, ..l };
            nodes[right as usize].next = NONE;
            if r.next != NONE {
                nodes[r.next as usize].previous = left;
            }
            self.propose(nodes, l.previous, left, agenda, watcher);
            self.propose(nodes, left, r.next, agenda, watcher);
        }
    }

    fn propose(
        &self,
        nodes: &[Node],
        left: u32,
        right: u32,
        agenda: &mut BinaryHeap<Reverse<Candidate>>,
        watcher: &mut impl Watcher,
    ) {
        if left == NONE || right == NONE {
            return;
        }
        let (l, r) = (nodes[left as usize].symbol, nodes[right as usize].symbol);
        if let Some(&union) = self.unions.get(&pair_key(l, r)) {
            watcher.proposed(union, l, r);
            let rank_and_left = u64::from(self.ranks[union as usize]) << 32 | u64::from(left);
            agenda.push(Reverse(Candidate { rank_and_left, right, union }));
        }
    }
}

impl Scratch {
    /// The symbols that are left after a merge.
    fn segments(&self) -> impl Iterator<Item = u32> {
        let mut at = if self.nodes.is_empty() { NONE } else { 0 };
        std::iter::from_fn(move || {
            let node = self.nodes.get(at as usize)?;
            at = node.next;
            Some(node.symbol)
        })
    }
}

/// Turns symbols into ids: unknown characters become bytes, or one unknown id for a run of them.
struct Output<'a> {
    bpe: &'a Bpe,
    ids: &'a mut Vec<u32>,
    after_unknown: bool,
}

impl Output<'_> {
    fn push(&mut self, symbol: u32) {
        let bpe = self.bpe;
        let known = if symbol & FOREIGN == 0 { bpe.reported.get((symbol & !FROZEN) as usize) } else { None };
        if let Some(&id) = known {
            self.ids.push(id);
            self.after_unknown = false;
            return;
        }
        match &bpe.bytes {
            Some(bytes) => {
                let mut buffer = [0; 4];
                let text = bpe.lone_character(symbol).encode_utf8(&mut buffer).as_bytes();
                self.ids.extend(text.iter().map(|&byte| bytes[byte as usize]));
            }
            None if self.after_unknown => {}
            None => self.ids.push(bpe.unknown),
        }
        self.after_unknown = true;
    }

    /// Unused pieces are replaced by what they were made of.
    fn push_apart(&mut self, symbol: u32, origins: &HashMap<u32, (u32, u32)>) {
        let unused = self.bpe.unused.get(symbol as usize).copied().unwrap_or(false);
        match origins.get(&symbol) {
            Some(&(left, right)) if unused => {
                self.push_apart(left, origins);
                self.push_apart(right, origins);
            }
            _ => self.push(symbol),
        }
    }
}

impl Bpe {
    /// The character of a symbol that is no piece.
    fn lone_character(&self, symbol: u32) -> char {
        let known = self.extra.get(symbol.wrapping_sub(self.piece_count) as usize).copied();
        known.or_else(|| char::from_u32(symbol & !FOREIGN)).unwrap_or(char::REPLACEMENT_CHARACTER)
    }
}

/// By piece: the order of its score, best first, with equal ranks for equal scores.
fn ranks(pieces: &[Piece]) -> Vec<u32> {
    let mut scores: Vec<f32> = pieces.iter().filter(|piece| piece.is_in_text()).map(Piece::rank_score).collect();
    scores.sort_by(|a, b| b.total_cmp(a));
    scores.dedup();
    let rank = |piece: &Piece| scores.partition_point(|score| *score > piece.rank_score()) as u32;
    pieces.iter().map(rank).collect()
}

/// The piece of every byte; `unknown` for bytes that have none.
fn byte_ids(pieces: &[Piece], unknown: u32) -> Vec<u32> {
    let mut ids = vec![unknown; 256];
    for (id, piece) in (0..).zip(pieces) {
        if piece.kind() == PieceKind::Byte
            && let Some(byte) = piece.byte()
        {
            ids[byte as usize] = id;
        }
    }
    ids
}
