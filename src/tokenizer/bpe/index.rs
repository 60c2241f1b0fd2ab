//! What a vocabulary's pieces say: its symbols, which of them stand side by side, and which make which piece.

use rayon::prelude::*;

use super::FastMap;
use crate::tokenizer::proto::Piece;

/// What the pieces say about characters and pairs.
#[derive(Default)]
pub struct Index<'a> {
    /// Of the pieces that text can be segmented into.
    pub ids: FastMap<&'a str, u32>,
    pub symbols: FastMap<char, u32>,
    pub extra: Vec<char>,
    /// Characters, as symbols, that stand side by side in some piece; some of them more than once.
    pub neighbours: Vec<(u32, u32)>,
    /// (left, right, union), for every way to cut every piece: those of two characters, and those of more.
    pub pairs: Vec<(u32, u32, u32)>,
    pub unions: Vec<(u32, u32, u32)>,
}

/// The `neighbours`, `pairs` and `unions` of an [`Index`].
type Cuts = (Vec<(u32, u32)>, Vec<(u32, u32, u32)>, Vec<(u32, u32, u32)>);

impl<'a> Index<'a> {
    pub fn of(pieces: &'a [Piece]) -> Self {
        let in_text: Vec<(u32, &str)> = (0..)
            .zip(pieces)
            .filter(|(_, piece)| piece.is_in_text())
            .map(|(id, piece)| (id, piece.text()))
            .collect();
        let mut index = Self::default();
        index.ids.reserve(in_text.len());
        index.ids.extend(in_text.iter().map(|&(id, text)| (text, id)));
        let mut buffer = [0; 4];
        for c in in_text.iter().flat_map(|(_, text)| text.chars()) {
            index.symbols.entry(c).or_insert_with(|| {
                index.ids.get(&*c.encode_utf8(&mut buffer)).copied().unwrap_or_else(|| {
                    index.extra.push(c);
                    (pieces.len() + index.extra.len()) as u32 - 1
                })
            });
        }
        let cuts: Vec<_> = in_text.par_chunks(4096).map(|pieces| index.cuts(pieces)).collect();
        for (neighbours, pairs, unions) in cuts {
            index.neighbours.extend(neighbours);
            index.pairs.extend(pairs);
            index.unions.extend(unions);
        }
        index
    }

    /// The neighbours in these pieces, and the unions that make them.
    fn cuts(&self, pieces: &[(u32, &str)]) -> Cuts {
        let (mut neighbours, mut pairs, mut unions) = (Vec::new(), Vec::new(), Vec::new());
        // The characters of the piece at hand, as symbols, and where each begins.
        let mut characters: Vec<(usize, u32)> = Vec::new();
        for &(id, text) in pieces {
            characters.clear();
            characters.extend(text.char_indices().map(|(at, c)| (at, self.symbols[&c])));
            let last = characters.len().saturating_sub(1);
            for (place, pair) in characters.windows(2).enumerate() {
                let [(_, before), (at, here)] = [pair[0], pair[1]];
                neighbours.push((before, here));
                let (left, right) = text.split_at(at);
                let left = if place == 0 { Some(before) } else { self.ids.get(left).copied() };
                let right = || if place + 1 == last { Some(here) } else { self.ids.get(right).copied() };
                if let Some(left) = left
                    && let Some(right) = right()
                {
                    if last == 1 { &mut pairs } else { &mut unions }.push((left, right, id));
                }
            }
        }
        (neighbours, pairs, unions)
    }
}
