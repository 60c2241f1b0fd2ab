//! The characters of a vocabulary: their symbols, and where a text can be cut because no piece holds two of them side
//! by side.

use std::collections::HashMap;

use super::FastMap;
use super::unions::fold;

/// How many pieces there may be: a symbol takes 21 bits, all ones stand for none, and every character of Unicode may
/// become a symbol beside the pieces.
pub const MOST_PIECES: usize = SYMBOL as usize - 0x11_0000;

/// How many bytes are looked at together.
pub const WINDOW: usize = 32;

const SYMBOL: u32 = (1 << 21) - 1;
/// Some piece has a character behind this one, or before it.
const BEFORE_SOME: u32 = 1 << 21;
const BEHIND_SOME: u32 = 1 << 22;
/// A user-defined piece begins with the character.
const BEGINS_USER_DEFINED: u32 = 1 << 23;

/// What is known of a character, in one word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Character(u32);

impl Character {
    /// In no piece.
    const FOREIGN: Self = Self(SYMBOL);

    pub fn symbol(self) -> Option<u32> {
        let symbol = self.0 & SYMBOL;
        (symbol != SYMBOL).then_some(symbol)
    }

    pub fn begins_user_defined(self) -> bool {
        self.0 & BEGINS_USER_DEFINED != 0
    }
}

/// The table of them.
///
/// Of two characters it can be asked whether they stand side by side in some piece. ASCII is answered exactly, the
/// rest from a bitmap by hash that says yes to about one in fifty pairs for nothing: a place where no merge can be made
/// is then not cut, which costs time and changes nothing.
pub struct Characters {
    /// By code point, those below U+10000 and those above.
    basic: Vec<Character>,
    astral: HashMap<u32, Character>,
    /// By byte and the upper two bits of the next one, a bit for each lower six: whether both are ASCII characters
    /// that are joined.
    ascii: Box<[u64; 1024]>,
    pairs: Vec<u64>,
    /// 64 less the number of bits of an index into `pairs`.
    shift: u32,
}

impl Characters {
    /// `symbols` and `pairs` (of symbols that stand side by side in pieces) are those of a vocabulary, `user_defined`
    /// the first characters of its user-defined pieces. `alias`: the first character is read as if it were the second.
    pub fn new(
        symbols: &FastMap<char, u32>,
        pairs: &[(u32, u32)],
        user_defined: impl Iterator<Item = char>,
        alias: Option<(char, char)>,
    ) -> Self {
        let bits = (pairs.len() * 4).next_power_of_two().clamp(1 << 12, 1 << 24).trailing_zeros();
        let mut characters = Self {
            basic: vec![Character::FOREIGN; 0x1_0000],
            astral: HashMap::new(),
            ascii: Box::new([0; 1024]),
            pairs: vec![0; 1 << (bits - 6)],
            shift: 64 - bits,
        };
        let highest = symbols.values().max().map_or(0, |symbol| *symbol as usize + 1);
        let mut flags = vec![0; highest];
        for &(left, right) in pairs {
            flags[left as usize] |= BEFORE_SOME;
            flags[right as usize] |= BEHIND_SOME;
            let bit = characters.bit(left, right);
            characters.pairs[bit >> 6] |= 1 << (bit & 63);
        }
        for (&c, &symbol) in symbols {
            characters.set(c, Character(symbol | flags[symbol as usize]));
        }
        for c in user_defined {
            characters.set(c, Character(characters.get(c).0 | BEGINS_USER_DEFINED));
        }
        if let Some((from, to)) = alias {
            characters.set(from, characters.get(to));
        }
        for left in 0..128 {
            for right in 0..128 {
                let (l, r) = (characters.basic[left], characters.basic[right]);
                if characters.are_joined(l, r) && !r.begins_user_defined() {
                    characters.ascii[left * 4 + right / 64] |= 1 << (right % 64);
                }
            }
        }
        characters
    }

    fn set(&mut self, c: char, character: Character) {
        match self.basic.get_mut(c as usize) {
            Some(entry) => *entry = character,
            None => _ = self.astral.insert(c as u32, character),
        }
    }

    pub fn get(&self, c: char) -> Character {
        self.at(c as u32)
    }

    /// By code point.
    #[inline]
    pub fn at(&self, code: u32) -> Character {
        match self.basic.get(code as usize) {
            Some(&character) => character,
            None => self.astral.get(&code).copied().unwrap_or(Character::FOREIGN),
        }
    }

    /// Whether no cut can be made between two characters.
    #[inline]
    pub fn are_joined(&self, left: Character, right: Character) -> bool {
        if left.0 & BEFORE_SOME == 0 || right.0 & BEHIND_SOME == 0 {
            return false;
        }
        let bit = self.bit(left.0 & SYMBOL, right.0 & SYMBOL);
        self.pairs[bit >> 6] >> (bit & 63) & 1 != 0
    }

    /// A bit for each of the first [`WINDOW`] bytes: whether it and the next one are ASCII characters that are joined,
    /// and the next one begins no user-defined piece. Without a branch, since where words end cannot be predicted.
    #[inline]
    pub fn joined_ascii(&self, bytes: &[u8; WINDOW + 1]) -> u32 {
        (0..WINDOW).fold(0, |joined, at| {
            let (left, right) = (usize::from(bytes[at]), usize::from(bytes[at + 1]));
            let bits = self.ascii[left * 4 + right / 64];
            joined | ((bits >> (right % 64)) as u32 & 1) << at
        })
    }

    #[inline]
    fn bit(&self, left: u32, right: u32) -> usize {
        (fold(u64::from(left) << 32 | u64::from(right)) >> self.shift) as usize
    }
}
