//! How much of a dataset a share of the mix takes.

use serde::{Deserialize, Serialize};

/// The amount that stands before the colon of a share.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Amount {
    /// Passes over the dataset's blocks, finite and above 0.
    Ratio(f64),
    /// Tokens in blocks, above 0.
    Tokens(u64),
}

impl Amount {
    /// How many of a dataset's blocks this is, of `blocks` that it has, of `length` tokens each. Of a ratio
    /// ⌊blocks · ratio⌋, computed in double precision as the original's `int(len(dataset) * ratio)`; of tokens as many
    /// whole blocks as they fill. More than the dataset has means whole passes and a part.
    pub fn blocks(self, blocks: u64, length: usize) -> u64 {
        match self {
            Amount::Ratio(ratio) => (blocks as f64 * ratio) as u64,
            Amount::Tokens(tokens) => tokens / (length as u64).max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Amount;

    /// The right side is Python's `int(blocks * ratio)`, where rounding matters too.
    #[test]
    fn a_ratio_as_published() {
        for (blocks, ratio, expected) in [
            (1000, 0.1, 100),
            (7, 0.5, 3),
            (7, 1.0, 7),
            (7, 2.5, 17),
            (0, 2.5, 0),
            (100, 0.29, 28),
            (100, 0.57, 56),
            (1_000_000, 0.1, 100_000),
            (3, 0.3, 0),
            (10, 0.7, 7),
            (110, 1.1, 121),
            (296_012, 0.1, 29_601),
            (9_007_199_254_740_993, 1.0, 9_007_199_254_740_992),
        ] {
            assert_eq!(Amount::Ratio(ratio).blocks(blocks, 2048), expected, "int({blocks} * {ratio})");
        }
    }

    #[test]
    fn tokens_are_whole_blocks() {
        for (tokens, expected) in [(2047, 0), (2048, 1), (4095, 1), (2_000_000_000, 976_562)] {
            assert_eq!(Amount::Tokens(tokens).blocks(5, 2048), expected);
        }
    }
}
