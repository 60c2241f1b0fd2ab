//! The router of a mixture of experts: which tokens go to which experts, with which weights, and the gradient of that.

use candle_core::Tensor;
use rayon::prelude::*;

use super::{View, dot, exp, maximum, modify, sum, tensor, vectorised};
use crate::error::{Error, Result};

/// Tokens that one task takes.
const TOKENS: usize = 64;

/// A batch of tokens sorted by expert. A *slot* is one of the `top` choices of a token; slots are numbered token by
/// token, a token's in ascending order of expert.
pub struct Routing {
    pub(super) tokens: usize,
    top: usize,
    pub(super) experts: usize,
    /// The softmax of the logits, [tokens, experts].
    pub(super) probabilities: Vec<f32>,
    /// Token → ln Z, Z being the sum that its softmax divides by.
    pub(super) log_z: Vec<f32>,
    /// Slot → weight; a token's weights sum to 1.
    weights: Vec<f32>,
    /// Slot → expert.
    choices: Vec<u32>,
    /// Slot → its row among those of its expert.
    rows: Vec<u32>,
    /// Row, of all rows sorted by expert → token.
    token_of_row: Vec<u32>,
    /// Row → weight.
    weight_of_row: Vec<f32>,
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
        let mut all = vec![0f32; tokens * experts];
        let mut log_z = Vec::with_capacity(tokens);
        for (logits, probabilities) in logits.chunks_exact(experts).zip(all.chunks_exact_mut(experts)) {
            let largest = maximum(logits);
            for (p, logit) in probabilities.iter_mut().zip(logits) {
                *p = exp(logit - largest);
            }
            let total = sum(experts, |i| probabilities[i]);
            for p in probabilities.iter_mut() {
                *p /= total;
            }
            log_z.push(total.ln() + largest);
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
        let mut weight_of_row = vec![0.0; choices.len()];
        for (slot, &choice) in choices.iter().enumerate() {
            let row = next[choice as usize];
            next[choice as usize] += 1;
            rows[slot] = (row - starts[choice as usize]) as u32;
            token_of_row[row] = (slot / top) as u32;
            weight_of_row[row] = weights[slot];
        }
        let probabilities = all;
        Ok(Self {
            tokens,
            top,
            experts,
            probabilities,
            log_z,
            weights,
            choices,
            rows,
            token_of_row,
            weight_of_row,
            starts,
        })
    }

    /// The tokens that an expert gets, in ascending order: its rows.
    pub fn tokens_of(&self, expert: usize) -> &[u32] {
        &self.token_of_row[self.starts[expert]..self.starts[expert + 1]]
    }

    /// y [tokens, width] with y[token] = x[token] + Σ weight · row over the token's slots, in order of expert. `outputs`
    /// has the rows of every expert, [rows, width]; `None` where no token came.
    pub fn combine(&self, x: &Tensor, outputs: &[Option<Tensor>]) -> Result<Tensor> {
        let (_, width) = x.dims2()?;
        let y = x.copy()?;
        self.gather(outputs, width, |rows| {
            modify(&y, |y| {
                y.par_chunks_mut(TOKENS * width).enumerate().for_each(|(chunk, y)| {
                    vectorised(|| {
                        for (token, y) in (chunk * TOKENS..).zip(y.chunks_exact_mut(width)) {
                            for slot in token * self.top..(token + 1) * self.top {
                                let weight = self.weights[slot];
                                for (y, row) in y.iter_mut().zip(rows(slot)) {
                                    *y += weight * row;
                                }
                            }
                        }
                    });
                });
            })
        })?;
        Ok(y)
    }

    /// Adds every row of `parts`, which has those of every expert, to its token's in `x` [tokens, width], in order of
    /// expert.
    pub fn scatter(&self, x: &Tensor, parts: &[Option<Tensor>]) -> Result<()> {
        let (_, width) = x.dims2()?;
        self.gather(parts, width, |rows| {
            modify(x, |x| {
                x.par_chunks_mut(TOKENS * width).enumerate().for_each(|(chunk, x)| {
                    vectorised(|| {
                        for (token, x) in (chunk * TOKENS..).zip(x.chunks_exact_mut(width)) {
                            for slot in token * self.top..(token + 1) * self.top {
                                for (x, row) in x.iter_mut().zip(rows(slot)) {
                                    *x += row;
                                }
                            }
                        }
                    });
                });
            })
        })
    }

