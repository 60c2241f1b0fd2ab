//! `encode`: documents → blocks of token ids, as the original's training script and `datasets` read them.

use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Dataset, Fault, Input, Stage, Work};
use crate::corpus::{
    Batch, Batches, BlockWriter, Checkpoint, Layout, Line, Packer, Place, Recipe, Shards, Storage, bad_line,
    text_of,
};
use crate::error::{Context, Error, Result};
use crate::events::Unit;
use crate::files;
use crate::tokenizer::{Encoder, Tokenizer};

/// Writes one `save_to_disk` folder per split.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Encode {
    /// Taken split; provided encoded.
    pub dataset: Dataset,
    /// `tokenizer.model`, `tokenizer.json`, or a folder with one.
    pub tokenizer: Input,
    /// Whose ids a `tokenizer.model` gives, where the programs that read it disagree.
    pub encoder: Encoder,
    /// Ids in a block.
    pub sequence_length: usize,
    /// How documents are laid out in blocks.
    pub recipe: Recipe,
    /// Which columns the blocks are stored in.
    pub storage: Storage,
    /// Adds a column with each token's place in its document.
    pub position_ids: bool,
    /// Adds a column that says which of the block's documents a token belongs to.
    pub document_ids: bool,
    /// Bytes of column data in an Arrow file at most, and the most work that a kill costs.
    pub max_shard_bytes: u64,
    /// The field of a line that holds the document.
    pub text_field: String,
}

/// What a split came to.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Counted {
    documents: u64,
    bytes: u64,
    characters: u64,
    blocks: u64,
    /// Ids made, `<s>` and `</s>` among them.
    tokens: u64,
    /// Those of them that went into no block.
    dropped: u64,
}

/// How much of a split is in the scratch folder, written there beside its blocks whenever a shard is whole: what a
/// kill costs is the shard that was being written.
#[derive(Serialize, Deserialize)]
enum Kept {
    Part(Part),
    Whole { counted: Counted, shards: Shards },
}

/// The documents before `place`, as far as the shards and what the checkpoint carries over.
#[derive(Default, Serialize, Deserialize)]
struct Part {
    place: Place,
    counted: Counted,
    checkpoint: Checkpoint,
}

/// Some documents' ids, one behind the other.
struct Encoded {
    ids: Vec<u32>,
    documents: Vec<Measures>,
}

/// Of one document.
struct Measures {
    ids: usize,
    line: usize,
    bytes: usize,
    characters: usize,
}

/// In bytes.
#[derive(Clone, Copy)]
struct Sizes {
    /// Text encoded at a time. Three batches with their ids and one record batch are what memory is needed for.
    batch: usize,
    /// Text that a thread takes of it at a time.
    portion: usize,
}

const SIZES: Sizes = Sizes { batch: 4 << 20, portion: 64 << 10 };

impl Stage for Encode {
    const KIND: &'static str = "encode";
    const REVISION: u32 = 3;

    fn check(&self) -> Result<(), Fault> {
        if self.sequence_length == 0 {
            return Err(Fault::new("sequence_length", "`sequence_length` is 0: a block must hold a token"));
        }
        if self.max_shard_bytes == 0 {
            return Err(Fault::new("max_shard_bytes", "`max_shard_bytes` is 0: a shard must hold a block"));
        }
        Ok(())
    }

    fn run(&self, work: &mut Work) -> Result<()> {
        self.run_with(SIZES, work)
    }
}

fn not_split(name: &str) -> Error {
    Error::invalid(format!("the dataset `{name}` is not split into the files that its `doc` names"))
        .hint("add a split stage for it, or look at its `root` and `doc` in datasets.toml")
}

