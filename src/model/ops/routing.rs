//! The router of a mixture of experts: which tokens go to which experts, with which weights, and the gradient of that.

use candle_core::Tensor;
use rayon::prelude::*;

use super::{View, dot, exp, maximum, sum, tensor, vectorised};
use crate::error::{Error, Result};

/// Tokens that one task takes.
const TOKENS: usize = 64;

/// A batch of tokens sorted by expert. A *slot* is one of the `top` choices of a token; slots are numbered token by
/// token, a token's in ascending order of expert.
pub struct Routing {
    tokens: usize,
    top: usize,
    experts: usize,
    /// Slot → weight; a token's weights sum to 1.
    weights: Vec<f32>,
    /// Slot → expert.
    choices: Vec<u32>,
    /// Slot → its row among the rows sorted by expert.
    rows: Vec<u32>,
    /// Row → token.
    pub token_of_row: Vec<u32>,
    /// Expert → its first row; one more entry than experts.
    starts: Vec<usize>,
}

impl Routing {
    /// Sends every token to the `top` experts of largest probability. `logits` is [tokens, experts].
    ///
    /// As the reference: softmax over all experts, the `top` largest (the earlier expert of equal ones), divided by
    /// their sum.
    pub fn new(logits: &Tensor, top: usize) -> Result<Self> {
        let (tokens, experts) = logits.dims2()?;
        if top == 0 || top > experts {
            return Err(Error::invalid(format!("{top} experts per token, but the model has {experts}")));
        }
        let logits = View::of(logits)?;
        let mut choices = Vec::with_capacity(tokens * top);
        let mut weights = Vec::with_capacity(tokens * top);
        let mut chosen = Vec::with_capacity(top);
        let mut probabilities = vec![0f32; experts];
        for logits in logits.chunks_exact(experts) {
            let largest = maximum(logits);
            for (p, logit) in probabilities.iter_mut().zip(logits) {
                *p = exp(logit - largest);
            }
            let total = sum(experts, |i| probabilities[i]);
            for p in &mut probabilities {
                *p /= total;
            }
            chosen.clear();
            for _ in 0..top {
                let mut best = None;
                for expert in (0..experts).filter(|expert| !chosen.contains(expert)) {
                    if best.is_none_or(|best: usize| probabilities[expert] > probabilities[best]) {
                        best = Some(expert);
                    }
                }
                chosen.extend(best);
            }
            let total: f32 = chosen.iter().map(|&expert| probabilities[expert]).sum();
            chosen.sort_unstable();
            for &expert in &chosen {
                choices.push(expert as u32);
                weights.push(probabilities[expert] / total);
            }
        }
        let mut starts = vec![0; experts + 1];
        for &choice in &choices {
            starts[choice as usize + 1] += 1;
        }
        for expert in 0..experts {
            starts[expert + 1] += starts[expert];
        }
        let mut next = starts.clone();
        let mut rows = vec![0; choices.len()];
        let mut token_of_row = vec![0; choices.len()];
        for (slot, &choice) in choices.iter().enumerate() {
            let row = next[choice as usize];
            next[choice as usize] += 1;
            rows[slot] = row as u32;
            token_of_row[row] = (slot / top) as u32;
        }
        Ok(Self { tokens, top, experts, weights, choices, rows, token_of_row, starts })
    }

    /// The rows of an expert.
    pub fn rows_of(&self, expert: usize) -> std::ops::Range<usize> {
        self.starts[expert]..self.starts[expert + 1]
    }

    /// y [tokens, width] with y[token] = x[token] + Σ weight · rows[row] over the token's slots, in order of expert.
    /// `rows` is sorted by expert.
    pub fn combine(&self, x: &Tensor, rows: &Tensor) -> Result<Tensor> {
        let (_, width) = rows.dims2()?;
        let (x, rows) = (View::of(x)?, View::of(rows)?);
        let mut y = vec![0f32; self.tokens * width];
        y.par_chunks_mut(TOKENS * width).enumerate().for_each(|(chunk, y)| {
            vectorised(|| {
                for (token, y) in (chunk * TOKENS..).zip(y.chunks_exact_mut(width)) {
                    y.copy_from_slice(&x[token * width..][..width]);
                    for slot in token * self.top..(token + 1) * self.top {
                        let row = &rows[self.rows[slot] as usize * width..][..width];
                        let weight = self.weights[slot];
                        for (y, row) in y.iter_mut().zip(row) {
                            *y += weight * row;
                        }
                    }
                }
            });
        });
        tensor(y, (self.tokens, width))
    }

