//! The sixteen values of NF4, and which of them a number becomes.

/// The values, by code; `get_4bit_type("nf4")` of bitsandbytes.
pub(super) const CODEBOOK: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The midpoints between neighbours: a value strictly above one takes the higher code.
const MIDPOINTS: [f32; 15] = {
    let mut midpoints = [0.0; 15];
    let mut code = 0;
    while code < 15 {
        midpoints[code] = (CODEBOOK[code] + CODEBOOK[code + 1]) / 2.0;
        code += 1;
    }
    midpoints
};

/// bitsandbytes divides by nothing smaller.
const SMALLEST_ABSMAX: f32 = 1e-38;

/// Values that are compared with the midpoints at a time.
const LANES: usize = 32;

/// Packs one block, two codes to a byte, the earlier in the high half, and gives its scale: the largest magnitude.
/// `None` if a value is infinite or not a number.
///
/// The arithmetic is that of bitsandbytes on a CPU. A whole block is multiplied by the reciprocal of its scale; the
/// shorter one at the end of a matrix (`is_rest`) is divided by its scale, which is stored as at least 1e-38. Zeros take
/// the code of zero, also in a block that is all zeros. (Its CUDA kernels multiply in both cases, and give a block of
/// zeros the code 0 with the scale 0: negative zeros.)
pub(super) fn pack_block(values: &[f32], is_rest: bool, codes: &mut [u8]) -> Option<f32> {
    // Of magnitudes, the integers behind them are in the same order; infinity and NaN come last.
    let largest = values.iter().map(|value| value.to_bits() & 0x7fff_ffff).max()?;
    let absmax = f32::from_bits(largest);
    if !absmax.is_finite() {
        return None;
    }
    let divisor = absmax.max(SMALLEST_ABSMAX);
    let inverse = 1.0 / divisor;
    for (values, codes) in values.chunks(LANES).zip(codes.chunks_mut(LANES / 2)) {
        let mut scaled = [0f32; LANES];
        for (scaled, value) in scaled.iter_mut().zip(values) {
            *scaled = if is_rest { value / divisor } else { value * inverse };
        }
        // Lanes behind the last value hold zeros, and so become its code.
        let mut code = [0i32; LANES];
        for midpoint in MIDPOINTS {
            for (code, value) in code.iter_mut().zip(scaled) {
                *code += i32::from(value > midpoint);
            }
        }
        for (byte, pair) in codes.iter_mut().zip(code.as_chunks::<2>().0) {
            *byte = (pair[0] << 4 | pair[1]) as u8;
        }
    }
    Some(if is_rest { divisor } else { absmax })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codebook_survives_and_ties_take_the_lower_code() {
        let mut codes = [0; 8];
        assert_eq!(pack_block(&CODEBOOK, false, &mut codes), Some(1.0));
        assert_eq!(codes, [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]);
        let mut values = [0.0; 32];
        values[..15].copy_from_slice(&MIDPOINTS);
        for (value, midpoint) in values[16..].iter_mut().zip(MIDPOINTS) {
            *value = midpoint.next_up();
        }
        values[15] = 1.0;
        let mut codes = [0; 16];
        pack_block(&values, false, &mut codes).unwrap();
        assert_eq!(codes[..8], [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]);
        assert_eq!(codes[8..], [0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf7]);
    }

    #[test]
    fn zeros_take_the_code_of_zero_and_what_is_not_finite_is_refused() {
        let mut codes = [0; 2];
        assert_eq!(pack_block(&[0.0; 4], false, &mut codes), Some(0.0));
        assert_eq!(codes, [0x77, 0x77]);
        assert_eq!(pack_block(&[-0.0; 3], true, &mut codes), Some(1e-38));
        assert_eq!(codes, [0x77, 0x77]);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN] {
            assert_eq!(pack_block(&[1.0, bad], false, &mut codes), None);
        }
        // The smallest number there is: its reciprocal would be infinite.
        assert_eq!(pack_block(&[f32::from_bits(1), 0.0], false, &mut codes), Some(f32::from_bits(1)));
    }
}
