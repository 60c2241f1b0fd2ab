//! SentencePiece's byte-pair encoding: the neighbours whose union is the piece of best score are merged first, ties
//! to the left, until nothing can be merged.
//!
//! Pieces are looked up by pairs of symbols, not by text: for every piece and every place to cut it, the pair of halves
//! that can really be symbols leads to the piece. A text is encoded in stretches, cut wherever two characters stand side
//! by side in no piece: no merge can cross such a place, so the result is that of the whole text. A stretch of one or
//! two characters needs no merging, short ones are looked up among those encoded before, and what is new is merged by
//! scanning its few pairs or, if it is long, by a heap: near-linear whatever the text.

mod cache;
mod characters;
mod index;
mod merging;
mod text;
mod unions;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use cache::Cache;
use characters::{Character, Characters, WINDOW};
use index::Index;
use merging::{Agenda, FEW, Rules};
use text::Text;
use unions::Unions;

use super::proto::{ModelProto, Piece, PieceKind};
use super::user_defined::UserDefined;

/// Hashed faster than the standard library's maps, by a seed of this process.
type FastMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

pub use characters::MOST_PIECES;
pub use merging::Merge;

/// A symbol that is no piece and takes part in no merge: a character (the low 21 bits) that no piece contains.
const FOREIGN: u32 = 1 << 31;
/// A symbol that is a piece but takes part in no merge: a user-defined one.
const FROZEN: u32 = 1 << 30;

/// The encoder of one vocabulary. A symbol is a piece id or, from [`Self::piece_count`] on, a character that stands
/// in pieces without being one.
pub struct Bpe {
    /// Of this vocabulary among all of this process, for the caches.
    identity: u64,
    piece_count: u32,
    characters: Characters,
    /// The characters that are symbols but not pieces.
    extra: Vec<char>,
    rules: Rules,
    /// By piece: what SentencePiece reports when a segment has this text.
    reported: Vec<u32>,
    /// By piece: to be taken apart again at the end.
    unused: Vec<bool>,
    has_unused: bool,
    user_defined: UserDefined,
    unknown: u32,
    /// Byte → piece, with byte fallback.
    bytes: Option<Box<[u32; 256]>>,
    /// A character that is read as if it were another one.
    alias: Option<(char, char)>,
}

/// Someone who looks on while a text is merged.
pub trait Watcher {
    /// Whether a merge whose turn it is may be made. One that may not is not asked for again.
    #[inline(always)]
    fn allows(&mut self) -> bool {
        true
    }
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

/// Leaves out merges at random.
struct Dropout<'a> {
    /// Whether the next one is left out.
    drops: &'a mut dyn FnMut() -> bool,
    origins: Origins<'a>,
}

impl Watcher for Dropout<'_> {
    fn allows(&mut self) -> bool {
        !(self.drops)()
    }

    fn proposed(&mut self, union: u32, left: u32, right: u32) {
        self.origins.proposed(union, left, right);
    }
}

/// What one thread reuses from text to text.
#[derive(Default)]
pub struct Scratch {
    text: Text,
    symbols: Vec<u32>,
    agenda: Agenda,
    cache: Cache,
}

/// A part of a text that no merge reaches out of.
enum Stretch {
    Characters {
        bytes: Range<usize>,
        count: usize,
        first: Character,
        last: Character,
    },
    /// A user-defined piece.
    Piece(u32),
}