impl Encode {
    fn run_with(&self, sizes: Sizes, work: &Work) -> Result<()> {
        let Dataset { name, path, doc, encoded, .. } = &self.dataset;
        let tokenizer = Tokenizer::open_as(self.tokenizer.path(), self.encoder)?;
        self.check_specials(&tokenizer)?;
        let layout = Layout {
            storage: self.storage,
            vocab_size: tokenizer.vocab_size(),
            sequence_length: self.sequence_length,
            position_ids: self.position_ids,
            document_ids: self.document_ids,
            max_shard_bytes: self.max_shard_bytes,
        };
        let root = path.as_deref().ok_or_else(|| not_split(name))?;
        let mut done = Vec::new();
        for (split, file) in doc {
            let file = root.join(format!("{file}.jsonl"));
            if !file.is_file() {
                return Err(not_split(name));
            }
            let folder = encoded.get(split).ok_or_else(|| {
                Error::invalid(format!("the dataset `{name}` names no `encoded` folder for its split `{split}`"))
            })?;
            let (counted, shards) = self.encode(sizes, &layout, work, split, &tokenizer, &file)?;
            for (figure, value) in [
                ("tokens", counted.tokens),
                ("documents", counted.documents),
                ("blocks", counted.blocks),
                ("bytes", counted.bytes),
                ("characters", counted.characters),
                ("dropped", counted.dropped),
            ] {
                work.metric(format!("{figure}.{split}"), value);
            }
            if counted.blocks == 0 {
                work.warn(format!("the split `{split}` of `{name}` has no documents, and so no blocks"));
            }
            done.push((split, work.output().join(folder), shards));
        }
        // Not before all are done: what lies in the output folder does not outlive a kill. What lies in the scratch
        // folder does, until the runner has published the output.
        for (split, folder, shards) in done {
            std::fs::create_dir(&folder).context(|| format!("cannot create {}", folder.display()))?;
            shards.publish(&layout, &kept_in(work, split).0, &folder)?;
        }
        Ok(())
    }

    fn check_specials(&self, tokenizer: &Tokenizer) -> Result<()> {
        let (needed, has) = match self.recipe {
            Recipe::Clean => ("end-of-sequence", tokenizer.eos().is_some()),
            Recipe::AsPublished => ("beginning-of-sequence", tokenizer.bos().is_some()),
        };
        if has {
            return Ok(());
        }
        let from = &self.tokenizer.from;
        Err(Error::invalid(format!("the tokenizer {from} has no {needed} token to tell documents apart")))
    }