    /// The gradients of [`Self::combine`] for `dy` [tokens, width]: that of the rows, and that of the router's logits
    /// [tokens, experts].
    ///
    /// The weights are the softmax over the chosen logits, so dlogit = w·(dw − Σ w·dw) with dw = dy·row.
    pub fn backward(&self, rows: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
        let (count, width) = rows.dims2()?;
        let (rows, dy) = (View::of(rows)?, View::of(dy)?);
        let mut weight_of_row = vec![0f32; count];
        for (slot, &row) in self.rows.iter().enumerate() {
            weight_of_row[row as usize] = self.weights[slot];
        }
        let mut drows = vec![0f32; count * width];
        drows.par_chunks_mut(TOKENS * width).enumerate().for_each(|(chunk, drows)| {
            vectorised(|| {
                for (row, drow) in (chunk * TOKENS..).zip(drows.chunks_exact_mut(width)) {
                    let dy = &dy[self.token_of_row[row] as usize * width..][..width];
                    let weight = weight_of_row[row];
                    for (drow, dy) in drow.iter_mut().zip(dy) {
                        *drow = weight * dy;
                    }
                }
            });
        });
        let mut dlogits = vec![0f32; self.tokens * self.experts];
        dlogits.par_chunks_mut(TOKENS * self.experts).enumerate().for_each(|(chunk, dlogits)| {
            let mut dweights = vec![0f32; self.top];
            for (token, dlogits) in (chunk * TOKENS..).zip(dlogits.chunks_exact_mut(self.experts)) {
                let slots = token * self.top..(token + 1) * self.top;
                let dy = &dy[token * width..][..width];
                for (slot, dw) in slots.clone().zip(&mut dweights) {
                    let row = &rows[self.rows[slot] as usize * width..][..width];
                    *dw = vectorised(|| dot(dy, row));
                }
                let mean: f32 = slots.clone().zip(&dweights).map(|(slot, dw)| self.weights[slot] * dw).sum();
                for (slot, dw) in slots.zip(&dweights) {
                    dlogits[self.choices[slot] as usize] = self.weights[slot] * (dw - mean);
                }
            }
        });
        Ok((tensor(drows, (count, width))?, tensor(dlogits, (self.tokens, self.experts))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ops::check::{gradient, inner, numbers, zeros};

    fn logits() -> Tensor {
        // Far enough apart that a finite difference does not change the choice.
        tensor(vec![0.3, 0.1, -0.4, 0.9, -1.0, 0.8, 0.2, 0.5, 0.0, -0.1, 0.7, 0.6, -0.2, -0.5, -0.3, 2.0], (4, 4))
            .unwrap()
    }

    #[test]
    fn sorts_tokens_by_expert() {
        let routing = Routing::new(&logits(), 2).unwrap();
        assert_eq!(routing.choices, [0, 3, 1, 3, 2, 3, 0, 3]);
        assert_eq!(routing.token_of_row, [0, 3, 1, 2, 0, 1, 2, 3]);
        assert_eq!(routing.rows_of(3), 4..8);
        for pair in routing.weights.chunks(2) {
            assert!((pair[0] + pair[1] - 1.0).abs() < 1e-6);
        }
        assert!(Routing::new(&logits(), 5).is_err());
    }

    #[test]
    fn logits_that_are_not_numbers_do_not_panic() {
        let routing = Routing::new(&tensor(vec![f32::NAN; 8], (2, 4)).unwrap(), 2).unwrap();
        assert!(routing.weights.iter().all(|w| w.is_nan()));
    }

    #[test]
    fn gradients() {
        let (logits, dy) = (logits(), numbers((4, 5), 2));
        let rows = numbers((8, 5), 1);
        let combine = |logits: &Tensor, rows: &Tensor| {
            Routing::new(logits, 2).unwrap().combine(&zeros((4, 5)), rows).unwrap()
        };
        let (drows, dlogits) = Routing::new(&logits, 2).unwrap().backward(&rows, &dy).unwrap();
        gradient("rows", &rows, &drows, |rows| inner(&combine(&logits, rows), &dy));
        gradient("logits", &logits, &dlogits, |logits| inner(&combine(logits, &rows), &dy));
    }
}
