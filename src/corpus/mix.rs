//! How much of a dataset a ratio of the mix takes.

/// Rows of a dataset of `rows` blocks at `ratio`: ⌊rows · ratio⌋, computed in double precision as the original's
/// `int(len(dataset) * ratio)`. At most 1 that is a prefix of the dataset; above 1, whole epochs plus a part: row
/// `i` of the share is row `i % rows` of the dataset.
pub fn rows(rows: u64, ratio: f64) -> u64 {
    (rows as f64 * ratio) as u64
}

#[cfg(test)]
mod tests {
    #[test]
    fn as_published_and_above_one() {
        assert_eq!(super::rows(1000, 0.1), 100);
        assert_eq!(super::rows(7, 0.5), 3);
        assert_eq!(super::rows(7, 1.0), 7);
        assert_eq!(super::rows(7, 2.5), 17);
        assert_eq!(super::rows(0, 2.5), 0);
    }
}
