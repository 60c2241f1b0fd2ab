//! `encode`: documents → blocks of token ids, as the original's training script and `datasets` read them.

use std::path::Path;

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Dataset, Input, Stage, Work};
use crate::corpus::{Batches, BlockWriter, Packer, Recipe, bad_line, text_of};
use crate::error::{Error, Result};
use crate::events::Unit;
use crate::tokenizer::Tokenizer;

/// Writes one `save_to_disk` folder per split, with the columns `input_ids`, `attention_mask` and `labels`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Encode {
    /// Taken split; provided encoded.
    pub dataset: Dataset,
    /// `tokenizer.model`, `tokenizer.json`, or a folder with one.
    pub tokenizer: Input,
    /// Ids in a block.
    pub sequence_length: usize,
    /// How documents are laid out in blocks.
    pub recipe: Recipe,
    /// The field of a line that holds the document.
    pub text_field: String,
}

/// What a split came to.
#[derive(Default)]
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

/// Text encoded at a time, in bytes; its ids and those of one record batch are what memory is needed for.
const BATCH: usize = 8 << 20;

impl Stage for Encode {
    const KIND: &'static str = "encode";
    const REVISION: u32 = 1;

    fn run(&self, work: &mut Work) -> Result<()> {
        if self.sequence_length == 0 {
            return Err(Error::invalid("`sequence_length` is 0: a block must hold a token"));
        }
        let Dataset { name, path, doc, encoded, .. } = &self.dataset;
        let tokenizer = Tokenizer::open(self.tokenizer.path())?;
        self.check_specials(&tokenizer)?;
        let root = path.as_deref().ok_or_else(|| not_split(name))?;
        for (split, file) in doc {
            let file = root.join(format!("{file}.jsonl"));
            if !file.is_file() {
                return Err(not_split(name));
            }
            let folder = encoded.get(split).ok_or_else(|| {
                Error::invalid(format!("the dataset `{name}` names no `encoded` folder for its split `{split}`"))
            })?;
            let counted = self.encode(work, split, &tokenizer, &file, &work.output().join(folder))?;
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
        }
        Ok(())
    }
}

fn not_split(name: &str) -> Error {
    Error::invalid(format!("the dataset `{name}` is not split into the files that its `doc` names"))
        .hint("add a split stage for it, or look at its `root` and `doc` in datasets.toml")
}

impl Encode {
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

    /// Encodes a file's documents in parallel and packs them in order, batch by batch.
    fn encode(
        &self,
        work: &Work,
        split: &str,
        tokenizer: &Tokenizer,
        file: &Path,
        folder: &Path,
    ) -> Result<Counted> {
        let writer = BlockWriter::create(folder, self.sequence_length)?;
        let mut packer = Packer::new(writer, self.recipe, self.sequence_length, tokenizer.bos(), tokenizer.eos());
        let mut counted = Counted::default();
        let size = std::fs::metadata(file).map_or(0, |metadata| metadata.len());
        let progress = work.progress(format!("encoded {split}"), Some(size), Unit::Bytes);
        let files = [file.to_path_buf()];
        for batch in Batches::new(&files, BATCH) {
            let batch = batch?;
            let encoded: Vec<Result<_>> = batch
                .lines()
                .par_iter()
                .map(|line| {
                    let text = text_of(batch.bytes_of(line), &self.text_field)
                        .map_err(|fault| bad_line(file, line.number, &fault))?;
                    let mut ids = Vec::new();
                    tokenizer.encode_into(&text, &mut ids);
                    progress.add(batch.bytes_of(line).len() as u64 + 1);
                    Ok((ids, text.len() as u64, text.chars().count() as u64))
                })
                .collect();
            for document in encoded {
                let (ids, bytes, characters) = document?;
                packer.push(&ids)?;
                counted.documents += 1;
                counted.bytes += bytes;
                counted.characters += characters;
            }
            work.check()?;
        }
        let (writer, dropped) = packer.finish()?;
        let written = writer.finish()?;
        progress.finish();
        Ok(Counted { blocks: written.rows, tokens: written.tokens + dropped, dropped, ..counted })
    }
}
