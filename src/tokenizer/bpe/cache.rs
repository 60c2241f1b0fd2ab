//! Words come again and again: the ids of stretches that a thread has encoded before.

use super::unions::fold;

/// Longest text kept, in bytes.
pub const LONGEST: usize = 24;
/// Most ids kept of a text.
const MOST: usize = 9;
const ENTRIES: usize = 1 << 15;

/// A table of the stretches seen last, each at the one place that its hash gives: a newer one takes the older one's.
/// 1 MiB, which fits a core's second-level cache.
#[derive(Default)]
pub struct Cache {
    entries: Vec<Entry>,
    /// Whose ids they are.
    owner: u64,
}

/// One line of the processor's cache.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Entry {
    text: [u64; 3],
    /// Bytes of text in the lower half, ids in the upper; 0 for no entry.
    lengths: u32,
    ids: [u32; MOST],
}

/// A text of at most [`LONGEST`] bytes, and its place in the table.
pub struct Key {
    text: [u64; 3],
    length: u32,
    place: usize,
}

impl Key {
    /// The first `length` bytes of `bytes`.
    #[inline]
    pub fn new(bytes: &[u8; LONGEST], length: usize) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        let bits = 8 * length as u32;
        let word = |at: usize| {
            let spare = (64 * (at as u32 + 1)).saturating_sub(bits);
            u64::from_le_bytes(words[at]) & u64::MAX.checked_shr(spare).unwrap_or(0)
        };
        let text = [word(0), word(1), word(2)];
        let hash = fold(fold(text[0]) ^ text[1].rotate_left(32) ^ text[2].wrapping_mul(0xA076_1D64_78BD_642F));
        Self { text, length: length as u32, place: (hash >> 32) as usize % ENTRIES }
    }
}

impl Cache {
    /// Empties the table if it holds what someone else put there.
    pub fn belong_to(&mut self, owner: u64) {
        if self.owner != owner {
            self.entries.clear();
            self.entries.resize(ENTRIES, Entry::default());
            self.owner = owner;
        }
    }

    /// Appends the ids of a text that is in the table.
    #[inline]
    pub fn find(&self, key: &Key, ids: &mut Vec<u32>) -> bool {
        let entry = &self.entries[key.place];
        let differ = (0..3).fold(0, |differ, at| differ | (entry.text[at] ^ key.text[at]));
        let found = differ == 0 && entry.lengths & 0xFFFF == key.length;
        if found {
            // A copy of fixed length costs less than one that must be measured.
            let end = ids.len() + (entry.lengths >> 16) as usize;
            ids.extend_from_slice(&entry.ids);
            ids.truncate(end);
        }
        found
    }

    /// Keeps the ids of a text, if they are few enough.
    pub fn keep(&mut self, key: &Key, ids: &[u32]) {
        if ids.len() <= MOST {
            let entry = &mut self.entries[key.place];
            entry.text = key.text;
            entry.lengths = key.length | (ids.len() as u32) << 16;
            entry.ids[..ids.len()].copy_from_slice(ids);
        }
    }
}