impl Bpe {
    /// A model that does not pass the checks of `SentencePiece::new` (one unknown piece, no duplicates) gives nonsense;
    /// one of more than [`MOST_PIECES`] must not come here. `alias`: the first character is read as if it were the second; both must be in no user-defined
    /// piece.
    pub fn new(model: &ModelProto, byte_fallback: bool, alias: Option<(char, char)>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let pieces = &model.pieces;
        let numbered = || (0..).zip(pieces);
        let user_defined = UserDefined::new(
            numbered()
                .filter(|(_, piece)| piece.kind() == PieceKind::UserDefined)
                .map(|(id, piece)| (piece.text(), id)),
        );
        let unknown = numbered().find(|(_, piece)| piece.kind() == PieceKind::Unknown).map_or(0, |(id, _)| id);
        let index = Index::of(pieces);
        let mut reported: Vec<u32> = (0..pieces.len() as u32).collect();
        for (id, piece) in numbered().filter(|(_, piece)| !piece.is_in_text()) {
            if let Some(&same) = index.ids.get(piece.text()) {
                reported[same as usize] = id;
            }
        }
        let (characters, (unions, ranks)) = rayon::join(
            || Characters::new(&index.symbols, &index.neighbours, user_defined.first_characters(), alias),
            || rayon::join(|| Unions::new(&index.unions), || ranks(pieces)),
        );
        Self {
            identity: NEXT.fetch_add(1, Ordering::Relaxed),
            piece_count: pieces.len() as u32,
            characters,
            extra: index.extra,
            rules: Rules {
                pairs: Unions::new(&index.pairs),
                unions,
                ranks,
                lengths: pieces.iter().map(|piece| piece.text().chars().count() as u32).collect(),
            },
            reported,
            unused: pieces.iter().map(|piece| piece.kind() == PieceKind::Unused).collect(),
            has_unused: pieces.iter().any(|piece| piece.kind() == PieceKind::Unused),
            user_defined,
            unknown,
            bytes: byte_fallback.then(|| model.byte_ids(unknown)),
            alias,
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

    /// Appends the ids of a normalised text, given in parts.
    pub fn encode(&self, parts: &[&str], scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let Scratch { text, symbols, agenda, cache } = scratch;
        text.set(parts);
        if let Some(bytes) = &self.bytes
            && !self.has_unused
        {
            cache.belong_to(self.identity);
            ids.reserve(text.length / 2);
            self.stretches(text, |stretch| match stretch {
                Stretch::Piece(id) => ids.push(self.reported[id as usize]),
                Stretch::Characters { bytes: at, count: 1, first, .. } => match first.symbol() {
                    Some(symbol) => self.push(symbol, bytes, ids),
                    None => self.push_foreign(text, at, bytes, ids),
                },
                Stretch::Characters { count: 2, first, last, .. } => {
                    let symbols = (first.symbol().unwrap_or(FOREIGN), last.symbol().unwrap_or(FOREIGN));
                    match self.rules.pairs.get(symbols.0, symbols.1) {
                        Some(union) => ids.push(self.reported[union as usize]),
                        None => {
                            self.push(symbols.0, bytes, ids);
                            self.push(symbols.1, bytes, ids);
                        }
                    }
                }
                Stretch::Characters { bytes: at, count, .. } => {
                    let key = text.key(&at);
                    if let Some(key) = &key
                        && cache.find(key, ids)
                    {
                        return;
                    }
                    let before = ids.len();
                    if count <= FEW {
                        let mut few = [0; FEW];
                        self.read_few(text, at, &mut few);
                        let left = self.rules.merge_few(&mut few, count);
                        few[..left].iter().for_each(|&symbol| self.push(symbol, bytes, ids));
                    } else {
                        self.read(text, at, symbols);
                        self.rules.merge(symbols, agenda, &mut Unwatched);
                        agenda.segments().for_each(|symbol| self.push(symbol, bytes, ids));
                    }
                    if let Some(key) = &key {
                        cache.keep(key, &ids[before..]);
                    }
                }
            });
            return;
        }
        let mut out = Output { bpe: self, ids, after_unknown: false };
        if self.has_unused {
            // How pieces are taken apart again depends on the whole text, so that stays in one stretch.
            let mut origins = Origins { unused: &self.unused, halves: HashMap::new() };
            self.read(text, 0..text.length, symbols);
            self.rules.merge(symbols, agenda, &mut origins);
            agenda.segments().for_each(|symbol| out.push_apart(symbol, &origins.halves));
        } else {
            self.stretches(text, |stretch| {
                self.read_stretch(text, stretch, symbols);
                self.rules.merge(symbols, agenda, &mut Unwatched);
                agenda.segments().for_each(|symbol| out.push(symbol));
            });
        }
    }

    /// As [`Self::encode`], with merges left out: `drops` is asked at every merge whose turn it is, and one that it drops
    /// is not made (BPE-dropout, Provilkov et al. 2020). As SentencePiece's `SampleEncode`, which asks at the same places
    /// in another order, and so gives the same distribution.
    pub fn sample(
        &self,
        parts: &[&str],
        drops: &mut dyn FnMut() -> bool,
        scratch: &mut Scratch,
        ids: &mut Vec<u32>,
    ) {
        let Scratch { text, symbols, agenda, .. } = scratch;
        text.set(parts);
        let mut out = Output { bpe: self, ids, after_unknown: false };
        let mut dropout = Dropout { drops, origins: Origins { unused: &self.unused, halves: HashMap::new() } };
        if self.has_unused {
            self.read(text, 0..text.length, symbols);
            self.rules.merge(symbols, agenda, &mut dropout);
            agenda.segments().for_each(|symbol| out.push_apart(symbol, &dropout.origins.halves));
        } else {
            self.stretches(text, |stretch| {
                self.read_stretch(text, stretch, symbols);
                self.rules.merge(symbols, agenda, &mut dropout);
                agenda.segments().for_each(|symbol| out.push(symbol));
            });
        }
    }

    /// Follows the encoding of a normalised text, for those who count. Of each stretch `start` sees the symbols
    /// before any merge, as ids (its bytes for a character that is no piece, or the unknown id); then `watcher` sees the merges.
    /// `finish` is called at the end of a stretch.
    pub fn trace<W: Watcher>(
        &self,
        normalized: &str,
        scratch: &mut Scratch,
        watcher: &mut W,
        start: impl Fn(&mut W, u32),
        finish: impl Fn(&mut W),
    ) {
        let Scratch { text, symbols, agenda, .. } = scratch;
        text.set(&[normalized]);
        let mut spelled = Vec::new();
        self.stretches(text, |stretch| {
            self.read_stretch(text, stretch, symbols);
            for &symbol in symbols.iter() {
                let known =
                    if symbol & FOREIGN == 0 { self.reported.get((symbol & !FROZEN) as usize) } else { None };
                match (known, &self.bytes) {
                    (Some(&id), _) => start(watcher, id),
                    (None, Some(bytes)) => {
                        spelled.clear();
                        push_bytes(self.lone_character(symbol), bytes, &mut spelled);
                        spelled.iter().for_each(|&id| start(watcher, id));
                    }
                    (None, None) => start(watcher, self.unknown),
                }
            }
            self.rules.merge(symbols, agenda, watcher);
            finish(watcher);
        });
    }

    /// Cuts a text into stretches that no merge can cross and calls `each` with every one.
    #[inline]
    fn stretches(&self, text: &Text, mut each: impl FnMut(Stretch)) {
        let mut start = 0;
        let (mut code, mut width) = text.character(0);
        // Where the bytes begin of which `joined` speaks: nowhere near yet.
        let (mut window, mut joined) = (usize::MAX / 2, 0);
        while start < text.length {
            let first = self.characters.at(code);
            if let Some((length, id)) = self.user_defined_at(text, start, first) {
                each(Stretch::Piece(id));
                start += length;
                (code, width) = text.character(start);
                continue;
            }
            let (mut end, mut last, mut count) = (start + width, first, 1);
            loop {
                if code < 0x80 && text.padded[end] < 0x80 {
                    let begin = end;
                    loop {
                        let here = end - 1;
                        if here.wrapping_sub(window) >= WINDOW {
                            (window, joined) = (here, self.characters.joined_ascii(text.window(here)));
                        }
                        let at = here - window;
                        let run = (joined >> at).trailing_ones() as usize;
                        end += run;
                        if at + run < WINDOW {
                            break;
                        }
                    }
                    if end > begin {
                        count += end - begin;
                        code = text.padded[end - 1].into();
                        last = self.characters.at(code);
                    }
                }
                let before = code;
                (code, width) = text.character(end);
                let next = self.characters.at(code);
                if end >= text.length
                    || (before < 0x80 && code < 0x80 && !next.begins_user_defined())
                    || !self.characters.are_joined(last, next)
                    || self.user_defined_at(text, end, next).is_some()
                {
                    break;
                }
                last = next;
                end += width;
                count += 1;
            }
            each(Stretch::Characters { bytes: start..end, count, first, last });
            start = end;
        }
    }

    /// Length and id of the user-defined piece at `at`, where `character` stands.
    #[inline]
    fn user_defined_at(&self, text: &Text, at: usize, character: Character) -> Option<(usize, u32)> {
        if !character.begins_user_defined() {
            return None;
        }
        self.user_defined.longest_prefix(&text.padded[at..text.length])
    }

    /// The symbols of a stretch's characters.
    fn read_stretch(&self, text: &Text, stretch: Stretch, symbols: &mut Vec<u32>) {
        match stretch {
            Stretch::Characters { bytes, .. } => self.read(text, bytes, symbols),
            Stretch::Piece(id) => {
                symbols.clear();
                symbols.push(id | FROZEN);
            }
        }
    }

    /// The symbols of a part of a text, user-defined pieces among them.
    fn read(&self, text: &Text, bytes: Range<usize>, symbols: &mut Vec<u32>) {
        symbols.clear();
        let mut at = bytes.start;
        while at < bytes.end {
            let (code, width) = text.character(at);
            let character = self.characters.at(code);
            let (length, symbol) = match (self.user_defined_at(text, at, character), character.symbol()) {
                (Some((length, id)), _) => (length, id | FROZEN),
                (None, Some(symbol)) => (width, symbol),
                (None, None) => (width, FOREIGN | self.read_as(code)),
            };
            symbols.push(symbol);
            at += length;
        }
    }

    /// The same for a stretch of at most [`FEW`] characters, which are all in pieces.
    #[inline]
    fn read_few(&self, text: &Text, bytes: Range<usize>, symbols: &mut [u32; FEW]) {
        let mut at = bytes.start;
        for symbol in symbols {
            if at >= bytes.end {
                break;
            }
            let (code, width) = text.character(at);
            *symbol = self.characters.at(code).symbol().unwrap_or(FOREIGN);
            at += width;
        }
    }

    /// The code point that a code point is read as.
    fn read_as(&self, code: u32) -> u32 {
        match self.alias {
            Some((from, to)) if from as u32 == code => to as u32,
            _ => code,
        }
    }

    /// Appends the id of a symbol, or the bytes of one that is no piece.
    #[inline(always)]
    fn push(&self, symbol: u32, bytes: &[u32; 256], ids: &mut Vec<u32>) {
        match self.reported.get(symbol as usize) {
            Some(&id) => ids.push(id),
            None => self.push_lone(symbol, bytes, ids),
        }
    }

    #[cold]
    fn push_lone(&self, symbol: u32, bytes: &[u32; 256], ids: &mut Vec<u32>) {
        push_bytes(self.lone_character(symbol), bytes, ids);
    }

    /// Appends the bytes of a character that is in no piece.
    #[inline]
    fn push_foreign(&self, text: &Text, at: Range<usize>, bytes: &[u32; 256], ids: &mut Vec<u32>) {
        let own = &text.padded[at];
        match self.alias {
            Some((from, to)) if own.len() == 1 && from as u32 == u32::from(own[0]) => push_bytes(to, bytes, ids),
            _ => own.iter().for_each(|&byte| ids.push(bytes[usize::from(byte)])),
        }
    }

    /// The character of a symbol that is no piece.
    fn lone_character(&self, symbol: u32) -> char {
        let known = self.extra.get(symbol.wrapping_sub(self.piece_count) as usize).copied();
        known.or_else(|| char::from_u32(symbol & !FOREIGN)).unwrap_or(char::REPLACEMENT_CHARACTER)
    }
}

fn push_bytes(character: char, bytes: &[u32; 256], ids: &mut Vec<u32>) {
    let mut buffer = [0; 4];
    let own = character.encode_utf8(&mut buffer).as_bytes();
    ids.extend(own.iter().map(|&byte| bytes[usize::from(byte)]));
}

/// Turns symbols into ids where unknown characters become one unknown id for a run of them, or bytes, and where pieces
/// are taken apart.
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
            Some(bytes) => push_bytes(bpe.lone_character(symbol), bytes, self.ids),
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

/// By piece: the order of its score, best first, with equal ranks for equal scores.
fn ranks(pieces: &[Piece]) -> Vec<u32> {
    let mut by_score: Vec<(f32, usize)> =
        pieces.iter().map(Piece::rank_score).zip(0..).filter(|(_, id)| pieces[*id].is_in_text()).collect();
    by_score.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut ranks = vec![0; pieces.len()];
    let mut rank = 0;
    for (at, &(score, id)) in by_score.iter().enumerate() {
        rank += u32::from(at > 0 && score < by_score[at - 1].0);
        ranks[id] = rank;
    }
    ranks
}

#[cfg(test)]
mod tests;