    /// Hands out a function from a slot to its row.
    fn gather<R>(
        &self,
        parts: &[Option<Tensor>],
        width: usize,
        then: impl for<'a> FnOnce(&(dyn Fn(usize) -> &'a [f32] + Sync)) -> Result<R>,
    ) -> Result<R> {
        let views = parts.iter().map(|part| part.as_ref().map(View::of).transpose()).collect::<Result<Vec<_>>>()?;
        // The lock on a tensor's storage is not shared between threads; the slice behind it is.
        let slices: Vec<&[f32]> = views.iter().map(|view| view.as_deref().unwrap_or_default()).collect();
        then(&|slot| &slices[self.choices[slot] as usize][self.rows[slot] as usize * width..][..width])
    }

    /// The gradient of an expert's rows through [`Self::combine`], for `dy` [tokens, width].
    pub fn weighted_rows(&self, expert: usize, dy: &Tensor) -> Result<Tensor> {
        let (_, width) = dy.dims2()?;
        let dy = View::of(dy)?;
        let weights = &self.weight_of_row[self.starts[expert]..self.starts[expert + 1]];
        let tokens = self.tokens_of(expert);
        let mut rows = vec![0f32; tokens.len() * width];
        vectorised(|| {
            for ((row, &token), weight) in rows.chunks_exact_mut(width).zip(tokens).zip(weights) {
                for (row, dy) in row.iter_mut().zip(&dy[token as usize * width..][..width]) {
                    *row = weight * dy;
                }
            }
        });
        tensor(rows, (tokens.len(), width))
    }

    /// The gradient of the router's logits [tokens, experts] through [`Self::combine`], for `dy` [tokens, width].
    ///
    /// The weights are the softmax over the chosen logits, so dlogit = w·(dw − Σ w·dw) with dw = dy·row.
    pub fn logits_backward(&self, outputs: &[Option<Tensor>], dy: &Tensor) -> Result<Tensor> {
        let (_, width) = dy.dims2()?;
        let dy = View::of(dy)?;
        let dy: &[f32] = &dy;
        let mut dlogits = vec![0f32; self.tokens * self.experts];
        self.gather(outputs, width, |rows| {
            dlogits.par_chunks_mut(TOKENS * self.experts).enumerate().for_each(|(chunk, dlogits)| {
                let mut dweights = vec![0f32; self.top];
                for (token, dlogits) in (chunk * TOKENS..).zip(dlogits.chunks_exact_mut(self.experts)) {
                    let slots = token * self.top..(token + 1) * self.top;
                    let dy = &dy[token * width..][..width];
                    for (slot, dw) in slots.clone().zip(&mut dweights) {
                        let row = rows(slot);
                        *dw = vectorised(|| dot(dy, row));
                    }
                    let mean: f32 = slots.clone().zip(&dweights).map(|(slot, dw)| self.weights[slot] * dw).sum();
                    for (slot, dw) in slots.zip(&dweights) {
                        dlogits[self.choices[slot] as usize] = self.weights[slot] * (dw - mean);
                    }
                }
            });
            Ok(())
        })?;
        tensor(dlogits, (self.tokens, self.experts))
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
        assert_eq!(routing.tokens_of(3), [0, 1, 2, 3]);
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
        let rows: Vec<Option<Tensor>> = (0..4).map(|expert| Some(numbers(([2, 1, 1, 4][expert], 5), 3))).collect();
        let combine = |logits: &Tensor, rows: &[Option<Tensor>]| {
            Routing::new(logits, 2).unwrap().combine(&zeros((4, 5)), rows).unwrap()
        };
        let routing = Routing::new(&logits, 2).unwrap();
        let dlogits = routing.logits_backward(&rows, &dy).unwrap();
        gradient("logits", &logits, &dlogits, |logits| inner(&combine(logits, &rows), &dy));
        for expert in 0..4 {
            let x = rows[expert].clone().unwrap();
            gradient("rows", &x, &routing.weighted_rows(expert, &dy).unwrap(), |x| {
                let mut rows = rows.clone();
                rows[expert] = Some(x.clone());
                inner(&combine(&logits, &rows), &dy)
            });
        }
        // Scattering is the transpose of taking each expert's tokens.
        let x = zeros((4, 5));
        routing.scatter(&x, &rows).unwrap();
        let taken: f64 = (0..4)
            .map(|expert| {
                let part = crate::model::ops::gather_rows(&dy, routing.tokens_of(expert)).unwrap();
                inner(rows[expert].as_ref().unwrap(), &part)
            })
            .sum();
        assert!((inner(&x, &dy) - taken).abs() < 1e-5);
    }
}
