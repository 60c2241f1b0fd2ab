//! Matrices in 4-bit NormalFloat (Dettmers et al. 2023), with bitsandbytes' arithmetic and its layout in files.
//!
//! A matrix is cut, row after row, into blocks (the last may be shorter). Each block has a scale, its largest magnitude;
//! its values, divided by the scale, become the nearest of sixteen, two codes to a byte, the earlier in the high half.
//! With double quantisation the scales are packed as well, to eight bits.

mod codebook;
mod config;
mod scales;
mod stored;
#[cfg(test)]
mod tests;

use std::ops::Range;

use rayon::prelude::*;

use super::Float;
use crate::error::{Error, Result};
use codebook::CODEBOOK;
use scales::{Nested, Scales};

pub use config::{Compute, quantization_config, read_quantization_config};
pub use stored::Stored;

/// Blocks that one task takes.
const BLOCKS: usize = 256;

/// How matrices are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// Values that share one scale: a power of two from 32 to 4096.
    block: usize,
    /// Whether the scales are packed to eight bits.
    double: bool,
}

impl Packing {
    /// bitsandbytes' default: blocks of 64, scales in float32.
    pub const DEFAULT: Self = Self { block: 64, double: false };

    /// Fails if `block` is none of bitsandbytes' block sizes.
    pub fn new(block: usize, double: bool) -> Result<Self> {
        if !(32..=4096).contains(&block) || !block.is_power_of_two() {
            return Err(Error::invalid(format!(
                "a block of {block} values; it must be a power of two, 32 to 4096"
            )));
        }
        Ok(Self { block, double })
    }
}

/// A packed matrix.
pub struct Matrix {
    shape: (usize, usize),
    /// The type of the values that were packed; bitsandbytes rounds to it when it unpacks.
    float: Float,
    block: usize,
    codes: Vec<u8>,
    scales: Scales,
}

impl Matrix {
    /// Packs a row-major matrix. `read` puts the values of a range into a slice as long; they are those of `float`, and
    /// computed on in float32, so that a matrix of a half type is packed as it would be in float32. A value that is
    /// infinite or not a number is an error.
    pub fn pack(
        shape: (usize, usize),
        float: Float,
        packing: Packing,
        read: impl Fn(Range<usize>, &mut [f32]) + Sync,
    ) -> Result<Self> {
        let Packing { block, double } = packing;
        let count = shape.0 * shape.1;
        let mut codes = vec![0; count.div_ceil(2)];
        let mut scales = vec![0.0; count.div_ceil(block)];
        let whole = codes
            .par_chunks_mut(BLOCKS * block / 2)
            .zip(scales.par_chunks_mut(BLOCKS))
            .enumerate()
            .map_init(Vec::new, |values, (task, (codes, scales))| {
                let start = task * BLOCKS * block;
                values.resize((count - start).min(BLOCKS * block), 0.0);
                read(start..start + values.len(), values);
                let blocks = values.chunks(block).zip(codes.chunks_mut(block / 2));
                for ((values, codes), scale) in blocks.zip(scales) {
                    match codebook::pack_block(values, values.len() < block, codes) {
                        Some(absmax) => *scale = absmax,
                        None => return false,
                    }
                }
                true
            })
            .reduce(|| true, |a, b| a && b);
        if !whole {
            return Err(Error::invalid("a value is infinite or not a number"));
        }
        let scales = if double { Scales::Nested(Nested::pack(&scales)) } else { Scales::Plain(scales) };
        Ok(Self { shape, float, block, codes, scales })
    }

    /// The same from values as stored: row-major, little-endian.
    pub fn pack_stored(shape: (usize, usize), float: Float, packing: Packing, bytes: &[u8]) -> Result<Self> {
        let size = float.bytes();
        Self::pack(shape, float, packing, |range, values| {
            float.widen_into(&bytes[range.start * size..range.end * size], values);
        })
    }

    /// (rows, columns)
    pub fn shape(&self) -> (usize, usize) {
        self.shape
    }

    /// The type of the values that were packed.
    pub fn float(&self) -> Float {
        self.float
    }

    /// Puts the values of a range of the row-major matrix into a slice as long: the code's value times the block's
    /// scale, in float32.
    ///
    /// # Panics
    /// If the matrix has no such range, or the slice another length.
    pub fn unpack(&self, range: Range<usize>, values: &mut [f32]) {
        assert!(range.end <= self.shape.0 * self.shape.1 && range.len() == values.len());
        let mut start = range.start;
        let mut values = values;
        while !values.is_empty() {
            let number = start / self.block;
            let length = ((number + 1) * self.block - start).min(values.len());
            let (part, rest) = values.split_at_mut(length);
            self.unpack_within(number, start, part);
            values = rest;
            start += length;
        }
    }

    /// The values from `start` on, all of one block.
    fn unpack_within(&self, block: usize, start: usize, values: &mut [f32]) {
        let scale = self.scales.get(block);
        let table = CODEBOOK.map(|value| value * scale);
        let value = |code: u8| table[usize::from(code & 15)];
        // An odd start is the low half of a byte.
        let odd = start % 2;
        let (first, pairs) = values.split_at_mut(odd.min(values.len()));
        if let [first] = first {
            *first = value(self.codes[start / 2]);
        }
        let codes = &self.codes[start.div_ceil(2)..];
        let (pairs, last) = pairs.as_chunks_mut::<2>();
        let whole = pairs.len();
        for (pair, byte) in pairs.iter_mut().zip(codes) {
            *pair = [value(byte >> 4), value(*byte)];
        }
        if let [last] = last {
            *last = value(codes[whole] >> 4);
        }
    }

    /// All values, on every thread of the pool.
    pub fn unpack_all(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.shape.0 * self.shape.1];
        values.par_chunks_mut(BLOCKS * self.block).enumerate().for_each(|(task, values)| {
            let start = task * BLOCKS * self.block;
            self.unpack(start..start + values.len(), values);
        });
        values
    }
}
