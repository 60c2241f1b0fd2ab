//! The knee of a curve: where more begins to bring less.

/// The index of the knee of `values` (rising) over `sizes` (ascending): with both scaled to 0…1, the point that lies
/// highest above the line from the first to the last (the kneedle method of Satopää et al., 2011, without smoothing).
/// The last point where there are fewer than three.
pub fn knee(sizes: &[usize], values: &[f64]) -> Option<usize> {
    let last = sizes.len().min(values.len()).checked_sub(1)?;
    if last < 2 {
        return Some(last);
    }
    let scaled =
        |first: f64, end: f64, value: f64| if end == first { 0.0 } else { (value - first) / (end - first) };
    let height = |at: usize| {
        let x = scaled(sizes[0] as f64, sizes[last] as f64, sizes[at] as f64);
        scaled(values[0], values[last], values[at]) - x
    };
    // Of equally high points the smaller size.
    (0..=last).reduce(|best, at| if height(at) > height(best) { at } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_knee_is_where_the_curve_bends() {
        assert_eq!(knee(&[10, 20, 30, 40, 50], &[-100.0, -60.0, -50.0, -46.0, -44.0]), Some(1));
        assert_eq!(knee(&[10, 20], &[1.0, 2.0]), Some(1));
        assert_eq!(knee(&[], &[]), None);
        assert_eq!(knee(&[1, 2, 3], &[5.0, 5.0, 5.0]), Some(0));
    }
}
