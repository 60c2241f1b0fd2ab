//! Folding a LoRA adapter into the weights it was trained on: W' = W + scale · B·A.
//!
//! The numerics are PEFT's `merge_and_unload` on a CPU: the product and its scaling in float32; if the adapter is stored
//! in a half type, the product is rounded to it; the sum is rounded to the type of W. Modules that the adapter
//! trained whole replace those of the model, in the model's type. W is the matrix of the model, or what packing it to
//! 4 bits leaves of it ([`Onto`]), rounded to the type of W.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Storage, Tensor};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::adapter::{Adapter, PREFIX};
use super::nf4::{Matrix, Packing};
use super::rewrite::{self, Rewritten, Sharing, rewrite};
use super::{Checkpoint, Float, Layout, MAX_SHARD_BYTES, ShardWriter, Spec, quantisation};
use crate::error::{Context, Error, Result};

/// Which weights an adapter is added to. The two differ by what packing to 4 bits loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Onto {
    /// Those of the model, as they are stored.
    Original,
    /// Those that an adapter sees that is trained on packed weights: the linear layers but the output packed to NF4
    /// (blocks of 64, no double quantisation) and unpacked again. Of a model that is stored packed, its own.
    Dequantised,
}

/// Values that are read, added to and rounded at a time: they stay in the processor's first cache.
const PIECE: usize = 1024;

/// An adapter matched to a model: what happens to which tensor, checked before anything is written.
pub struct Merge<'a> {
    base: &'a Checkpoint,
    adapter: &'a Adapter,
    /// The tensors of the result.
    specs: BTreeMap<String, Spec>,
    /// Whether the model is stored packed.
    is_packed: bool,
    onto: Onto,
    /// Tensor of the model → what it becomes.
    changes: BTreeMap<String, Change>,
}

enum Change {
    /// W + scale · B·A; the names of A [r, in] and B [out, r] in the adapter.
    Add { a: String, b: String, scale: f32 },
    /// The adapter's tensor of that name.
    Replace(String),
    /// W, packed and unpacked.
    Dequantise,
}

/// How many tensors a merge changes, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    pub added: usize,
    pub replaced: usize,
    /// Those that are packed and unpacked and get nothing added.
    pub dequantised: usize,
}

