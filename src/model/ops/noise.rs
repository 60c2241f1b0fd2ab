//! Random numbers that are a function of where they are used, so that no generator has a state to keep: a run that is
//! resumed, or a layer that is computed twice, meets the same numbers again.

use candle_core::Tensor;
use rayon::prelude::*;

use super::{View, modify, tensor, vectorised};
use crate::error::Result;

/// Values that one task takes.
const CHUNK: usize = 16 * 1024;

/// A named stream of random 64-bit words: word `i` is a function of the stream and of `i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream(u64);

impl Stream {
    pub fn new(seed: u64) -> Self {
        Self(mix(seed ^ 0x6a09_e667_f3bc_c908))
    }

    /// The stream of that name within this one.
    pub fn named(self, name: &str) -> Self {
        let hash = blake3::hash(name.as_bytes());
        let mut word = [0u8; 8];
        word.copy_from_slice(&hash.as_bytes()[..8]);
        self.numbered(u64::from_le_bytes(word))
    }

    /// The stream of that number within this one.
    pub fn numbered(self, number: u64) -> Self {
        Self(mix(self.0 ^ mix(number)))
    }

    /// Word `index`.
    #[inline(always)]
    pub fn word(self, index: u64) -> u64 {
        mix(self.0.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }
}

/// The finaliser of splitmix64 (Steele, Lea, Flood 2014).
#[inline(always)]
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `count` values, uniform in [−bound, bound).
pub fn uniform(stream: Stream, count: usize, bound: f32) -> Vec<f32> {
    let mut values = vec![0f32; count];
    values.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
        vectorised(|| {
            for (i, value) in values.iter_mut().enumerate() {
                let word = stream.word((chunk * CHUNK + i) as u64);
                let unit = (word >> 40) as u32 as f32 / (1u32 << 24) as f32;
                *value = (2.0 * unit - 1.0) * bound;
            }
        });
    });
    values
}

/// What dropout with probability `rate` multiplies element `2i` and `2i + 1` by: two draws from word `i`.
#[inline(always)]
fn factors(stream: Stream, pair: u64, threshold: u32, keep: f32) -> (f32, f32) {
    let word = stream.word(pair);
    let factor = |draw: u32| if draw >= threshold { keep } else { 0.0 };
    (factor(word as u32), factor((word >> 32) as u32))
}

#[inline(always)]
fn drop_each(stream: Stream, rate: f32, chunk: usize, mut apply: impl FnMut(usize, f32), count: usize) {
    let threshold = (f64::from(rate) * 4_294_967_296.0) as u32;
    let keep = 1.0 / (1.0 - rate);
    let first = (chunk * CHUNK / 2) as u64;
    for pair in 0..count / 2 {
        let (even, odd) = factors(stream, first + pair as u64, threshold, keep);
        apply(2 * pair, even);
        apply(2 * pair + 1, odd);
    }
    if count % 2 == 1 {
        apply(count - 1, factors(stream, first + (count / 2) as u64, threshold, keep).0);
    }
}

/// x with each value dropped with probability `rate`, and the others divided by 1 − `rate`.
pub fn dropout(x: &Tensor, stream: Stream, rate: f32) -> Result<Tensor> {
    let xs = View::of(x)?;
    let mut y = vec![0f32; xs.len()];
    y.par_chunks_mut(CHUNK).zip(xs.par_chunks(CHUNK)).enumerate().for_each(|(chunk, (y, x))| {
        vectorised(|| drop_each(stream, rate, chunk, |i, factor| y[i] = x[i] * factor, x.len()));
    });
    tensor(y, x.shape())
}

/// `dx` += the gradient of [`dropout`] for `dy`: the same mask again.
pub fn dropout_add(dx: &Tensor, dy: &Tensor, stream: Stream, rate: f32) -> Result<()> {
    let dy = View::of(dy)?;
    modify(dx, |dx| {
        dx.par_chunks_mut(CHUNK).zip(dy.par_chunks(CHUNK)).enumerate().for_each(|(chunk, (dx, dy))| {
            vectorised(|| drop_each(stream, rate, chunk, |i, factor| dx[i] += dy[i] * factor, dy.len()));
        });
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ops::check::{gradient, inner, numbers, zeros};

    #[test]
    fn dropout_keeps_its_rate_and_its_mean() {
        let ones = tensor(vec![1.0; 100_001], 100_001).unwrap();
        let y = dropout(&ones, Stream::new(1).named("q_proj"), 0.05).unwrap().to_vec1::<f32>().unwrap();
        let dropped = y.iter().filter(|&&y| y == 0.0).count();
        assert!((4_700..5_300).contains(&dropped), "{dropped}");
        let mean = y.iter().sum::<f32>() / y.len() as f32;
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
        let other = dropout(&ones, Stream::new(1).named("k_proj"), 0.05).unwrap().to_vec1::<f32>().unwrap();
        assert_ne!(y, other);
    }

    #[test]
    fn uniform_fills_its_interval() {
        let values = uniform(Stream::new(3), 40_000, 0.5);
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        assert!(mean.abs() < 0.01, "{mean}");
        assert!(values.iter().all(|v| (-0.5..0.5).contains(v)));
        assert!(values.iter().any(|v| *v < -0.499) && values.iter().any(|v| *v > 0.499));
    }

    #[test]
    fn gradients() {
        let (x, dy) = (numbers((5, 7), 1), numbers((5, 7), 2));
        let stream = Stream::new(9);
        let dx = zeros((5, 7));
        dropout_add(&dx, &dy, stream, 0.3).unwrap();
        gradient("x", &x, &dx, |x| inner(&dropout(x, stream, 0.3).unwrap(), &dy));
    }
}
