//! The text that is encoded, as it is read: character by character, some bytes at a time, or as a key of the cache.

use std::ops::Range;

use super::cache::{Key, LONGEST};
use super::characters::WINDOW;

/// Bytes behind a text, of no UTF-8, so that its end need not be watched for: for a [`WINDOW`] or a key that begins
/// with its last character.
const PADDING: [u8; WINDOW + 4] = [0xFF; WINDOW + 4];

/// A text with [`PADDING`] behind it.
#[derive(Default)]
pub struct Text {
    pub padded: Vec<u8>,
    pub length: usize,
}

impl Text {
    pub fn set(&mut self, parts: &[&str]) {
        self.padded.clear();
        parts.iter().for_each(|part| self.padded.extend_from_slice(part.as_bytes()));
        self.length = self.padded.len();
        self.padded.extend_from_slice(&PADDING);
    }

    /// Code point and length in bytes of the character at `at`; some number beyond all code points at the end.
    #[inline]
    pub fn character(&self, at: usize) -> (u32, usize) {
        let [a, b, c, d] = self.padded[at..at + 4] else { return (u32::MAX, 1) };
        let [a, b, c, d] = [a, b, c, d].map(u32::from);
        match a {
            0..0x80 => (a, 1),
            0x80..0xE0 => ((a & 0x1F) << 6 | b & 0x3F, 2),
            0xE0..0xF0 => ((a & 0x0F) << 12 | (b & 0x3F) << 6 | c & 0x3F, 3),
            _ => ((a & 0x0F) << 18 | (b & 0x3F) << 12 | (c & 0x3F) << 6 | d & 0x3F, 4),
        }
    }

    /// The bytes from `at`.
    #[inline]
    pub fn window(&self, at: usize) -> &[u8; WINDOW + 1] {
        self.padded[at..].first_chunk().unwrap_or(&[0xFF; WINDOW + 1])
    }

    /// The cache's key of a part that is short enough.
    #[inline]
    pub fn key(&self, part: &Range<usize>) -> Option<Key> {
        if part.len() > LONGEST {
            return None;
        }
        let bytes = self.padded.get(part.start..part.start + LONGEST)?;
        Some(Key::new(bytes.try_into().ok()?, part.len()))
    }
}
