//! Which piece two symbols make: the lookup at the heart of byte-pair encoding.

/// A table with open addressing, one word for a slot: 21 bits each for the left symbol, the right one, and the piece
/// that they make.
pub struct Unions {
    slots: Vec<u64>,
    /// 64 less the number of bits of an index into `slots`.
    shift: u32,
}

const EMPTY: u64 = u64::MAX;

impl Unions {
    /// From (left, right, union); of two unions of the same symbols the last one counts.
    pub fn new(unions: &[(u32, u32, u32)]) -> Self {
        let bits = (unions.len() * 4 / 3).next_power_of_two().max(16).trailing_zeros();
        let mut table = Self { slots: vec![EMPTY; 1 << bits], shift: 64 - bits };
        for &(left, right, union) in unions {
            let key = key(left, right);
            let mut at = table.home(key);
            while table.slots[at] != EMPTY && table.slots[at] >> 21 != key {
                at = (at + 1) & (table.slots.len() - 1);
            }
            table.slots[at] = key << 21 | u64::from(union);
        }
        table
    }

    /// The piece that is both symbols together.
    #[inline]
    pub fn get(&self, left: u32, right: u32) -> Option<u32> {
        let key = key(left, right);
        let mut at = self.home(key);
        loop {
            let slot = self.slots[at];
            if slot >> 21 == key {
                return Some(slot as u32 & ((1 << 21) - 1));
            }
            if slot == EMPTY {
                return None;
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    #[inline]
    fn home(&self, key: u64) -> usize {
        (fold(key) >> self.shift) as usize
    }
}

/// Symbols of 21 bits; the top bit stays free, so that no key with its union is [`EMPTY`].
fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 21 | u64::from(right)
}

/// Spreads a small number over the upper bits of a word by a folded multiplication: the keys are numbers of our own
/// making, so nothing stronger is needed.
#[inline]
pub fn fold(key: u64) -> u64 {
    let product = u128::from(key ^ 0x9E37_79B9_7F4A_7C15) * 0xD6E8_FEB8_6659_FD93_u128;
    product as u64 ^ (product >> 64) as u64
}
