//! New rows of embedding and output matrices for new tokens.

use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rewrite::{self, Rewritten, Sharing, rewrite};
use super::{Checkpoint, Float, Normal, ShardWriter, Spec};
use crate::error::{Error, Result};

/// The two matrices with one row a token.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
pub const OUTPUT: &str = "lm_head.weight";

/// Which of two ways to compute a mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Recipe {
    /// What is meant: the mean of the tokens that spell the new one, accumulated in float32 and rounded once.
    Clean,
    /// What the published run computed, to the bit: the sum is rounded to the matrix's type after each addition, and
    /// again after the division.
    AsPublished,
}

/// What a new row is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum Row {
    /// The mean of the old rows of these tokens; never empty.
    Mean(Vec<u32>),
    /// The mean of all old rows.
    MeanOfAll,
    Zero,
    /// Drawn from a normal distribution.
    Normal,
}

/// Rows to append to both matrices.
pub struct Expansion<'a> {
    pub base: &'a Checkpoint,
    /// One for each new token, in order of their numbers.
    pub rows: &'a [Row],
    pub recipe: Recipe,
    /// For [`Row::Normal`].
    pub normal: Normal,
}

impl Expansion<'_> {
    /// The matrices that the model has: an output tied to the embedding is not stored.
    pub fn matrices(base: &Checkpoint) -> Vec<&'static str> {
        [EMBEDDING, OUTPUT].into_iter().filter(|name| base.contains(name)).collect()
    }

    /// Writes the expanded weights into `output`; only the shards that hold the two matrices are written anew.
    /// `tick` is told the bytes of weights dealt with, and may stop the work.
    pub fn write(
        &self,
        output: &Path,
        sharing: Sharing,
        tick: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Rewritten> {
        let mut specs = BTreeMap::new();
        for name in Self::matrices(self.base) {
            let old = self.base.spec(name)?;
            if old.shape.len() != 2 || old.shape[0] == 0 {
                return Err(Error::invalid(format!("`{name}` is {:?}, not a matrix of rows", old.shape)));
            }
            specs.insert(name.to_owned(), Spec::new(old.dtype, [old.shape[0] + self.rows.len(), old.shape[1]]));
        }
        rewrite(self.base, output, sharing, &specs, tick, |name, writer, tick| self.append(name, writer, tick))
    }

    fn append(&self, name: &str, writer: &mut ShardWriter, tick: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        let spec = self.base.spec(name)?;
        let float = Float::of(spec.dtype)
            .ok_or_else(|| Error::invalid(format!("`{name}` is stored as {}, not F32, BF16 or F16", spec.dtype)))?;
        let old = Matrix { bytes: self.base.bytes(name)?, width: spec.shape[1], float };
        rewrite::copy(self.base, name, writer, tick)?;
        let mean_of_all = if self.rows.contains(&Row::MeanOfAll) { old.mean_of_all() } else { Vec::new() };
        let drawn = self.rows.iter().filter(|row| **row == Row::Normal).count();
        let drawn = self.normal.values(name, drawn * old.width);
        let mut drawn = drawn.chunks_exact(old.width.max(1));
        for row in self.rows {
            let values = match row {
                Row::Mean(ids) => old.mean(ids, self.recipe)?,
                Row::MeanOfAll => mean_of_all.clone(),
                Row::Zero => vec![0.0; old.width],
                Row::Normal => drawn.next().unwrap_or_default().to_vec(),
            };
            let bytes = float.narrow(&values);
            writer.write(&bytes)?;
            tick(bytes.len() as u64)?;
        }
        Ok(())
    }
}

/// Rows of floats, as stored.
struct Matrix<'a> {
    bytes: &'a [u8],
    width: usize,
    float: Float,
}

impl Matrix<'_> {
    fn row(&self, id: usize) -> Option<Vec<f32>> {
        let length = self.width * self.float.bytes();
        self.bytes
            .get(id.checked_mul(length)?..id.checked_add(1)?.checked_mul(length)?)
            .map(|b| self.float.widen(b))
    }

    /// The mean of the rows `ids`, summed from left to right.
    fn mean(&self, ids: &[u32], recipe: Recipe) -> Result<Vec<f32>> {
        let between = match recipe {
            Recipe::Clean => Float::F32,
            Recipe::AsPublished => self.float,
        };
        let mut sum = vec![0.0; self.width];
        for &id in ids {
            let row = self
                .row(id as usize)
                .ok_or_else(|| Error::invalid(format!("token {id} has no row in the old embedding")))?;
            for (sum, value) in sum.iter_mut().zip(row) {
                *sum = between.round(*sum + value);
            }
        }
        let count = ids.len() as f32;
        Ok(sum.into_iter().map(|sum| sum / count).collect())
    }

    /// The mean of all rows, in float64 and rounded to float32.
    fn mean_of_all(&self) -> Vec<f32> {
        let mut sum = vec![0.0f64; self.width];
        let mut count = 0;
        while let Some(row) = self.row(count).filter(|row| !row.is_empty()) {
            for (sum, value) in sum.iter_mut().zip(row) {
                *sum += f64::from(value);
            }
            count += 1;
        }
        sum.into_iter().map(|sum| (sum / count.max(1) as f64) as f32).collect()
    }
}
