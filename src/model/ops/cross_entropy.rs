//! Cross-entropy of next-token predictions, and its gradient in the place of the logits.

use candle_core::Tensor;
use rayon::prelude::*;

use super::{View, exp, maximum, modify, sum, vectorised};
use crate::error::{Error, Result};

/// The label of a position that does not count.
pub const IGNORED: i64 = -100;

/// Sums over the positions that count, and how many they are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// Of −ln p(label).
    pub sum: f64,
    /// Of (ln Z)², Z being the sum that the softmax divides by: what the z-loss keeps small.
    pub z: f64,
    pub count: u64,
}

/// By which factors the two sums of a [`Loss`] enter what is differentiated.
#[derive(Clone, Copy, Debug)]
pub struct LossFactors {
    pub sum: f32,
    pub z: f32,
}

impl Loss {
    /// The mean in nats per token; NaN when nothing counted.
    pub fn mean(self) -> f64 {
        self.sum / self.count as f64
    }

    /// The mean of (ln Z)²: the z-loss of PaLM (Chowdhery et al. 2022) before its coefficient.
    pub fn mean_z(self) -> f64 {
        self.z / self.count as f64
    }
}

impl std::ops::AddAssign for Loss {
    fn add_assign(&mut self, other: Self) {
        self.sum += other.sum;
        self.z += other.z;
        self.count += other.count;
    }
}

/// The loss of `logits` [positions, vocabulary] against one label a position. With `factors`, the logits are replaced by
/// the gradient of the sums times those: `sum`·(softmax(logits) − one-hot(label)) + `z`·2·ln Z·softmax(logits), and
/// zeros where the label is [`IGNORED`].
pub fn cross_entropy(logits: &Tensor, labels: &[i64], factors: Option<LossFactors>) -> Result<Loss> {
    let (positions, vocabulary) = logits.dims2()?;
    if labels.len() != positions {
        return Err(Error::new(format!("{} labels for {positions} positions", labels.len())));
    }
    if let Some(label) = labels.iter().find(|&&label| label != IGNORED && !(0..vocabulary as i64).contains(&label))
    {
        return Err(Error::invalid(format!("label {label} is outside the vocabulary of {vocabulary}"))
            .hint("the data was encoded with another tokenizer than this model's"));
    }
    let rows: Vec<Loss> = match factors {
        None => {
            let logits = View::of(logits)?;
            logits.par_chunks(vocabulary).zip(labels).map(|(row, &label)| row_loss(row, label)).collect()
        }
        Some(factors) => {
            let mut rows = Vec::new();
            modify(logits, |logits| {
                let each = logits.par_chunks_mut(vocabulary).zip(labels);
                rows = each.map(|(row, &label)| row_gradient(row, label, factors)).collect();
            })?;
            rows
        }
    };
    let mut loss = Loss::default();
    rows.into_iter().for_each(|row| loss += row);
    Ok(loss)
}

fn row_loss(row: &[f32], label: i64) -> Loss {
    if label == IGNORED {
        return Loss::default();
    }
    vectorised(|| {
        let largest = maximum(row);
        let total = sum(row.len(), |i| exp(row[i] - largest));
        one(f64::from(total.ln()) + f64::from(largest), row[label as usize])
    })
}

fn row_gradient(row: &mut [f32], label: i64, factors: LossFactors) -> Loss {
    if label == IGNORED {
        row.fill(0.0);
        return Loss::default();
    }
    vectorised(|| {
        let largest = maximum(row);
        let at_label = row[label as usize];
        for value in row.iter_mut() {
            *value = exp(*value - largest);
        }
        let total = sum(row.len(), |i| row[i]);
        let log_z = f64::from(total.ln()) + f64::from(largest);
        let factor = (factors.sum + 2.0 * factors.z * log_z as f32) / total;
        for value in row.iter_mut() {
            *value *= factor;
        }
        row[label as usize] -= factors.sum;
        one(log_z, at_label)
    })
}

/// The loss of one position.
fn one(log_z: f64, at_label: f32) -> Loss {
    Loss { sum: log_z - f64::from(at_label), z: log_z * log_z, count: 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ops::check::{gradient, numbers};

    #[test]
    fn gradients() {
        let logits = (numbers((5, 33), 1) * 3.0).unwrap();
        let labels = [3, IGNORED, 32, 0, 3];
        let loss = cross_entropy(&logits, &labels, None).unwrap();
        assert_eq!(loss.count, 4);
        // Each of the two sums for itself, and both.
        for factors in [(0.5, 0.0), (0.0, 0.25), (0.5, 0.25)] {
            let dlogits = logits.copy().unwrap();
            let given = LossFactors { sum: factors.0, z: factors.1 };
            assert_eq!(cross_entropy(&dlogits, &labels, Some(given)).unwrap(), loss);
            gradient("logits", &logits, &dlogits, |logits| {
                let loss = cross_entropy(logits, &labels, None).unwrap();
                loss.sum * f64::from(factors.0) + loss.z * f64::from(factors.1)
            });
        }
    }

    #[test]
    fn labels_outside_the_vocabulary_are_an_error() {
        assert!(cross_entropy(&numbers((1, 4), 1), &[4], None).is_err());
        assert!(cross_entropy(&numbers((1, 4), 1), &[-1], None).is_err());
    }
}
