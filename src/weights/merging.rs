//! Folding a LoRA adapter into the weights it was trained on: W' = W + scale · B·A.
//!
//! The numerics are PEFT's `merge_and_unload` on a CPU: the product and its scaling in float32; if the adapter is stored
//! in a half type, the product is rounded to it; the sum is rounded to the type of W. Modules that the adapter
//! trained whole replace those of the model, in the model's type.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device};
use rayon::prelude::*;

use super::adapter::{Adapter, PREFIX};
use super::rewrite::{Rewritten, Sharing, rewrite};
use super::{Checkpoint, Float, ShardWriter, Spec};
use crate::error::{Error, Result};

/// An adapter matched to a model: what happens to which tensor, checked before anything is written.
pub struct Merge<'a> {
    base: &'a Checkpoint,
    adapter: &'a Adapter,
    /// Tensor of the model → what it becomes.
    changes: BTreeMap<String, Change>,
}

enum Change {
    /// W + scale · B·A; the names of A [r, in] and B [out, r] in the adapter.
    Add { a: String, b: String, scale: f32 },
    /// The adapter's tensor of that name.
    Replace(String),
}

impl<'a> Merge<'a> {
    /// Matches every tensor of the adapter to one of the model. A tensor that has no counterpart or another shape,
    /// half a pair, or another vocabulary is an error.
    pub fn new(base: &'a Checkpoint, adapter: &'a Adapter) -> Result<Self> {
        let mut merge = Self { base, adapter, changes: BTreeMap::new() };
        for name in adapter.names() {
            let unknown = || {
                let (adapter, model) = (adapter.folder().display(), base.folder().display());
                Error::invalid(format!(
                    "the adapter {adapter} has a tensor `{name}`, for which {model} has no place"
                ))
                .hint("is it an adapter of this model?")
            };
            let inner = name.strip_prefix(PREFIX).ok_or_else(unknown)?;
            if let Some(module) = inner.strip_suffix(".lora_A.weight") {
                let target = format!("{module}.weight");
                if !base.contains(&target) {
                    return Err(unknown());
                }
                let b = format!("{PREFIX}{module}.lora_B.weight");
                let scale = merge.check_pair(module, &target, name, &b)?;
                merge.change(target, Change::Add { a: name.to_owned(), b, scale })?;
            } else if let Some(module) = inner.strip_suffix(".lora_B.weight") {
                adapter.spec(&format!("{PREFIX}{module}.lora_A.weight"))?;
            } else if base.contains(inner) {
                merge.check_replacement(inner, name)?;
                merge.change(inner.to_owned(), Change::Replace(name.to_owned()))?;
            } else {
                return Err(unknown());
            }
        }
        if merge.changes.is_empty() {
            return Err(Error::invalid(format!("the adapter {} has no tensors", adapter.folder().display())));
        }
        Ok(merge)
    }

    fn change(&mut self, target: String, change: Change) -> Result<()> {
        float_of(self.base.spec(&target)?, &target)?;
        match self.changes.insert(target.clone(), change) {
            None => Ok(()),
            Some(_) => Err(Error::invalid(format!(
                "the adapter {} changes `{target}` twice",
                self.adapter.folder().display()
            ))),
        }
    }

    /// Shapes of A [r, in] and B [out, r] against W [out, in]; the scale of their product.
    fn check_pair(&self, module: &str, target: &str, a: &str, b: &str) -> Result<f32> {
        let (w_spec, a_spec, b_spec) = (self.base.spec(target)?, self.adapter.spec(a)?, self.adapter.spec(b)?);
        let fits = match (&w_spec.shape[..], &a_spec.shape[..], &b_spec.shape[..]) {
            (&[out, inputs], &[r, a_in], &[b_out, b_r]) => inputs == a_in && out == b_out && r == b_r && r > 0,
            _ => false,
        };
        if !fits {
            return Err(Error::invalid(format!(
                "the adapter does not fit `{target}` {:?}: A is {:?} and B is {:?}",
                w_spec.shape, a_spec.shape, b_spec.shape
            ))
            .hint("the adapter was trained on a model of another shape"));
        }
        float_of(a_spec, a)?;
        float_of(b_spec, b)?;
        let rank = a_spec.shape[0];
        let config = &self.adapter.config;
        if rank != config.r && config.rank_pattern.is_empty() {
            let folder = self.adapter.folder().display();
            return Err(Error::invalid(format!(
                "{folder}: adapter_config.json says rank {}, `{a}` has rank {rank}",
                config.r
            )));
        }
        Ok(config.scale(module, rank)? as f32)
    }

