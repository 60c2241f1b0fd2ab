//! Mixtral's answers to what evaluation asks.

use std::path::Path;

use candle_core::{Device, IndexOp, Tensor};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::evaluation::language_model::{LanguageModel, Sequence, Target};
use crate::model::Mixtral;
use crate::tokenizer::Tokenizer;

/// A Mixtral model folder, ready to be evaluated.
pub struct MixtralModel {
    model: Mixtral,
    tokenizer: Tokenizer,
    device: Device,
}

impl MixtralModel {
    /// Opens the model in `folder`; the tokenizer comes from `tokenizer`, a file or folder.
    pub fn open(folder: &Path, tokenizer: &Path) -> Result<Self> {
        let device = Device::Cpu;
        let tokenizer = Tokenizer::open(tokenizer)?;
        let model = Mixtral::open(folder, &device)?;
        let (pieces, rows) = (tokenizer.vocab_size(), model.config().vocab_size);
        if pieces > rows {
            return Err(Error::invalid(format!(
                "the tokenizer has {pieces} tokens, but the model only {rows} rows"
            ))
            .hint("evaluate the model with the tokenizer it was made for, or `expand` it first"));
        }
        Ok(Self { model, tokenizer, device })
    }
}

impl LanguageModel for MixtralModel {
    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.tokenizer.encode(text)
    }

    fn document_start(&self) -> Option<u32> {
        self.tokenizer.bos().or(self.tokenizer.eos())
    }

    fn empty_context(&self) -> Option<u32> {
        self.tokenizer.eos().or(self.tokenizer.bos())
    }

    fn max_length(&self) -> usize {
        self.model.config().max_position_embeddings
    }

    /// Sequences are padded on the right; attention is causal, so no real position ever sees the padding.
    fn log_probabilities(&self, batch: &[&Sequence]) -> Result<Vec<Vec<f64>>> {
        let length = batch.iter().map(|sequence| sequence.ids.len()).max().unwrap_or(0);
        let mut ids = Vec::with_capacity(batch.len() * length);
        for sequence in batch {
            ids.extend_from_slice(&sequence.ids);
            ids.resize(ids.len() + length - sequence.ids.len(), 0);
        }
        let ids = Tensor::from_vec(ids, (batch.len(), length), &self.device)?;
        let logits = self.model.forward(&ids)?; // [batch, length, vocabulary]
        let rows = batch.iter().enumerate().map(|(b, sequence)| of_sequence(&logits.i(b)?, &sequence.targets));
        rows.collect()
    }
}

/// The log-probabilities of `targets` under `logits` ([length, vocabulary]).
fn of_sequence(logits: &Tensor, targets: &[Target]) -> Result<Vec<f64>> {
    let Some(first) = targets.iter().map(|target| target.position).min() else { return Ok(Vec::new()) };
    let last = targets.iter().map(|target| target.position).max().unwrap_or(first);
    let vocabulary = logits.dim(1)?;
    let values = logits.narrow(0, first, last + 1 - first)?.flatten_all()?.to_vec1::<f32>()?;
    let row = |position: usize| &values[(position - first) * vocabulary..][..vocabulary];
    // One normaliser a position, however many tokens are asked for there.
    let mut positions: Vec<usize> = targets.iter().map(|target| target.position).collect();
    positions.sort_unstable();
    positions.dedup();
    let normalisers: Vec<f64> = positions.par_iter().map(|&position| log_sum_exp(row(position))).collect();
    targets
        .iter()
        .map(|target| {
            let logit = row(target.position).get(target.token as usize).ok_or_else(|| {
                Error::invalid(format!("token {} is beyond the model's {vocabulary} rows", target.token))
            })?;
            let at = positions.partition_point(|&position| position < target.position);
            Ok(f64::from(*logit) - normalisers[at])
        })
        .collect()
}

/// ln Σ exp(x), in float64, so that it does not depend on how the sum is split.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - max).exp()).sum();
    f64::from(max) + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_probabilities_are_a_log_softmax() {
        let logits = Tensor::from_vec(vec![0f32, 1.0, 2.0, 1e4, 0.0, -1e4], (2, 3), &Device::Cpu).unwrap();
        let targets = [(0, 2), (0, 0), (1, 0), (1, 1)].map(|(position, token)| Target { position, token });
        let found = of_sequence(&logits, &targets).unwrap();
        let sum = (0f64.exp() + 1f64.exp() + 2f64.exp()).ln();
        for (found, expected) in found.iter().zip([2.0 - sum, -sum, 0.0, -1e4]) {
            assert!((found - expected).abs() < 1e-9, "{found} is not {expected}");
        }
        let beyond = of_sequence(&logits, &[Target { position: 0, token: 3 }]).unwrap_err();
        assert_eq!(beyond.one_line(), "token 3 is beyond the model's 3 rows");
    }
}
