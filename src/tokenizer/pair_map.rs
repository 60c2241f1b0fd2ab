//! A map from pairs of symbols, the lookup at the heart of byte-pair encoding.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// From a [`pair_key`] to a value.
pub type PairMap<V> = HashMap<u64, V, BuildHasherDefault<PairHasher>>;

/// Two symbols as one key.
pub fn pair_key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// Spreads one 64-bit key over the whole word by a folded multiplication: keys are small numbers of our own making,
/// so nothing stronger is needed.
#[derive(Default)]
pub struct PairHasher(u64);

impl Hasher for PairHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, key: u64) {
        let product = u128::from(self.0 ^ key ^ 0x9E37_79B9_7F4A_7C15) * 0xD6E8_FEB8_6659_FD93_u128;
        self.0 = product as u64 ^ (product >> 64) as u64;
    }
}
