//! Accuracy as the harness defines it, over one subject and over groups of them.

/// The choice of highest log-likelihood; the first of equals.
pub fn best(log_likelihoods: &[f64]) -> usize {
    first_max(log_likelihoods.iter().copied())
}

/// The choice of highest log-likelihood per character of its text (Python's `len`: characters, not bytes).
pub fn best_normalised(log_likelihoods: &[f64], characters: &[usize]) -> usize {
    first_max(log_likelihoods.iter().zip(characters).map(|(value, &length)| value / length as f64))
}

fn first_max(values: impl Iterator<Item = f64>) -> usize {
    let better = |best: (usize, f64), next: (usize, f64)| if next.1 > best.1 { next } else { best };
    values.enumerate().fold((0, f64::NEG_INFINITY), better).0
}

/// A mean of zeros and ones over `items`, and the standard error that the harness prints with it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accuracy {
    pub correct: usize,
    pub items: usize,
    /// The harness's figure; `None` for a single item ("N/A" there).
    pub harness_stderr: Option<f64>,
}

impl Accuracy {
    pub fn of(outcomes: impl Iterator<Item = bool>) -> Self {
        let (mut correct, mut items) = (0, 0);
        for outcome in outcomes {
            correct += usize::from(outcome);
            items += 1;
        }
        let mut accuracy = Self { correct, items, harness_stderr: None };
        accuracy.harness_stderr = accuracy.stderr();
        accuracy
    }

    /// Correct answers per item; 0 without items.
    pub fn mean(&self) -> f64 {
        if self.items == 0 { 0.0 } else { self.correct as f64 / self.items as f64 }
    }

    /// Sample standard deviation over √n, all items alike; `None` below two items.
    pub fn stderr(&self) -> Option<f64> {
        let n = self.items as f64;
        let mean = self.mean();
        (self.items > 1).then(|| (mean * (1.0 - mean) * n / (n - 1.0) / n).sqrt())
    }

    /// The mean over all items of a group, in the order of its `members`.
    ///
    /// The harness pools the members' squared standard errors as if they were variances, with a correction by the
    /// mean it has just updated, and never divides by the group's size: a figure near the members' own errors, far
    /// above the real one. `harness_stderr` reproduces it, so that result files can be compared; [`Self::stderr`] is
    /// the sound one.
    pub fn pooled(members: &[Accuracy]) -> Self {
        let correct = members.iter().map(|member| member.correct).sum();
        let items = members.iter().map(|member| member.items).sum();
        let mut pool: Option<(f64, f64, f64)> = None; // items, mean, "variance"
        for member in members {
            let Some(stderr) = member.harness_stderr else { return Self { correct, items, harness_stderr: None } };
            let (n, mean, variance) = (member.items as f64, member.mean(), stderr * stderr);
            pool = Some(match pool {
                None => (n, mean, variance),
                Some((m, pooled, old)) => {
                    let total = m + n;
                    let updated = (pooled * m + mean * n) / total;
                    let within = ((m - 1.0) * old + (n - 1.0) * variance) / (total - 1.0);
                    let between = m * n / (total * (total - 1.0)) * (updated - mean).powi(2);
                    (total, updated, within + between)
                }
            });
        }
        Self { correct, items, harness_stderr: pool.map(|(_, _, variance)| variance.sqrt()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equals_is_the_prediction() {
        assert_eq!(best(&[-2.0, -1.0, -1.0, -3.0]), 1);
        assert_eq!(best(&[f64::NEG_INFINITY; 3]), 0);
        // -6/2 = -3 against -8/4 = -2: longer by characters, though not likelier as a whole.
        assert_eq!(best_normalised(&[-6.0, -8.0], &["北京".chars().count(), "Rome".chars().count()]), 1);
    }

    #[test]
    fn accuracy_and_its_error_over_items() {
        let accuracy = Accuracy::of([true, false, true, true].into_iter());
        assert_eq!((accuracy.correct, accuracy.items, accuracy.mean()), (3, 4, 0.75));
        // sample_stddev([1, 0, 1, 1]) / sqrt(4) = 0.5 / 2
        assert!((accuracy.harness_stderr.unwrap() - 0.25).abs() < 1e-15);
        assert_eq!(Accuracy::of([true].into_iter()).harness_stderr, None);
    }

    #[test]
    fn groups_are_means_over_items_with_the_harness_pooled_error() {
        let members =
            [(3, 4), (10, 25), (0, 7)].map(|(correct, items)| Accuracy::of((0..items).map(|i| i < correct)));
        let group = Accuracy::pooled(&members);
        assert_eq!((group.correct, group.items), (13, 36));
        // By the formula of evaluator.py at the reproduced revision, run in Python on the same members.
        assert!((group.harness_stderr.unwrap() - 0.18290157248087874).abs() < 1e-12);
        assert!((group.stderr().unwrap() - 0.08118935126220324).abs() < 1e-12);
    }
}
