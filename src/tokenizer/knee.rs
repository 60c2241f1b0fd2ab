//! The knee of a curve: where more begins to bring less.

/// A curve's knee, and what it was found by. The lists have one entry for each size.
#[derive(Clone, Debug, PartialEq)]
pub struct Knee {
    /// Index of the size.
    pub at: usize,
    /// The values, smoothed.
    pub smoothed: Vec<f64>,
    /// How high the smoothed curve lies above the line between its ends, with both axes scaled to 0…1.
    pub heights: Vec<f64>,
}

/// The knee of `values` over `sizes` (ascending, as many): of the smoothed curve, the point that lies highest above the
/// line from the first to the last (the kneedle method of Satopää et al., 2011, with [`smoothed`] for its smoothing).
/// The last point where there are fewer than three; `None` where there is none.
pub fn knee(sizes: &[usize], values: &[f64]) -> Option<Knee> {
    let last = sizes.len().min(values.len()).checked_sub(1)?;
    let smoothed = smoothed(sizes, values);
    let scaled =
        |first: f64, end: f64, value: f64| if end == first { 0.0 } else { (value - first) / (end - first) };
    let height = |at: usize| {
        let x = scaled(sizes[0] as f64, sizes[last] as f64, sizes[at] as f64);
        scaled(smoothed[0], smoothed[last], smoothed[at]) - x
    };
    let heights: Vec<f64> = (0..=last).map(height).collect();
    // Of equally high points the smaller size.
    let highest = (0..=last).reduce(|best, at| if heights[at] > heights[best] { at } else { best });
    let at = if last < 2 { last } else { highest.unwrap_or(last) };
    Some(Knee { at, smoothed, heights })
}

/// The curve with as little raised as makes its increments decrease: stretches where they grow become straight lines.
/// This is its least concave majorant, to which VoCap (Zheng et al., 2021) brings the curve of a language by averaging
/// neighbouring increments.
pub fn smoothed(sizes: &[usize], values: &[f64]) -> Vec<f64> {
    let slope = |from: usize, to: usize| (values[to] - values[from]) / (sizes[to] - sizes[from]) as f64;
    // The corners that stay.
    let mut corners: Vec<usize> = Vec::new();
    for at in 0..sizes.len().min(values.len()) {
        while let [.., before, last] = corners[..]
            && slope(before, last) <= slope(last, at)
        {
            corners.pop();
        }
        corners.push(at);
    }
    let mut smoothed = values.to_vec();
    for pair in corners.windows(2) {
        let slope = slope(pair[0], pair[1]);
        for at in pair[0] + 1..pair[1] {
            smoothed[at] = values[pair[0]] + slope * (sizes[at] - sizes[pair[0]]) as f64;
        }
    }
    smoothed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(sizes: &[usize], values: &[f64]) -> Option<usize> {
        knee(sizes, values).map(|knee| knee.at)
    }

    #[test]
    fn the_knee_is_where_the_curve_bends() {
        assert_eq!(at(&[10, 20, 30, 40, 50], &[-100.0, -60.0, -50.0, -46.0, -44.0]), Some(1));
        assert_eq!(at(&[10, 20], &[1.0, 2.0]), Some(1));
        assert_eq!(at(&[10], &[1.0]), Some(0));
        assert_eq!(at(&[], &[]), None);
        assert_eq!(at(&[1, 2, 3], &[5.0, 5.0, 5.0]), Some(0));
        let knee = knee(&[10, 20, 40], &[0.0, 9.0, 12.0]).unwrap();
        assert_eq!(knee.heights, [0.0, 0.75 - 1.0 / 3.0, 0.0]);
    }

    #[test]
    fn smoothing_makes_increments_decrease() {
        assert_eq!(smoothed(&[1, 2, 3, 4, 5], &[0.0, 4.0, 5.0, 8.0, 9.0]), [0.0, 4.0, 6.0, 8.0, 9.0]);
        assert_eq!(smoothed(&[1, 2, 3, 4], &[0.0, 0.0, 0.0, 3.0]), [0.0, 1.0, 2.0, 3.0]);
        // With sizes that are not evenly apart, increments count by the step.
        assert_eq!(smoothed(&[0, 10, 40], &[0.0, 1.0, 9.0]), [0.0, 2.25, 9.0]);
        let concave = [0.0, 5.0, 8.0, 9.0, 9.5];
        assert_eq!(smoothed(&[1, 2, 3, 4, 5], &concave), concave);
        assert_eq!(smoothed(&[], &[]), [0.0; 0]);

        let noisy: Vec<f64> = (0..60).map(|n| f64::from(n).sqrt() * 10.0 + f64::from(n * 7919 % 13)).collect();
        let sizes: Vec<usize> = (0..60).map(|n| 1000 * n).collect();
        let smooth = smoothed(&sizes, &noisy);
        let increments: Vec<f64> = smooth.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(increments.windows(2).all(|pair| pair[1] <= pair[0] + 1e-9), "{increments:?}");
        assert!(smooth.iter().zip(&noisy).all(|(smooth, noisy)| smooth >= noisy));
    }

    /// A bump of noise is not taken for the knee.
    #[test]
    fn noise_is_no_knee() {
        let sizes: Vec<usize> = (1..=10).map(|n| n * 1000).collect();
        let mut values = [0.0, 40.0, 60.0, 70.0, 76.0, 80.0, 83.0, 85.0, 86.0, 87.0];
        assert_eq!(at(&sizes, &values), Some(3));
        values[3] -= 15.0;
        assert_ne!(at(&sizes, &values), Some(3));
        assert_eq!(at(&sizes, &values), Some(2));
    }
}