    fn check_replacement(&self, target: &str, name: &str) -> Result<()> {
        let (base, adapter) = (self.base.spec(target)?, self.adapter.spec(name)?);
        float_of(adapter, name)?;
        if base.shape == adapter.shape {
            return Ok(());
        }
        if let (&[model_rows, model_width], &[rows, width]) = (&base.shape[..], &adapter.shape[..])
            && model_width == width
        {
            return Err(Error::invalid(format!(
                "the adapter was trained with a vocabulary of {rows}, the model has {model_rows} (`{target}`)"
            ))
            .hint(
                "merge it into the model that it was trained on: for an expanded vocabulary, the expanded model",
            ));
        }
        Err(Error::invalid(format!(
            "the adapter's `{target}` is {:?}, the model's is {:?}",
            adapter.shape, base.shape
        )))
    }

    /// The number of tensors that get a product added, and of those that are replaced.
    pub fn counts(&self) -> (usize, usize) {
        let added = self.changes.values().filter(|change| matches!(change, Change::Add { .. })).count();
        (added, self.changes.len() - added)
    }

    /// Writes the merged weights into `output`, streaming: memory holds one A and B and a few blocks of rows.
    /// `tick` is told the bytes of weights dealt with, and may stop the work.
    pub fn write(
        &self,
        output: &Path,
        sharing: Sharing,
        tick: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Rewritten> {
        let mut specs = BTreeMap::new();
        for name in self.changes.keys() {
            specs.insert(name.clone(), self.base.spec(name)?.clone());
        }
        rewrite(self.base, output, sharing, &specs, tick, |name, writer, tick| match &self.changes[name] {
            Change::Add { a, b, scale } => self.add(name, a, b, *scale, writer, tick),
            Change::Replace(new) => self.replace(name, new, writer, tick),
        })
    }

    fn replace(
        &self,
        target: &str,
        name: &str,
        writer: &mut ShardWriter,
        tick: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let (to, from) = (float_of(self.base.spec(target)?, target)?, float_of(self.adapter.spec(name)?, name)?);
        self.adapter.stream(name, |piece| {
            let bytes = if to == from { Cow::Borrowed(piece) } else { Cow::Owned(to.narrow(&from.widen(piece))) };
            writer.write(&bytes)?;
            tick(bytes.len() as u64)
        })
    }

    fn add(
        &self,
        target: &str,
        a: &str,
        b: &str,
        scale: f32,
        writer: &mut ShardWriter,
        tick: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let spec = self.base.spec(target)?;
        let float = float_of(spec, target)?;
        let delta_float = float_of(self.adapter.spec(b)?, b)?;
        let (rows, columns) = (spec.shape[0], spec.shape[1]);
        let row_bytes = columns * float.bytes();
        let weights = self.base.bytes(target)?;
        let a = self.adapter.tensor(a, &Device::Cpu)?.to_dtype(DType::F32)?;
        let b = self.adapter.tensor(b, &Device::Cpu)?.to_dtype(DType::F32)?;
        let blocks = blocks(rows, columns);
        for group in blocks.chunks(rayon::current_num_threads().max(1)) {
            let merged: Vec<Vec<u8>> = group
                .par_iter()
                .map(|&(start, count)| {
                    let weights = &weights[start * row_bytes..(start + count) * row_bytes];
                    let delta = b.narrow(0, start, count)?.matmul(&a)?.flatten_all()?.to_vec1::<f32>()?;
                    Ok(add_rows(weights, float, &delta, scale, delta_float))
                })
                .collect::<Result<_>>()?;
            for bytes in merged {
                writer.write(&bytes)?;
                tick(bytes.len() as u64)?;
            }
        }
        Ok(())
    }
}

/// Cuts rows into blocks of about 4 million elements and nearly equal length: (first row, rows). They do not depend
/// on the number of threads, so neither do the bits.
fn blocks(rows: usize, columns: usize) -> Vec<(usize, usize)> {
    let count = (rows * columns).div_ceil(1 << 22).clamp(1, rows.max(1));
    (0..count)
        .map(|i| {
            let start = rows * i / count;
            (start, rows * (i + 1) / count - start)
        })
        .collect()
}

/// round(W + round(scale · delta)): the inner rounding to the adapter's type, the outer to that of W.
fn add_rows(weights: &[u8], float: Float, delta: &[f32], scale: f32, delta_float: Float) -> Vec<u8> {
    let mut sum = float.widen(weights);
    for (w, d) in sum.iter_mut().zip(delta) {
        *w += delta_float.round(d * scale);
    }
    float.narrow(&sum)
}

fn float_of(spec: &Spec, name: &str) -> Result<Float> {
    Float::of(spec.dtype).ok_or_else(|| {
        Error::invalid(format!("`{name}` is stored as {}; merging needs F32, BF16 or F16", spec.dtype))
            .hint("merge into the model that is not quantised")
    })
}
