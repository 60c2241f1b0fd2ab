//! The weights of a Hugging Face model folder: one file, or shards with an index; memory-mapped.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::index::Index;
use super::{Shard, Spec};
use crate::error::{Context, Error, Result, nearest};

/// A model folder's tensors, under the names of transformers v4. Experts that v5 stacked into one tensor are
/// presented as the single matrices that they are made of; no bytes move for that.
pub struct Checkpoint {
    folder: PathBuf,
    shards: Vec<Shard>,
    pub(super) index: Option<Index>,
    views: BTreeMap<String, View>,
}

/// A tensor as presented: where it lies.
struct View {
    shard: usize,
    range: Range<usize>,
    spec: Spec,
    /// Presented under another name than it is stored.
    renamed: bool,
}

impl Checkpoint {
    /// The file of a checkpoint that is not cut into shards.
    pub(super) const SINGLE: &str = "model.safetensors";
    /// The same as `torch.save` writes it.
    const TORCH: &str = "pytorch_model.bin";

    /// Opens the first of these that is there, and checks every file: `model.safetensors`, the shards that
    /// `model.safetensors.index.json` names, `pytorch_model.bin`, the shards that `pytorch_model.bin.index.json` names.
    /// Missing, truncated and damaged files are errors that name the file.
    pub fn open(folder: &Path) -> Result<Self> {
        let mut checkpoint =
            Self { folder: folder.to_owned(), shards: Vec::new(), index: None, views: BTreeMap::new() };
        for (single, index) in [(Self::SINGLE, Index::NAME), (Self::TORCH, Index::TORCH)] {
            let (single, index) = (folder.join(single), folder.join(index));
            if single.exists() {
                let shard = Shard::open(&single)?;
                let names: Vec<String> = shard.names().map(str::to_owned).collect();
                checkpoint.shards.push(shard);
                for name in names {
                    checkpoint.present(0, &name)?;
                }
                return Ok(checkpoint);
            }
            if index.exists() {
                let index = Index::read(&index)?;
                checkpoint.open_shards(&index)?;
                checkpoint.index = Some(index);
                return Ok(checkpoint);
            }
        }
        Err(Error::invalid(format!(
            "{} holds no weights: neither {} nor {}, nor those of torch",
            folder.display(),
            Self::SINGLE,
            Index::NAME
        )))
    }

    fn open_shards(&mut self, index: &Index) -> Result<()> {
        let mut files: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, file) in &index.weight_map {
            files.entry(file).or_default().push(name);
        }
        for (file, names) in files {
            let path = self.folder.join(file);
            if !path.exists() {
                return Err(Error::invalid(format!("the shard {} is missing", path.display()))
                    .hint("the index names it; the download may be incomplete"));
            }
            self.shards.push(Shard::open(&path)?);
            for name in names {
                self.present(self.shards.len() - 1, name)?;
            }
        }
        Ok(())
    }

    /// Adds the stored tensor `name` under the name (or names) of transformers v4.
    fn present(&mut self, shard: usize, name: &str) -> Result<()> {
        let file = &self.shards[shard];
        let (Some(spec), Some(range)) = (file.spec(name), file.range(name)) else {
            let path = file.path().display();
            return Err(Error::invalid(format!("{path} does not hold `{name}`, as the index says it does")).hint(
                "index and files come from different models, or a download broke off: get the folder again",
            ));
        };
        for part in parts(name, spec) {
            let range = range.start + part.range.start..range.start + part.range.end;
            let view = View { shard, range, spec: part.spec, renamed: part.name != name };
            if self.views.insert(part.name.clone(), view).is_some() {
                let folder = self.folder.display();
                return Err(Error::invalid(format!("two tensors of {folder} are both `{}`", part.name)));
            }
        }
        Ok(())
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// In name order.
    pub fn names(&self) -> Vec<&str> {
        self.views.keys().map(String::as_str).collect()
    }

    pub fn contains(&self, name: &str) -> bool {
        self.views.contains_key(name)
    }

    /// Type and shape of a tensor; an error that names the folder if there is none of that name.
    pub fn spec(&self, name: &str) -> Result<&Spec> {
        Ok(&self.view(name)?.spec)
    }

    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        Ok(self.spec(name)?.shape.clone())
    }

    /// The values as stored: row-major, little-endian.
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        let view = self.view(name)?;
        Ok(self.shards[view.shard].slice(view.range.clone()))
    }

    /// Hands out the values as stored in pieces that hold whole ones, and keeps no more than a piece in memory.
    pub(super) fn stream(&self, name: &str, each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let view = self.view(name)?;
        self.shards[view.shard].stream(view.range.clone(), each)
    }

    /// The size of all tensors.
    pub fn bytes_in_all(&self) -> u64 {
        self.views.values().map(|view| view.spec.bytes() as u64).sum()
    }

    /// The tensor in its stored type.
    pub fn tensor(&self, name: &str, device: &Device) -> Result<Tensor> {
        to_tensor(self.spec(name)?, self.bytes(name)?, device)
            .context(|| format!("cannot load `{name}` of {}", self.folder.display()))
    }

    /// Takes the pages of a tensor out of memory, when a walk through the model is done with it.
    pub fn release(&self, name: &str) {
        if let Some(view) = self.views.get(name) {
            self.shards[view.shard].release(view.range.clone());
        }
    }

    /// The files, in name order.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The tensors presented from the shard of that number, in name order.
    pub(super) fn names_in(&self, shard: usize) -> impl Iterator<Item = &str> {
        self.views.iter().filter(move |(_, view)| view.shard == shard).map(|(name, _)| name.as_str())
    }

    /// Whether the shard of that number can stay as it is: safetensors, its tensors under the names that are presented.
    pub(super) fn is_sharable(&self, shard: usize) -> bool {
        self.shards[shard].is_safetensors() && !self.views.values().any(|view| view.shard == shard && view.renamed)
    }

    fn view(&self, name: &str) -> Result<&View> {
        self.views.get(name).ok_or_else(|| {
            let error = Error::invalid(format!("{} has no tensor `{name}`", self.folder.display()));
            match nearest(name, self.views.keys().map(String::as_str)) {
                Some(near) => error.hint(format!("there is `{near}`")),
                None => error,
            }
        })
    }
}

