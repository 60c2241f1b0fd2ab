//! Continuing a sequence of tokens, one at a time.

use candle_core::Tensor;
use candle_transformers::generation::LogitsProcessor;

use super::mixtral::{KeyValueCache, Mixtral};
use crate::error::{Error, Result};

/// How the next token is chosen.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    /// 0 takes the likeliest token; 1 draws from the model's own distribution.
    pub temperature: f64,
    /// Draws only from the likeliest tokens that together have this probability.
    pub top_p: Option<f64>,
    pub seed: u64,
}

/// A sequence that is being continued: an iterator over the tokens that follow the prompt. It ends after the model's
/// end token, which is not given, or at the model's greatest length.
pub struct Generator<'a> {
    model: &'a Mixtral,
    cache: KeyValueCache,
    processor: LogitsProcessor,
    /// Tokens that are not in the cache yet: the prompt at first, then the last token.
    pending: Vec<u32>,
    end: Option<u32>,
}

impl<'a> Generator<'a> {
    /// `prompt` must not be empty; `end` is the token that ends a text.
    pub fn new(model: &'a Mixtral, prompt: Vec<u32>, end: Option<u32>, sampling: Sampling) -> Result<Self> {
        let longest = model.config().max_position_embeddings;
        if prompt.len() > longest {
            return Err(Error::invalid(format!(
                "the prompt has {} tokens, more than the {longest} positions of the model",
                prompt.len()
            )));
        }
        let Sampling { temperature, top_p, seed } = sampling;
        let processor = LogitsProcessor::new(seed, Some(temperature), top_p);
        Ok(Self { model, cache: KeyValueCache::default(), processor, pending: prompt, end })
    }

    fn step(&mut self) -> Result<Option<u32>> {
        let held = self.cache.length() + self.pending.len();
        if held > self.model.config().max_position_embeddings {
            return Ok(None);
        }
        let logits: Tensor = self.model.next(&self.pending, &mut self.cache)?;
        let token = self.processor.sample(&logits)?;
        self.pending = vec![token];
        Ok((Some(token) != self.end).then_some(token))
    }
}

impl Iterator for Generator<'_> {
    type Item = Result<u32>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}
