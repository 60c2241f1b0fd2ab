//! Vocabularies of one number of single characters, in all sizes, and their scores.

use super::text::Corpus;
use crate::error::Result;
use crate::tokenizer::alp::{self, Score};
use crate::tokenizer::trainer::Trained;

/// The vocabularies of one training: its beginnings.
pub struct Curve {
    pub trained: Trained,
    /// Ascending, with the number of merges of each.
    pub sizes: Vec<usize>,
    pub merges: Vec<usize>,
    /// The size that appends exactly as many pieces as asked for.
    pub exact: Option<usize>,
    /// By corpus and size.
    pub scores: Vec<Vec<Score>>,
}

impl Curve {
    /// `sizes`: none below the number of single and special pieces, none above the training's.
    pub fn new(trained: Trained, sizes: Vec<usize>) -> Self {
        let fixed = trained.size_with(0);
        let merges = sizes.iter().map(|size| size.saturating_sub(fixed)).collect();
        Self { trained, sizes, merges, exact: None, scores: Vec::new() }
    }

    /// Adds the size of so many merges.
    pub fn include(&mut self, merges: usize) {
        let size = self.trained.size_with(merges);
        self.exact = Some(size);
        if let Err(at) = self.sizes.binary_search(&size) {
            self.sizes.insert(at, size);
            self.merges.insert(at, merges);
        }
    }

    pub fn score(&mut self, corpora: &[Corpus]) -> Result<()> {
        let scores = corpora.iter().map(|corpus| alp::scores(&self.trained, &self.merges, &corpus.lines.lines()));
        self.scores = scores.collect::<Result<_>>()?;
        Ok(())
    }

    pub fn single_characters(&self) -> usize {
        self.trained.characters.len()
    }

    /// Index of a size, or of the one before it.
    pub fn at(&self, size: usize) -> usize {
        self.sizes.partition_point(|other| *other <= size).saturating_sub(1)
    }

    /// ALP at a size, as the mean over the corpora of its ratio to that of the first size of `first`, so that a
    /// corpus of long lines, whose ALP is large, weighs no more than others. Negative; higher is better, as with ALP
    /// itself.
    pub fn value(&self, first: &Curve, at: usize) -> f64 {
        let ratios = self.scores.iter().zip(&first.scores).map(|(own, first)| -own[at].alp / first[0].alp);
        ratios.map(|ratio| if ratio.is_finite() { ratio } else { 0.0 }).sum::<f64>() / self.scores.len() as f64
    }
}