impl<'a> Merge<'a> {
    /// Matches every tensor of the adapter to one of the model. A tensor that has no counterpart or another shape,
    /// half a pair, another vocabulary, and a packed model whose original weights are asked for are errors.
    pub fn new(base: &'a Checkpoint, adapter: &'a Adapter, onto: Onto) -> Result<Self> {
        let specs = base.unpacked_specs()?;
        let is_packed = specs.len() < base.names().len();
        if is_packed && onto == Onto::Original {
            return Err(Error::invalid(format!("{} is packed to 4 bits", base.folder().display())).hint(
                "merge into the model that it was made of, or set `base = \"dequantised\"` to merge into what is left \
                 of its weights",
            ));
        }
        let mut merge = Self { base, adapter, specs, is_packed, onto, changes: BTreeMap::new() };
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
                if !merge.specs.contains_key(&target) {
                    return Err(unknown());
                }
                let b = format!("{PREFIX}{module}.lora_B.weight");
                let scale = merge.check_pair(module, &target, name, &b)?;
                merge.change(target, Change::Add { a: name.to_owned(), b, scale })?;
            } else if let Some(module) = inner.strip_suffix(".lora_B.weight") {
                adapter.spec(&format!("{PREFIX}{module}.lora_A.weight"))?;
            } else if merge.specs.contains_key(inner) {
                merge.check_replacement(inner, name)?;
                merge.change(inner.to_owned(), Change::Replace(name.to_owned()))?;
            } else {
                return Err(unknown());
            }
        }
        if merge.changes.is_empty() {
            return Err(Error::invalid(format!("the adapter {} has no tensors", adapter.folder().display())));
        }
        if onto == Onto::Dequantised {
            for (name, spec) in &merge.specs {
                if quantisation::is_packed(name, spec) {
                    merge.changes.entry(name.clone()).or_insert(Change::Dequantise);
                }
            }
        }
        Ok(merge)
    }

    fn change(&mut self, target: String, change: Change) -> Result<()> {
        float_of(&self.specs[&target], &target)?;
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
        let (w_spec, a_spec, b_spec) = (&self.specs[target], self.adapter.spec(a)?, self.adapter.spec(b)?);
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
        let (base, adapter) = (&self.specs[target], self.adapter.spec(name)?);
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

    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for change in self.changes.values() {
            match change {
                Change::Add { .. } => counts.added += 1,
                Change::Replace(_) => counts.replaced += 1,
                Change::Dequantise => counts.dequantised += 1,
            }
        }
        counts
    }

    /// The bytes of the result's tensors.
    pub fn bytes(&self) -> u64 {
        self.specs.values().map(|spec| spec.bytes() as u64).sum()
    }

    /// Writes the merged weights into `output`, streaming: memory holds one matrix, its A and B and a few blocks of
    /// rows. `tick` is told the bytes of weights dealt with, and may stop the work.
    pub fn write(
        &self,
        output: &Path,
        sharing: Sharing,
        tick: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Rewritten> {
        if self.is_packed {
            // The whole weights take several times the place of the packed ones: they are cut into files anew.
            let layout = Layout::new(self.specs.clone(), MAX_SHARD_BYTES);
            layout.write(output, |name, _, writer| self.put(name, writer, tick))?;
            let written = layout.files.into_iter().map(|(file, _)| file).collect();
            return Ok(Rewritten { written, shared: Vec::new() });
        }
        let changed = self.specs.iter().filter(|(name, _)| self.changes.contains_key(*name));
        let changed = changed.map(|(name, spec)| (name.clone(), spec.clone())).collect();
        rewrite(self.base, output, sharing, &changed, tick, |name, writer, tick| self.put(name, writer, tick))
    }

    /// Writes a tensor, which is begun already.
    fn put(&self, name: &str, writer: &mut ShardWriter, tick: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        match self.changes.get(name) {
            None => rewrite::copy(self.base, name, writer, tick),
            Some(Change::Replace(new)) => self.replace(name, new, writer, tick),
            Some(Change::Add { a, b, scale }) => {
                let product = Product {
                    a: self.factor(a)?,
                    b: self.factor(b)?,
                    scale: *scale,
                    float: float_of(self.adapter.spec(b)?, b)?,
                };
                self.rewrite_rows(name, Some(&product), writer, tick)
            }
            Some(Change::Dequantise) => self.rewrite_rows(name, None, writer, tick),
        }
    }

    fn replace(
        &self,
        target: &str,
        name: &str,
        writer: &mut ShardWriter,
        tick: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let (to, from) = (float_of(&self.specs[target], target)?, float_of(self.adapter.spec(name)?, name)?);
        self.adapter.stream(name, |piece| {
            let bytes = if to == from { Cow::Borrowed(piece) } else { Cow::Owned(to.narrow(&from.widen(piece))) };
            writer.write(&bytes)?;
            tick(bytes.len() as u64)
        })
    }

    /// A or B in float32, no longer mapped.
    fn factor(&self, name: &str) -> Result<Tensor> {
        let tensor = self.adapter.tensor(name, &Device::Cpu)?.to_dtype(DType::F32)?;
        self.adapter.release(name);
        Ok(tensor)
    }

    /// Writes the matrix that the adapter is added to, with what is added.
    fn rewrite_rows(
        &self,
        target: &str,
        product: Option<&Product>,
        writer: &mut ShardWriter,
        tick: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let spec = &self.specs[target];
        let float = float_of(spec, target)?;
        let (rows, columns) = (spec.shape[0], spec.shape[1]);
        let weights = self.weights(target, (rows, columns), float)?;
        let make = |group: &[(usize, usize)]| -> Result<Vec<Vec<u8>>> {
            let block = |&(start, count): &(usize, usize)| {
                let mut bytes = vec![0; count * columns * float.bytes()];
                let delta = product.map(|product| product.rows(start, count)).transpose()?;
                let storage = delta.as_ref().map(|delta| delta.storage_and_layout().0);
                let delta = storage.as_deref().map(values).transpose()?;
                let mut sum = [0f32; PIECE];
                for (number, bytes) in bytes.chunks_mut(PIECE * float.bytes()).enumerate() {
                    let sum = &mut sum[..bytes.len() / float.bytes()];
                    let within = number * PIECE..number * PIECE + sum.len();
                    weights.read(start * columns + within.start, float, sum);
                    if let (Some(product), Some(delta)) = (product, &delta) {
                        product.add(&delta[within], sum);
                    }
                    float.narrow_into(sum, bytes);
                }
                Ok(bytes)
            };
            group.par_iter().map(block).collect()
        };
        // A group of blocks is written while the next is made.
        let mut ready = Vec::new();
        let blocks = blocks(rows, columns);
        for group in blocks.chunks(rayon::current_num_threads().max(1)) {
            let mut next = Ok(Vec::new());
            let written = rayon::in_place_scope(|scope| {
                scope.spawn(|_| next = make(group));
                put_all(&ready, writer, tick)
            });
            written?;
            ready = next?;
        }
        put_all(&ready, writer, tick)
    }

    /// The matrix that the adapter is added to.
    fn weights(&self, target: &str, shape: (usize, usize), float: Float) -> Result<Weights<'_>> {
        if let Some(matrix) = self.base.packed(target)? {
            return Ok(Weights::Packed(matrix));
        }
        let bytes = self.base.bytes(target)?;
        // A matrix that is not packed in training, such as the output, is not dequantised either.
        if self.onto == Onto::Original || !quantisation::is_packed(target, &self.specs[target]) {
            return Ok(Weights::Stored(bytes));
        }
        Matrix::pack_stored(shape, float, Packing::DEFAULT, bytes)
            .map(Weights::Packed)
            .context(|| format!("cannot pack `{target}`"))
    }
}

