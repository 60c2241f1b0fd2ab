//! Cross-entropy of next-token predictions, and its gradient in the place of the logits.

use candle_core::Tensor;
use rayon::prelude::*;

use super::{View, exp, maximum, modify, sum, vectorised};
use crate::error::{Error, Result};

/// The label of a position that does not count.
pub const IGNORED: i64 = -100;

/// A sum of −ln p(label) over the positions that count, and how many they are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    pub sum: f64,
    pub count: u64,
}

impl Loss {
    /// The mean in nats per token; NaN when nothing counted.
    pub fn mean(self) -> f64 {
        self.sum / self.count as f64
    }
}

impl std::ops::AddAssign for Loss {
    fn add_assign(&mut self, other: Self) {
        self.sum += other.sum;
        self.count += other.count;
    }
}

/// The loss of `logits` [positions, vocabulary] against one label a position. With `scale`, the logits are replaced by
/// `scale` times the gradient of the sum: softmax(logits) − one-hot(label), and zeros where the label is [`IGNORED`].
pub fn cross_entropy(logits: &Tensor, labels: &[i64], scale: Option<f32>) -> Result<Loss> {
    let (positions, vocabulary) = logits.dims2()?;
    if labels.len() != positions {
        return Err(Error::new(format!("{} labels for {positions} positions", labels.len())));
    }
    if let Some(label) = labels.iter().find(|&&label| label != IGNORED && !(0..vocabulary as i64).contains(&label))
    {
        return Err(Error::invalid(format!("label {label} is outside the vocabulary of {vocabulary}"))
            .hint("the data was encoded with another tokenizer than this model's"));
    }
    let losses: Vec<f64> = match scale {
        None => {
            let logits = View::of(logits)?;
            logits.par_chunks(vocabulary).zip(labels).map(|(row, &label)| row_loss(row, label)).collect()
        }
        Some(scale) => {
            let mut losses = Vec::new();
            modify(logits, |logits| {
                let rows = logits.par_chunks_mut(vocabulary).zip(labels);
                losses = rows.map(|(row, &label)| row_gradient(row, label, scale)).collect();
            })?;
            losses
        }
    };
    let count = labels.iter().filter(|&&label| label != IGNORED).count() as u64;
    Ok(Loss { sum: losses.iter().sum(), count })
}

fn row_loss(row: &[f32], label: i64) -> f64 {
    if label == IGNORED {
        return 0.0;
    }
    vectorised(|| {
        let largest = maximum(row);
        let total = sum(row.len(), |i| exp(row[i] - largest));
        f64::from(total.ln()) + f64::from(largest) - f64::from(row[label as usize])
    })
}

fn row_gradient(row: &mut [f32], label: i64, scale: f32) -> f64 {
    if label == IGNORED {
        row.fill(0.0);
        return 0.0;
    }
    vectorised(|| {
        let largest = maximum(row);
        let at_label = row[label as usize];
        for value in row.iter_mut() {
            *value = exp(*value - largest);
        }
        let total = sum(row.len(), |i| row[i]);
        let factor = scale / total;
        for value in row.iter_mut() {
            *value *= factor;
        }
        row[label as usize] -= scale;
        f64::from(total.ln()) + f64::from(largest) - f64::from(at_label)
    })
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
        let dlogits = logits.copy().unwrap();
        assert_eq!(cross_entropy(&dlogits, &labels, Some(0.5)).unwrap(), loss);
        gradient("logits", &logits, &dlogits, |logits| cross_entropy(logits, &labels, None).unwrap().sum * 0.5);
    }

    #[test]
    fn labels_outside_the_vocabulary_are_an_error() {
        assert!(cross_entropy(&numbers((1, 4), 1), &[4], None).is_err());
        assert!(cross_entropy(&numbers((1, 4), 1), &[-1], None).is_err());
    }
}
