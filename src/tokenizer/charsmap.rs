//! The map of characters that a SentencePiece model normalises text with (`nmt_nfkc` and its like).
//!
//! A map is a double array (Darts), whose keys lead to places in a block of texts that each end with a NUL:
//!
//! ```text
//! u32: bytes of the array | the array: u32 units | the block of texts
//! ```
//!
//! All numbers are little-endian. A unit has a label (the byte that led to it), the offset of its children, and whether
//! a key ends here; then the child at the offset itself has the place of the key's text.

use super::proto::NormalizerSpec;
use crate::error::{Error, Result};

/// SentencePiece looks at the first so many keys that a text begins with, the shorter ones first.
const MOST_KEYS: usize = 32;

/// What some beginnings of a text are replaced by.
#[derive(Debug)]
pub struct Charsmap {
    units: Vec<u32>,
    texts: String,
}

impl Charsmap {
    /// The map of a spec, if it has one. Fails where SentencePiece refuses it, and if the texts are not UTF-8.
    pub fn of(spec: &NormalizerSpec) -> Result<Option<Self>> {
        let Some(blob) = spec.precompiled_charsmap.as_deref().filter(|blob| !blob.is_empty()) else {
            return Ok(None);
        };
        let damaged = |what: &str| Error::invalid(format!("the character map of the SentencePiece model {what}"));
        let (size, rest) = blob.split_first_chunk().ok_or_else(|| damaged("is cut short"))?;
        let size = u32::from_le_bytes(*size) as usize;
        if size >= rest.len() {
            return Err(damaged("is cut short"));
        }
        // The units come in blocks of 256.
        if size < 1024 || !size.is_multiple_of(1024) {
            return Err(damaged("has an array of broken size"));
        }
        let (units, texts) = rest.split_at(size);
        let texts = String::from_utf8(texts.to_vec()).map_err(|_| damaged("holds text that is not UTF-8"))?;
        if !texts.ends_with('\0') {
            return Err(damaged("has no end"));
        }
        let units = units.as_chunks().0.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        Ok(Some(Self { units, texts }))
    }

    /// What the longest key that `text` begins with is replaced by, and the key's length in bytes. A key that ends
    /// within a character, or one that leads out of the map, is none.
    pub fn longest_prefix(&self, text: &str) -> Option<(&str, usize)> {
        let mut unit = Unit(*self.units.first()?);
        let mut node = unit.offset();
        let (mut longest, mut keys) = (None, 0);
        for (at, &byte) in text.as_bytes().iter().enumerate() {
            node ^= byte as usize;
            let Some(&next) = self.units.get(node) else { break };
            unit = Unit(next);
            if unit.label() != u32::from(byte) {
                break;
            }
            node ^= unit.offset();
            if unit.ends_key() {
                let Some(&place) = self.units.get(node) else { break };
                longest = Some((Unit(place).value(), at + 1));
                keys += 1;
                if keys == MOST_KEYS {
                    break;
                }
            }
        }
        let (place, length) = longest?;
        // The last text ends with the block, behind which is nothing.
        let replacement = self.texts.get(place..).filter(|rest| !rest.is_empty())?.split('\0').next()?;
        text.is_char_boundary(length).then_some((replacement, length))
    }
}

/// A unit of the double array.
#[derive(Clone, Copy)]
struct Unit(u32);

impl Unit {
    fn ends_key(self) -> bool {
        self.0 >> 8 & 1 == 1
    }

    /// Of a unit that only holds a place, the highest bit is set, so that it is no byte's.
    fn label(self) -> u32 {
        self.0 & (1 << 31 | 0xFF)
    }

    fn value(self) -> usize {
        (self.0 & !(1 << 31)) as usize
    }

    fn offset(self) -> usize {
        ((self.0 >> 10) << ((self.0 & 1 << 9) >> 6)) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(map: Vec<u8>) -> NormalizerSpec {
        NormalizerSpec { precompiled_charsmap: Some(map), ..NormalizerSpec::default() }
    }

    /// A map of 256 units with these at their places.
    fn map(units: &[(usize, u32)], texts: &str) -> Vec<u8> {
        let mut array = [0; 256];
        for &(at, unit) in units {
            array[at] = unit;
        }
        let array = array.into_iter().flat_map(u32::to_le_bytes);
        1024_u32.to_le_bytes().into_iter().chain(array).chain(texts.bytes()).collect()
    }

    /// `a` → `x`, `ab` → nothing, `b` → `yz`.
    fn small() -> Vec<u8> {
        let (ends, value, offset) = (1 << 8, 1_u32 << 31, |offset: u32| offset << 10);
        let root = (0, offset(128));
        let a = (128 ^ 97, 97 | ends | offset(7));
        let of_a = (128 ^ 97 ^ 7, value);
        let ab = (128 ^ 97 ^ 7 ^ 98, 98 | ends | offset(1));
        let of_ab = (128 ^ 97 ^ 7 ^ 98 ^ 1, value | 1);
        let b = (128 ^ 98, 98 | ends | offset(64));
        let of_b = (128 ^ 98 ^ 64, value | 2);
        map(&[root, a, of_a, ab, of_ab, b, of_b], "x\0yz\0")
    }

    #[test]
    fn the_longest_key_counts() {
        let map = Charsmap::of(&spec(small())).unwrap().unwrap();
        assert_eq!(map.longest_prefix("ac"), Some(("x", 1)));
        assert_eq!(map.longest_prefix("abc"), Some(("", 2)));
        assert_eq!(map.longest_prefix("ba"), Some(("yz", 1)));
        assert_eq!(map.longest_prefix("c"), None);
        assert_eq!(map.longest_prefix("é"), None);
        assert_eq!(map.longest_prefix(""), None);
        assert!(Charsmap::of(&spec(Vec::new())).unwrap().is_none());
    }

    #[test]
    fn damaged_maps_are_refused() {
        let refused = |map: Vec<u8>| Charsmap::of(&spec(map)).unwrap_err().message().to_owned();
        let whole = small();
        let name = "the character map of the SentencePiece model";
        assert_eq!(refused(vec![0, 4]), format!("{name} is cut short"));
        assert_eq!(refused(whole[..1028].to_vec()), format!("{name} is cut short"));
        assert_eq!(refused([&[4, 0, 0, 0], &whole[4..]].concat()), format!("{name} has an array of broken size"));
        assert_eq!(refused([&whole, "z".as_bytes()].concat()), format!("{name} has no end"));
        assert_eq!(refused([&whole, &[0xFF, 0][..]].concat()), format!("{name} holds text that is not UTF-8"));
    }

    /// Offsets and places beyond the ends are keys that are not there.
    #[test]
    fn a_map_that_leads_nowhere() {
        let units = [(0, 128 << 10), (128 ^ 97, 97 | 1 << 8 | 0x1F_FFFF << 10), (128 ^ 98, 98 | 1 << 8 | 1 << 10)];
        let beyond = (128 ^ 98 ^ 1, 1 << 31 | 99);
        let map = Charsmap::of(&spec(map(&[&units[..], &[beyond]].concat(), "x\0"))).unwrap().unwrap();
        assert_eq!(map.longest_prefix("a"), None);
        assert_eq!(map.longest_prefix("b"), None);
    }
}