/// A matrix before the adapter is added.
enum Weights<'a> {
    Stored(&'a [u8]),
    Packed(Matrix),
}

impl Weights<'_> {
    /// Fills a slice with its values from `start` on, each rounded to the matrix's type, in which it would be stored.
    fn read(&self, start: usize, float: Float, values: &mut [f32]) {
        match self {
            Self::Stored(bytes) => float.widen_into(&bytes[start * float.bytes()..], values),
            Self::Packed(matrix) => {
                matrix.unpack(start..start + values.len(), values);
                values.iter_mut().for_each(|value| *value = float.round(*value));
            }
        }
    }
}

/// What an adapter adds to a matrix: scale · B·A.
struct Product {
    a: Tensor,
    b: Tensor,
    scale: f32,
    /// The type of the adapter, to which the product is rounded.
    float: Float,
}

impl Product {
    /// The rows from `start` on of B·A.
    fn rows(&self, start: usize, count: usize) -> Result<Tensor> {
        Ok(self.b.narrow(0, start, count)?.matmul(&self.a)?)
    }

    /// Adds `delta`, a part of B·A, to that part of a matrix.
    fn add(&self, delta: &[f32], sum: &mut [f32]) {
        /// One loop for each type: with the type known, its rounding becomes vector code.
        fn add(sum: &mut [f32], delta: &[f32], rounded: impl Fn(f32) -> f32) {
            sum.iter_mut().zip(delta).for_each(|(sum, delta)| *sum += rounded(*delta));
        }
        let scale = self.scale;
        match self.float {
            Float::F32 => add(sum, delta, |delta| delta * scale),
            Float::BF16 => add(sum, delta, |delta| Float::BF16.round(delta * scale)),
            Float::F16 => add(sum, delta, |delta| Float::F16.round(delta * scale)),
        }
    }
}

/// The values of a tensor that a product just made: float32, in main memory, from the first on.
fn values(storage: &Storage) -> Result<&[f32]> {
    match storage {
        Storage::Cpu(storage) => Ok(storage.as_slice()?),
        _ => Err(Error::new("a product is not in main memory")),
    }
}

fn put_all(blocks: &[Vec<u8>], writer: &mut ShardWriter, tick: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
    for bytes in blocks {
        writer.write(bytes)?;
        tick(bytes.len() as u64)?;
    }
    Ok(())
}

/// Cuts rows into blocks of about 2 million elements and nearly equal length: (first row, rows). They do not depend
/// on the number of threads, so neither do the bits.
fn blocks(rows: usize, columns: usize) -> Vec<(usize, usize)> {
    let count = (rows * columns).div_ceil(1 << 21).clamp(1, rows.max(1));
    (0..count)
        .map(|i| {
            let start = rows * i / count;
            (start, rows * (i + 1) / count - start)
        })
        .collect()
}

fn float_of(spec: &Spec, name: &str) -> Result<Float> {
    Float::of(spec.dtype).ok_or_else(|| {
        Error::invalid(format!("`{name}` is stored as {}; merging needs F32, BF16 or F16", spec.dtype))
            .hint("merge into the model that is not quantised")
    })
}
