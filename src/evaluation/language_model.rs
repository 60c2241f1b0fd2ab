//! What evaluation asks of a model.

use crate::error::Result;

/// A causal language model with its tokenizer.
pub trait LanguageModel {
    /// The tokens of `text`, without BOS or EOS.
    fn encode(&self, text: &str) -> Result<Vec<u32>>;
    /// The token that stands before a document (BOS, or EOS where there is none).
    fn document_start(&self) -> Option<u32>;
    /// The token that stands for an empty context (EOS).
    fn empty_context(&self) -> Option<u32>;
    /// The longest input, in tokens.
    fn max_length(&self) -> usize;
    /// For each sequence and each of its targets, the natural logarithm of the target's probability. The sequences
    /// are one batch.
    fn log_probabilities(&self, batch: &[&Sequence]) -> Result<Vec<Vec<f64>>>;
}

/// An input of the model and what is asked about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// Never empty, and no longer than the model's `max_length`.
    pub ids: Vec<u32>,
    pub targets: Vec<Target>,
}

/// The probability of `token` as the one that follows `ids[..=position]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub position: usize,
    pub token: u32,
}
