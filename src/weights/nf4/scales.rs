//! The scales of the blocks, plain, or packed to eight bits themselves (double quantisation).

use std::sync::LazyLock;

/// One scale for each block of a matrix.
pub(super) enum Scales {
    Plain(Vec<f32>),
    Nested(Nested),
}

/// Scales packed to eight bits: `map[code] × absmax of the scale's own block + offset`.
pub(super) struct Nested {
    pub codes: Vec<u8>,
    /// The largest magnitude of each block of scales, less the offset.
    pub absmax: Vec<f32>,
    /// Scales that share one absmax.
    pub block: usize,
    /// The 256 values of the codes.
    pub map: Vec<f32>,
    /// The mean of the scales.
    pub offset: f32,
}

impl Scales {
    /// The scale of the block of that number.
    pub fn get(&self, block: usize) -> f32 {
        match self {
            Self::Plain(scales) => scales[block],
            Self::Nested(nested) => nested.get(block),
        }
    }
}

impl Nested {
    /// The scales that share an absmax, in bitsandbytes.
    pub const BLOCK: usize = 256;

    /// Packs scales in blocks of 256, codes and absmax as bitsandbytes' CPU library does: the code of a value comes from a
    /// table over 65,536 steps of [-1, 1], and is that of the middle of the step. A block of zeros has the code 0.
    ///
    /// The offset is the exact mean, rounded once. bitsandbytes asks torch for it, whose sum depends on the processor
    /// and on the number of threads in its last bits.
    pub fn pack(scales: &[f32]) -> Self {
        let sum: f64 = scales.iter().map(|&scale| f64::from(scale)).sum();
        let offset = (sum / scales.len().max(1) as f64) as f32;
        let mut codes = Vec::with_capacity(scales.len());
        let mut absmax = Vec::with_capacity(scales.len().div_ceil(Self::BLOCK));
        for block in scales.chunks(Self::BLOCK) {
            let largest = block.iter().fold(0f32, |largest, scale| largest.max((scale - offset).abs()));
            absmax.push(largest);
            if largest == 0.0 {
                codes.extend(block.iter().map(|_| 0));
                continue;
            }
            let inverse = 1.0 / largest;
            codes.extend(block.iter().map(|scale| STEPS[step((scale - offset) * inverse)]));
        }
        Self { codes, absmax, block: Self::BLOCK, map: MAP.to_vec(), offset }
    }

    fn get(&self, index: usize) -> f32 {
        self.map[usize::from(self.codes[index])] * self.absmax[index / self.block] + self.offset
    }
}

/// The values of an 8-bit code: bitsandbytes' signed dynamic map, ascending. Seven decades, from 10⁻⁶ to 1, the i-th
/// with 2ⁱ midpoints of equal steps over [0.1, 1] and their negatives; 0; and 1.
pub(super) static MAP: LazyLock<[f32; 256]> = LazyLock::new(|| {
    let mut map = [0.0; 256];
    map[1] = 1.0;
    let mut next = 2;
    for decade in 0..7 {
        let steps = 1usize << decade;
        // torch.linspace: from both ends to the middle, each term rounded once.
        let step = (1.0 - 0.1f32) / steps as f32;
        let edge = |i: usize| match i {
            i if i < steps.div_ceil(2) => step.mul_add(i as f32, 0.1),
            i => step.mul_add(-((steps - i) as f32), 1.0),
        };
        let size = 10f64.powi(decade - 6) as f32;
        for i in 0..steps {
            let value = (edge(i) + edge(i + 1)) / 2.0 * size;
            map[next..next + 2].copy_from_slice(&[value, -value]);
            next += 2;
        }
    }
    map.sort_by(f32::total_cmp);
    map
});

/// The code of each step: that of the value nearest to the middle of the step.
static STEPS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut code = 0;
    (0..=u16::MAX)
        .map(|step| {
            let value = -1.0 + 2.0 * f32::from(step) / f32::from(u16::MAX);
            while code < 255 && 0.5 * (MAP[code] + MAP[code + 1]) < value {
                code += 1;
            }
            code as u8
        })
        .collect()
});

/// The step in which a value of [-1, 1] lies.
fn step(value: f32) -> usize {
    ((value.clamp(-1.0, 1.0) + 1.0) * 0.5 * f32::from(u16::MAX) + 0.5) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_is_ascending_and_has_its_landmarks() {
        assert!(MAP.is_sorted_by(|a, b| a < b));
        assert_eq!((MAP[0], MAP[127], MAP[128], MAP[255]), (-0.992_968_74, 0.0, 5.500_000_4e-7, 1.0));
    }

    #[test]
    fn scales_come_back_within_the_map_s_own_steps() {
        let scales: Vec<f32> = (0..1000).map(|i| 0.02 + ((i * 7919) % 1000) as f32 * 1e-5).collect();
        let nested = Nested::pack(&scales);
        assert!((nested.offset - 0.024_995).abs() < 1e-6);
        assert_eq!(nested.absmax.len(), 4);
        for (i, scale) in scales.iter().enumerate() {
            assert!((nested.get(i) - scale).abs() < 0.02 * nested.absmax[i / 256], "{scale} {}", nested.get(i));
        }
        let same = Nested::pack(&[0.5; 3]);
        assert_eq!((same.get(0), same.get(2), same.codes[1]), (0.5, 0.5, 0));
    }
}
