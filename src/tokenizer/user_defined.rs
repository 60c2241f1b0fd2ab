//! User-defined pieces: taken whole wherever they stand in a text, longest first.

use std::collections::HashMap;

/// The user-defined pieces of a model, by their first character.
#[derive(Clone, Debug, Default)]
pub struct UserDefined {
    by_first: HashMap<char, Vec<(Box<str>, u32)>>,
}

impl UserDefined {
    /// From pieces and their ids; empty pieces are ignored.
    pub fn new<'a>(pieces: impl IntoIterator<Item = (&'a str, u32)>) -> Self {
        let mut by_first: HashMap<char, Vec<(Box<str>, u32)>> = HashMap::new();
        for (piece, id) in pieces {
            if let Some(first) = piece.chars().next() {
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

    /// Length in bytes and id of the longest piece that `text` begins with.
    pub fn longest_prefix(&self, text: &str) -> Option<(usize, u32)> {
        if self.is_empty() {
            return None;
        }
        let pieces = self.by_first.get(&text.chars().next()?)?;
        pieces.iter().find(|(piece, _)| text.starts_with(&**piece)).map(|(piece, id)| (piece.len(), *id))
    }
}
