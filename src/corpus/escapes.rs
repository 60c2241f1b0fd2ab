//! Where a JSON string stops being plain: at `"`, `\` and the control characters below U+0020.

/// Bytes that are looked at together.
const BLOCK: usize = 64;

/// Finds, one after the other, the bytes of a text that can't stand in a JSON string as they are.
pub struct Escapes<'a> {
    bytes: &'a [u8],
    block: usize,
    /// A bit for each byte of the block, from the lowest up: whether it is one of them.
    found: u64,
}

impl<'a> Escapes<'a> {
    pub fn of(bytes: &'a [u8]) -> Self {
        let mut escapes = Self { bytes, block: 0, found: 0 };
        escapes.look();
        escapes
    }

    /// The first at `place` or behind it. Cheap if `place` grows from call to call.
    #[inline(always)]
    pub fn next(&mut self, place: usize) -> Option<usize> {
        if place / BLOCK != self.block {
            self.block = place / BLOCK;
            self.look();
        }
        let mut found = self.found & (u64::MAX << (place % BLOCK));
        while found == 0 {
            self.block += 1;
            if self.block * BLOCK >= self.bytes.len() {
                return None;
            }
            self.look();
            found = self.found;
        }
        Some(self.block * BLOCK + found.trailing_zeros() as usize)
    }

    #[inline]
    fn look(&mut self) {
        let rest = self.bytes.get(self.block * BLOCK..).unwrap_or_default();
        self.found = match rest.first_chunk() {
            Some(block) => found_in(block),
            None => {
                let mut block = [b' '; BLOCK];
                block[..rest.len()].copy_from_slice(rest);
                found_in(&block)
            }
        };
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn found_in(block: &[u8; BLOCK]) -> u64 {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8,
    };
    let (chunks, _) = block.as_chunks::<16>();
    chunks.iter().rev().fold(0, |found, chunk| {
        // SAFETY: every x86-64 processor has SSE2; 16 bytes are there to be read, and the load asks for no alignment.
        let bits = unsafe {
            let bytes = _mm_loadu_si128(chunk.as_ptr().cast::<__m128i>());
            let quote = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'"' as i8));
            let backslash = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'\\' as i8));
            let control = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
            _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quote, backslash), control))
        };
        found << 16 | u64::from(bits as u32)
    })
}

#[cfg(not(target_arch = "x86_64"))]
use found_in_words as found_in;

/// The same, eight bytes at a time, on any processor.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn found_in_words(block: &[u8; BLOCK]) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    let (words, _) = block.as_chunks::<8>();
    words.iter().rev().fold(0, |found, word| {
        let word = u64::from_le_bytes(*word);
        // The high bit of each byte of `word` that is not 0.
        let some = |word: u64| (((word & (ONES * 0x7f)) + ONES * 0x7f) | word) & (ONES * 0x80);
        let is_not = |byte: u8| some(word ^ (ONES * u64::from(byte)));
        let plain = is_not(b'"') & is_not(b'\\') & some(word & (ONES * 0xe0));
        // Eight high bits side by side: the multiplication brings each to its place in the highest byte.
        let bits = ((plain ^ (ONES * 0x80)) >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        found << 8 | bits
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(byte: u8) -> bool {
        byte < 0x20 || byte == b'"' || byte == b'\\'
    }

    #[test]
    fn every_byte_is_known_wherever_it_stands() {
        for byte in 0..=255 {
            for place in 0..BLOCK {
                let mut block = [b'!'; BLOCK];
                block[place] = byte;
                block[(place + 7) % BLOCK] = b'"';
                let expected = u64::from(escaped(byte)) << place | 1 << ((place + 7) % BLOCK);
                assert_eq!(found_in(&block), expected, "{byte} at {place}");
                assert_eq!(found_in_words(&block), expected, "{byte} at {place}");
            }
        }
    }

    #[test]
    fn all_are_found_in_texts_of_any_length() {
        let text: Vec<u8> = (0..300u32).map(|i| (i * i * 7 % 251) as u8).collect();
        for length in 0..text.len() {
            let text = &text[..length];
            let mut escapes = Escapes::of(text);
            let mut found = Vec::new();
            let mut place = 0;
            while let Some(next) = escapes.next(place) {
                found.push(next);
                place = next + 1;
            }
            let expected: Vec<usize> = (0..length).filter(|&i| escaped(text[i])).collect();
            assert_eq!(found, expected);
            assert_eq!(Escapes::of(text).next(length), None);
        }
    }
}
