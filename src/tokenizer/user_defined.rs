//! User-defined pieces: taken whole wherever they stand in a text, longest first.

use std::collections::HashMap;

/// The user-defined pieces of a model, by their first byte.
#[derive(Clone, Debug, Default)]
pub struct UserDefined {
    by_first: HashMap<u8, Vec<(Box<str>, u32)>>,
}

impl UserDefined {
    /// From pieces and their ids; empty pieces are ignored.
    pub fn new<'a>(pieces: impl IntoIterator<Item = (&'a str, u32)>) -> Self {
        let mut by_first: HashMap<u8, Vec<(Box<str>, u32)>> = HashMap::new();
        for (piece, id) in pieces {
            if let Some(&first) = piece.as_bytes().first() {
                by_first.entry(first).or_default().push((piece.into(), id));
            }
        }
        for pieces in by_first.values_mut() {
            pieces.sort_by_key(|(piece, _)| std::cmp::Reverse(piece.len()));
        }
        Self { by_first }
    }

    pub fn is_empty(&self) -> bool {
        self.by_first.is_empty()
    }

    pub fn pieces(&self) -> impl Iterator<Item = &str> {
        self.by_first.values().flatten().map(|(piece, _)| &**piece)
    }

    /// The characters that they begin with.
    pub fn first_characters(&self) -> impl Iterator<Item = char> {
        self.pieces().filter_map(|piece| piece.chars().next())
    }

    /// Length in bytes and id of the longest piece that `text`, which is UTF-8, begins with.
    pub fn longest_prefix(&self, text: &[u8]) -> Option<(usize, u32)> {
        if self.is_empty() {
            return None;
        }
        let pieces = self.by_first.get(text.first()?)?;
        pieces.iter().find(|(piece, _)| text.starts_with(piece.as_bytes())).map(|(piece, id)| (piece.len(), *id))
    }
}