/// A tensor on `device` from bytes as stored.
pub(super) fn to_tensor(spec: &Spec, bytes: &[u8], device: &Device) -> Result<Tensor> {
    let dtype = DType::try_from(spec.dtype)?;
    Ok(Tensor::from_raw_buffer(bytes, dtype, &spec.shape, device)?)
}

/// More experts than any model stacks in one tensor.
const MAX_EXPERTS: usize = 4096;

/// A piece of a stored tensor under its v4 name: `range` in bytes from the tensor's start.
struct Part {
    name: String,
    spec: Spec,
    range: Range<usize>,
}

/// What a stored tensor is under the names of transformers v4: itself, or for v5's stacked experts their parts.
///
/// v5 calls the router `mlp.gate` [experts, hidden], stacks w1 over w3 in `mlp.experts.gate_up_proj` [experts, 2 ×
/// intermediate, hidden] and w2 in `mlp.experts.down_proj` [experts, hidden, intermediate]; both cut into runs of rows.
fn parts(name: &str, spec: &Spec) -> Vec<Part> {
    let whole = |name: String| vec![Part { name, spec: spec.clone(), range: 0..spec.bytes() }];
    let matrices = |layer: &str, weights: &[&str]| {
        let &[experts, rows, columns] = spec.shape.as_slice() else { return whole(name.to_owned()) };
        // A few bytes of a file that lies can claim to be a great many matrices.
        if rows % weights.len() != 0 || spec.elements() == 0 || experts > MAX_EXPERTS {
            return whole(name.to_owned());
        }
        let part = Spec::new(spec.dtype, [rows / weights.len(), columns]);
        let names = (0..experts).flat_map(|expert| weights.iter().map(move |weight| (expert, weight)));
        names
            .enumerate()
            .map(|(i, (expert, weight))| Part {
                name: format!("{layer}.block_sparse_moe.experts.{expert}.{weight}.weight"),
                spec: part.clone(),
                range: i * part.bytes()..(i + 1) * part.bytes(),
            })
            .collect()
    };
    match name.strip_suffix(".weight").unwrap_or(name).split_once(".mlp.") {
        Some((layer, "gate")) => whole(format!("{layer}.block_sparse_moe.gate.weight")),
        Some((layer, "experts.gate_up_proj")) => matrices(layer, &["w1", "w3"]),
        Some((layer, "experts.down_proj")) => matrices(layer, &["w2"]),
        _ => whole(name.to_owned()),
    }
}