    /// Encodes a file's documents in parallel, batch by batch, while another thread packs them in order into shards
    /// in the scratch folder. Goes on where an earlier attempt finished its last shard.
    fn encode(
        &self,
        sizes: Sizes,
        layout: &Layout,
        work: &Work,
        split: &str,
        tokenizer: &Tokenizer,
        file: &Path,
    ) -> Result<(Counted, Shards)> {
        let (blocks, state) = kept_in(work, split);
        let kept = Kept::read(&state, &blocks);
        if kept.is_none() && state.exists() {
            work.warn(format!("what an earlier attempt left of `{split}` is damaged; it is encoded anew"));
        }
        let mut part = match kept {
            Some(Kept::Whole { counted, shards }) => return Ok((counted, shards)),
            Some(Kept::Part(part)) => {
                work.info(format!("going on with `{split}` after {} documents", part.counted.documents));
                part
            }
            None => {
                if state.exists() {
                    std::fs::remove_file(&state).context(|| format!("cannot remove {}", state.display()))?;
                }
                empty_folder(&blocks)?;
                Part::default()
            }
        };
        let size = std::fs::metadata(file).map_or(0, |metadata| metadata.len());
        let progress = work.progress(format!("encoded {split}"), Some(size), Unit::Bytes);
        progress.set(part.place.offset);

        let checkpoint = std::mem::take(&mut part.checkpoint);
        let writer = BlockWriter::resume(&blocks, layout, checkpoint.shards.clone());
        let mut packer = Packer::new(writer, self.recipe, self.sequence_length, tokenizer.bos(), tokenizer.eos())
            .resume(checkpoint)?;
        let files = [file.to_path_buf()];
        let batches = Batches::from(&files, sizes.batch, part.place)?;
        let encode = |batch: &Batch, lines: &[Line]| {
            let mut encoded = Encoded { ids: Vec::new(), documents: Vec::with_capacity(lines.len()) };
            let mut unescaped = String::new();
            for line in lines {
                let bytes = batch.bytes_of(line);
                let text = text_of(bytes, &self.text_field, &mut unescaped)
                    .map_err(|fault| bad_line(file, line.number, &fault))?;
                let before = encoded.ids.len();
                encoded.ids.reserve(text.len() / 3);
                tokenizer
                    .encode_into(text, &mut encoded.ids)
                    .context(|| format!("{}, line {}", file.display(), line.number))?;
                encoded.documents.push(Measures {
                    ids: encoded.ids.len() - before,
                    line: bytes.len(),
                    bytes: text.len(),
                    characters: text.chars().count(),
                });
                progress.add(bytes.len() as u64 + 1);
            }
            Ok(encoded)
        };

        let (sender, receiver) = sync_channel::<Vec<Encoded>>(1);
        let (mut counted, mut place) = (part.counted, part.place);
        let packed: Result<Packer> = std::thread::scope(|scope| {
            let packing = scope.spawn(|| {
                for encoded in receiver.into_iter().flatten() {
                    let mut ids = encoded.ids.as_slice();
                    for document in &encoded.documents {
                        let (own, rest) = ids.split_at(document.ids);
                        ids = rest;
                        counted.documents += 1;
                        counted.bytes += document.bytes as u64;
                        counted.characters += document.characters as u64;
                        place = place.after(document.line);
                        if let Some(checkpoint) = packer.push(own)? {
                            Kept::Part(Part { place, counted, checkpoint }).write(&state)?;
                        }
                    }
                }
                Ok(packer)
            });
            let read = (|| -> Result<()> {
                for (index, batch) in batches.enumerate() {
                    // Not after the last: what is left to do then takes less time than to do it again.
                    if index > 0 {
                        work.check()?;
                    }
                    let batch = batch?;
                    let portions: Vec<&[Line]> = portions(&batch, sizes.portion);
                    let encoded: Vec<Result<Encoded>> =
                        portions.par_iter().map(|lines| encode(&batch, lines)).collect();
                    // The first failure of all, whichever thread was first.
                    if sender.send(encoded.into_iter().collect::<Result<_>>()?).is_err() {
                        break;
                    }
                }
                Ok(())
            })();
            drop(sender);
            let packed: Result<Packer> = packing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let packed = packed?;
            read.map(|()| packed)
        });
        let (shards, dropped) = packed?.finish()?;
        progress.finish();
        let written = shards.written();
        let counted = Counted { blocks: written.rows, tokens: written.tokens + dropped, dropped, ..counted };
        Kept::Whole { counted, shards: shards.clone() }.write(&state)?;
        Ok((counted, shards))
    }
}

/// Cuts a batch into runs of lines of about `size` bytes.
fn portions(batch: &Batch, size: usize) -> Vec<&[Line]> {
    let mut taken = 0;
    batch
        .lines()
        .chunk_by(|line, _| {
            taken += batch.bytes_of(line).len();
            let go_on = taken < size;
            if !go_on {
                taken = 0;
            }
            go_on
        })
        .collect()
}

/// Where a split's blocks and its [`Kept`] lie between attempts.
fn kept_in(work: &Work, split: &str) -> (PathBuf, PathBuf) {
    (work.scratch().join(split), work.scratch().join(format!("{split}.json")))
}

fn empty_folder(folder: &Path) -> Result<()> {
    let cannot_empty = || format!("cannot empty {}", folder.display());
    if folder.exists() {
        std::fs::remove_dir_all(folder).context(cannot_empty)?;
    }
    std::fs::create_dir(folder).context(cannot_empty)
}

impl Kept {
    /// Nothing if there is no such file or the blocks are not what it says; the work begins anew then.
    fn read(state: &Path, blocks: &Path) -> Option<Self> {
        let kept: Self = serde_json::from_slice(&std::fs::read(state).ok()?).ok()?;
        let shards = match &kept {
            Self::Part(part) => &part.checkpoint.shards,
            Self::Whole { shards, .. } => shards,
        };
        shards.are_in(blocks).then_some(kept)
    }

