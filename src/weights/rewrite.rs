//! A model folder with some of its tensors changed: only the shards that hold those are written, the others linked.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::index::Index;
use super::{Checkpoint, ShardWriter, Spec};
use crate::error::{Context, Result};
use crate::files;

/// How a file that does not change gets into the new folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// The file belongs to the store and is never written again: a reflink, else a hard link, else a copy.
    Linked,
    /// The file is a user's own: a reflink, else a copy. An edit of the original must not reach the artifact.
    Copied,
}

impl Sharing {
    /// How to share the files of an input that a manifest names so: `@stage` is an artifact of the store.
    pub fn of(from: &str) -> Self {
        if from.starts_with('@') { Self::Linked } else { Self::Copied }
    }

    /// Gives `to` the content of `from`.
    pub fn place(self, from: &Path, to: &Path) -> Result<()> {
        let placed = fs::canonicalize(from).and_then(|from| match self {
            Self::Linked => files::link_or_copy(&from, to),
            Self::Copied => reflink_copy::reflink_or_copy(from, to).map(drop),
        });
        placed.context(|| format!("cannot place {} at {}", from.display(), to.display()))
    }
}

/// What a rewrite did: file names, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rewritten {
    pub written: Vec<String>,
    pub shared: Vec<String>,
}

/// Writes the weights of `source` into `output` under the same file names, or for torch's `pytorch_model….bin` as
/// `model….safetensors`. The tensors in `changed` get the type and
/// shape given there and the bytes that `write` gives (the tensor is begun already); the rest is kept bit by bit. A
/// shard without a changed tensor is shared, unless torch wrote it. Files that hold v5's stacked experts are written with
/// v4 names.
/// `tick` is told the bytes of weights dealt with, and may stop the work.
pub fn rewrite(
    source: &Checkpoint,
    output: &Path,
    sharing: Sharing,
    changed: &BTreeMap<String, Spec>,
    tick: &mut dyn FnMut(u64) -> Result<()>,
    mut write: impl FnMut(&str, &mut ShardWriter, &mut dyn FnMut(u64) -> Result<()>) -> Result<()>,
) -> Result<Rewritten> {
    let mut done = Rewritten::default();
    let mut index = Index::default();
    let (mut bytes, mut elements) = (0, 0);
    for (number, shard) in source.shards().iter().enumerate() {
        let file = shard.path().file_name().unwrap_or_default().to_string_lossy();
        let file = match file.strip_suffix(".bin") {
            Some(stem) => format!("{}.safetensors", stem.strip_prefix("pytorch_").unwrap_or(stem)),
            None => file.into_owned(),
        };
        let mut specs = BTreeMap::new();
        for name in source.names_in(number) {
            let spec = changed.get(name).unwrap_or(source.spec(name)?).clone();
            bytes += spec.bytes() as u64;
            elements += spec.elements() as u64;
            index.weight_map.insert(name.to_owned(), file.clone());
            specs.insert(name.to_owned(), spec);
        }
        let target = output.join(&file);
        if source.is_sharable(number) && !specs.keys().any(|name| changed.contains_key(name)) {
            sharing.place(shard.path(), &target)?;
            tick(specs.values().map(|spec| spec.bytes() as u64).sum())?;
            done.shared.push(file);
            continue;
        }
        let mut writer = ShardWriter::create(&target, &specs)?;
        for name in ShardWriter::order(&specs) {
            writer.begin(name)?;
            if changed.contains_key(name) {
                write(name, &mut writer, tick)?;
            } else {
                copy(source, name, &mut writer, tick)?;
            }
            source.release(name);
        }
        writer.finish()?;
        done.written.push(file);
    }
    if let Some(old) = &source.index {
        index.metadata = old.metadata.clone();
        index.write(output, bytes, elements)?;
    }
    Ok(done)
}

/// Copies a tensor in pieces, so that progress is seen and a cancellation heard.
pub(super) fn copy(
    source: &Checkpoint,
    name: &str,
    writer: &mut ShardWriter,
    tick: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<()> {
    source.stream(name, |piece| {
        writer.write(piece)?;
        tick(piece.len() as u64)
    })
}

/// Which files beside the weights go along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Companions {
    /// Configuration and tokenizer too: the folder stays the same model.
    All,
    /// All but `config.json`, which the caller writes anew.
    ExceptConfig,
    /// Neither configuration nor tokenizer, which the caller writes anew.
    ExceptConfigAndTokenizer,
}

/// Takes the other files of a model folder along (`generation_config.json`, a licence, …): plain files of its top
/// level that are neither weights nor hidden.
pub fn share_companions(source: &Path, output: &Path, sharing: Sharing, which: Companions) -> Result<()> {
    let cannot_list = || format!("cannot list {}", source.display());
    for entry in fs::read_dir(source).context(cannot_list)? {
        let path = entry.context(cannot_list)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let replaced = match which {
            Companions::All => false,
            Companions::ExceptConfig => name == "config.json",
            Companions::ExceptConfigAndTokenizer => is_config_or_tokenizer(&name),
        };
        // The record of how a model was trained is not one of what is made of it.
        let record = name == "metrics.jsonl";
        if path.is_file() && !name.starts_with('.') && !is_weights(&name) && !replaced && !record {
            sharing.place(&path, &output.join(&name))?;
        }
    }
    Ok(())
}

fn is_weights(name: &str) -> bool {
    const ENDINGS: [&str; 9] =
        [".safetensors", ".index.json", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"];
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}

fn is_config_or_tokenizer(name: &str) -> bool {
    const NAMES: [&str; 8] = [
        "config.json",
        "tokenizer.model",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
    ];
    NAMES.contains(&name)
}
