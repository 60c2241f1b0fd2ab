//! How a vocabulary is shared out among languages (VoCap; Zheng et al., "Allocating Large Vocabulary Capacity for
//! Cross-lingual Language Model Pre-training", 2021).
//!
//! Every language has vocabularies of several sizes and the ALP of its text under each. A larger one is worth what ALP
//! it brings, times the language's weight. All languages are given sizes up to the same worth, the threshold, which is
//! bisected until the vocabularies together have as many pieces as are wanted.

use super::knee::smoothed;

/// The vocabularies of one language.
#[derive(Clone, Debug)]
pub struct Curve {
    /// Ascending, not empty.
    pub sizes: Vec<usize>,
    /// Of each size.
    pub alp: Vec<f64>,
    /// From [`weights`].
    pub weight: f64,
}

/// A size for each language.
#[derive(Clone, Debug, PartialEq)]
pub struct Allocation {
    /// In nats per line for [`STEP`] pieces more, weighted.
    pub threshold: f64,
    /// By language, the index of its size.
    pub at: Vec<usize>,
}

/// The number of pieces that a step of worth is counted for; VoCap's sizes are that far apart.
pub const STEP: f64 = 1000.0;

/// The bisection ends when the threshold is known so well.
const PRECISION: f64 = 1e-6;

/// The languages' shares of the text to the power of `beta`, made to sum to 1: below 1, `beta` raises small languages.
pub fn weights(shares: &[f64], beta: f64) -> Vec<f64> {
    let all: f64 = shares.iter().sum();
    let raised: Vec<f64> = shares.iter().map(|share| (share / all).powf(beta)).collect();
    let sum: f64 = raised.iter().sum();
    raised.iter().map(|share| share / sum).collect()
}

impl Curve {
    /// What each size brings over the one before it, weighted, for [`STEP`] pieces. Decreasing, for the curve is smoothed
    /// first. One entry less than there are sizes.
    pub fn worths(&self) -> Vec<f64> {
        let smooth = smoothed(&self.sizes, &self.alp);
        let worth = |at: usize| {
            let step = (self.sizes[at] - self.sizes[at - 1]) as f64 / STEP;
            self.weight * (smooth[at] - smooth[at - 1]) / step
        };
        (1..self.sizes.len()).map(worth).collect()
    }
}

/// For each language the last size that is worth more than the threshold (the first size at least), with the lowest
/// threshold whose sizes have `target` pieces at most; `total` counts the pieces of sizes, given by their indices, once
/// where languages share them. `None` if even the first sizes have more.
pub fn allocate(curves: &[Curve], target: usize, total: impl Fn(&[usize]) -> usize) -> Option<Allocation> {
    let worths: Vec<Vec<f64>> = curves.iter().map(Curve::worths).collect();
    let sizes_above = |threshold: f64| -> Vec<usize> {
        let last = |worths: &Vec<f64>| worths.iter().rposition(|worth| *worth > threshold).map_or(0, |at| at + 1);
        worths.iter().map(last).collect()
    };
    // VoCap looks between 0 and 100, which long lines can exceed.
    let (mut low, mut high) = (0.0, worths.iter().flatten().fold(100.0_f64, |most, worth| most.max(*worth)));
    if total(&sizes_above(high)) > target {
        return None;
    }
    while low + PRECISION < high {
        let middle = f64::midpoint(low, high);
        // Of very large numbers, the nearest may be farther apart than the precision.
        if middle <= low || middle >= high {
            break;
        }
        if total(&sizes_above(middle)) <= target {
            high = middle;
        } else {
            low = middle;
        }
    }
    Some(Allocation { threshold: high, at: sizes_above(high) })
}