    fn write(&self, state: &Path) -> Result<()> {
        let cannot_write = || format!("cannot write {}", state.display());
        let text = serde_json::to_vec(self).context(cannot_write)?;
        files::write_atomic(state, &text).context(cannot_write)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use serde_json::json;

    use super::*;

    fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        for split in ["train", "dev"] {
            for entry in std::fs::read_dir(folder.join(split)).unwrap() {
                let path = entry.unwrap().path();
                found.insert(path.strip_prefix(folder).unwrap().to_path_buf(), std::fs::read(&path).unwrap());
            }
        }
        found
    }

    /// A tokenizer of single characters and a few words.
    fn tokenizer(folder: &Path) -> PathBuf {
        let pieces: Vec<String> = ('a'..='z').map(String::from).chain(["▁".to_owned()]).collect();
        let mut vocabulary = serde_json::Map::new();
        for piece in ["<unk>", "<s>", "</s>"].into_iter().chain(pieces.iter().map(String::as_str)) {
            vocabulary.insert(piece.to_owned(), json!(vocabulary.len()));
        }
        let special = |id: u32, content: &str| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        };
        let file = folder.join("tokenizer.json");
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
            "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                      "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                      "vocab": vocabulary, "merges": []},
        });
        std::fs::write(&file, tokenizer.to_string()).unwrap();
        file
    }

    /// Stopped after every batch, and begun again until it is done: the bytes of a run that nobody disturbed, and
    /// no document encoded twice but those of the shard that was not whole.
    #[test]
    fn what_is_stopped_goes_on_at_its_last_shard() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let model = tokenizer(folder);
        let line = |n: u32| {
            let words = "some words of a document ".repeat((n * 7 % 23) as usize);
            format!("{{\"text\": \"{words}{}\"}}\n", char::from(b'a' + (n % 26) as u8))
        };
        std::fs::write(folder.join("d-train.jsonl"), (0..2500).map(line).collect::<String>()).unwrap();
        std::fs::write(folder.join("d-dev.jsonl"), (0..40).map(line).collect::<String>().trim_end()).unwrap();
        let sizes = Sizes { batch: 64 << 10, portion: 4 << 10 };
        for (recipe, storage, bytes) in [("clean", "compact", 3), ("as-published", "as-published", 7)] {
            let stage: Encode = serde_json::from_value(json!({
                "dataset": {
                    "name": "d", "form": "split", "path": folder,
                    "doc": {"train": "d-train", "dev": "d-dev"}, "encoded": {"train": "train", "dev": "dev"},
                    "source": {"repo": null, "revision": null, "include": [], "exclude": [], "urls": [], "task": null},
                },
                "tokenizer": {"from": "t", "path": model},
                "encoder": "native", "sequence_length": 16, "recipe": recipe, "text_field": "text",
                "storage": storage, "position_ids": true, "document_ids": true, "max_shard_bytes": (100 << 10) / 13 * bytes,
            }))
            .unwrap();
            let attempt = |name: &str, sizes: Sizes, stopped: bool| {
                let (output, scratch) =
                    (folder.join(format!("{recipe}-{name}")), folder.join(format!("{recipe}-{name}-kept")));
                for fresh in [&output, &scratch] {
                    std::fs::create_dir_all(fresh).unwrap();
                }
                let cancelled = Arc::new(AtomicBool::new(stopped));
                let work = Work::new(output.clone(), scratch, 2, Box::new(std::io::sink()), cancelled);
                stage.run_with(sizes, &work).map(|()| files(&output))
            };
            let undisturbed = attempt("whole", Sizes { batch: 1 << 20, ..sizes }, false).unwrap();
            let shards = undisturbed
                .keys()
                .filter(|path| path.starts_with("train") && path.extension() == Some("arrow".as_ref()))
                .count();
            assert!(shards > 20, "{shards}");
            let mut attempts = 1;
            let stopped = loop {
                match attempt("stopped", sizes, true) {
                    Ok(files) => break files,
                    Err(error) => assert!(error.is_interruption(), "{error}"),
                }
                attempts += 1;
                assert!(attempts < 60, "no progress");
            };
            assert!(attempts > 10, "{attempts}");
            assert!(undisturbed == stopped, "{recipe}");
        }
    }
}