/// The language whose next size is worth most, and that size's index; of equals the first. `None` if all are at their
/// last.
pub fn next(curves: &[Curve], at: &[usize]) -> Option<(usize, usize)> {
    let worth = |language: usize| curves[language].worths().get(at[language]).copied();
    let candidates = (0..curves.len()).filter_map(|language| Some((language, worth(language)?)));
    let best = candidates.reduce(|best, other| if other.1 > best.1 { other } else { best });
    best.map(|(language, _)| (language, at[language] + 1))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The algorithm as the paper's program does it, step by step: the curve is smoothed by averaging increments, one
    /// more at a time, with a little slant against ties; pieces are words in a set.
    mod reference {
        use super::*;

        pub struct Language {
            /// ALP and size, ascending.
            pub log: Vec<(f64, usize)>,
            pub probability: f64,
            /// Its vocabulary of n words: the first n.
            pub words: Vec<String>,
        }

        fn smooth(log: &mut [(f64, usize)]) {
            for end in 2..log.len() {
                let mut start = end;
                while start >= 2 && log[start].0 - log[start - 1].0 > log[start - 1].0 - log[start - 2].0 {
                    let first = start - 2;
                    let steps = end - first;
                    let mean = (log[end].0 - log[first].0) / steps as f64;
                    let middle = (end + first) as f64 / 2.0;
                    for at in first..end {
                        log[at + 1].0 = log[at].0 + mean + (middle - at as f64) * 1e-6;
                    }
                    start -= 1;
                }
            }
        }

        fn merged(languages: &[Language], threshold: f64) -> (BTreeSet<String>, Vec<usize>) {
            let (mut vocabulary, mut sizes) = (BTreeSet::new(), Vec::new());
            for language in languages {
                let mut taken = 0;
                let mut before = -10_000.0;
                for (alp, size) in &language.log {
                    if alp - before > threshold {
                        taken = *size;
                    }
                    before = *alp;
                }
                vocabulary.extend(language.words[..taken].iter().cloned());
                sizes.push(taken);
            }
            (vocabulary, sizes)
        }

        /// The threshold and the sizes.
        pub fn run(mut languages: Vec<Language>, beta: f64, target: usize) -> (f64, Vec<usize>) {
            let sum: f64 = languages.iter().map(|language| (language.probability).powf(beta)).sum();
            for language in &mut languages {
                smooth(&mut language.log);
                let weight = language.probability.powf(beta) / sum;
                language.log.iter_mut().for_each(|(alp, _)| *alp *= weight);
            }
            let (mut left, mut right) = (0.0, 100.0);
            while left + 1e-6 < right {
                let middle = (left + right) / 2.0;
                if merged(&languages, middle).0.len() <= target { right = middle } else { left = middle }
            }
            (right, merged(&languages, right).1)
        }
    }

    /// Three languages whose curves rise at different speeds, with bumps; some words are in two of them.
    fn languages() -> Vec<reference::Language> {
        let noise = |n: usize| ((n * 7919 + 13) % 17) as f64 * 0.05;
        [(0.6, 90.0, 7.0, 0), (0.3, 60.0, 4.0, 11), (0.1, 140.0, 12.0, 5)]
            .iter()
            .enumerate()
            .map(|(which, (probability, height, speed, start))| reference::Language {
                log: (1..=40)
                    .map(|n| {
                        let alp =
                            -400.0 + height * (1.0 - (-f64::from(n) / speed).exp()) + noise(n as usize + start);
                        (alp, 1000 * n as usize)
                    })
                    .collect(),
                probability: *probability,
                // Every fifth word is shared by all.
                words: (0..40_000)
                    .map(|n| if n % 5 == 0 { format!("all {n}") } else { format!("{which} {n}") })
                    .collect(),
            })
            .collect()
    }

    fn curves(languages: &[reference::Language], beta: f64) -> Vec<Curve> {
        let shares: Vec<f64> = languages.iter().map(|language| language.probability).collect();
        let curve = |(language, weight): (&reference::Language, f64)| Curve {
            sizes: language.log.iter().map(|(_, size)| *size).collect(),
            alp: language.log.iter().map(|(alp, _)| *alp).collect(),
            weight,
        };
        languages.iter().zip(weights(&shares, beta)).map(curve).collect()
    }

    fn total(languages: &[reference::Language], sizes: &[usize]) -> usize {
        let words = languages.iter().zip(sizes).flat_map(|(language, size)| &language.words[..*size]);
        words.collect::<BTreeSet<_>>().len()
    }

    #[test]
    fn sizes_are_those_of_the_papers_program() {
        for beta in [0.7, 1.0] {
            for target in [3_500, 10_000, 20_000, 31_000, 50_000, 77_777] {
                let languages = languages();
                let curves = curves(&languages, beta);
                let sizes = |at: &[usize]| -> Vec<usize> {
                    at.iter().zip(&curves).map(|(at, curve)| curve.sizes[*at]).collect()
                };
                let allocation = allocate(&curves, target, |at| total(&languages, &sizes(at))).unwrap();
                let ours = sizes(&allocation.at);
                assert!(total(&languages, &ours) <= target);
                // A little below the threshold there is more than is wanted.
                let worths = curves.iter().map(Curve::worths);
                let below: Vec<usize> = worths
                    .map(|worths| worths.iter().filter(|worth| **worth > allocation.threshold - 2e-6).count())
                    .collect();
                assert!(total(&languages, &sizes(&below)) > target);

                let (threshold, theirs) = reference::run(languages, beta, target);
                // Its slant, a millionth a step, may divide a stretch of equal increments, which ours takes or leaves.
                assert!((threshold - allocation.threshold).abs() < 1e-4, "{threshold} {}", allocation.threshold);
                for (language, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
                    let worths = curves[language].worths();
                    let (from, to) = (ours / 1000, theirs / 1000);
                    let between = &worths[from.min(to) - 1..from.max(to) - 1];
                    assert!(
                        between.iter().all(|worth| (worth - threshold).abs() < 1e-4),
                        "beta {beta}, target {target}, language {language}: {ours}, {theirs}: {between:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn small_languages_are_raised() {
        let even = weights(&[9.0, 1.0], 1.0);
        assert_eq!(even, [0.9, 0.1]);
        let raised = weights(&[9.0, 1.0], 0.7);
        assert!((raised.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert!(raised[1] > 0.17 && raised[1] < 0.18, "{raised:?}");
        assert_eq!(weights(&[5.0, 3.0], 0.0), [0.5, 0.5]);
    }

    #[test]
    fn too_few_pieces_are_no_allocation() {
        let curve = |weight| Curve { sizes: vec![10, 20], alp: vec![-9.0, -8.0], weight };
        let curves = [curve(0.5), curve(0.5)];
        let total = |at: &[usize]| at.iter().map(|at| [10, 20][*at]).sum();
        assert_eq!(allocate(&curves, 19, total), None);
        assert_eq!(allocate(&curves, 20, total).unwrap().at, [0, 0]);
        // Equal worths come together or not at all; what is missing is filled from the next.
        assert_eq!(allocate(&curves, 30, total).unwrap().at, [0, 0]);
        assert_eq!(next(&curves, &[0, 0]), Some((0, 1)));
        assert_eq!(next(&curves, &[1, 0]), Some((1, 1)));
        assert_eq!(next(&curves, &[1, 1]), None);
        assert_eq!(allocate(&curves, 40, total).unwrap().at, [1, 1]);
        assert_eq!(allocate(&curves, 1000, total).unwrap().at, [1, 1]);
    }
}
