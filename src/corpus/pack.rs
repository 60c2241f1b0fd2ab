//! Documents' token ids → blocks of one length.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::BlockWriter;
use crate::error::Result;

/// How documents are laid out in blocks.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Recipe {
    /// One stream `<s> document </s> <s> document </s> …`, cut into blocks; only the last partial block is dropped.
    Clean,
    /// The published layout on one worker: `<s> document <s> document …` without any `</s>`, cut anew for every
    /// 1,000 documents, whose last partial block is dropped.
    AsPublished,
}

/// Documents per `group_texts` call of the published run: `datasets.map`'s default batch.
const PUBLISHED_BATCH: u64 = 1000;

/// Cuts a stream of documents into blocks of `length` ids.
///
/// Where a stretch of documents that is cut on its own (1,000 documents as published, the whole split if clean) is
/// shorter than one block, it becomes one short block, as in the published `group_texts`: no text is better lost
/// than a whole small dev set.
pub struct Packer {
    writer: BlockWriter,
    recipe: Recipe,
    length: usize,
    bos: Option<u32>,
    eos: Option<u32>,
    pending: Vec<u32>,
    /// Documents and blocks of the current stretch.
    documents: u64,
    blocks: u64,
    dropped: u64,
}

impl Packer {
    /// `bos` and `eos` go around each document as far as the recipe has them; an absent one is left out.
    pub fn new(writer: BlockWriter, recipe: Recipe, length: usize, bos: Option<u32>, eos: Option<u32>) -> Self {
        let eos = if recipe == Recipe::Clean { eos } else { None };
        Self { writer, recipe, length, bos, eos, pending: Vec::new(), documents: 0, blocks: 0, dropped: 0 }
    }

    /// Appends a document; `ids` are its own tokens.
    pub fn push(&mut self, ids: &[u32]) -> Result<()> {
        self.pending.extend(self.bos);
        self.pending.extend_from_slice(ids);
        self.pending.extend(self.eos);
        let whole = self.pending.len() / self.length * self.length;
        for block in self.pending[..whole].chunks_exact(self.length) {
            self.writer.push(block)?;
            self.blocks += 1;
        }
        self.pending.drain(..whole);
        self.documents += 1;
        if self.recipe == Recipe::AsPublished && self.documents == PUBLISHED_BATCH {
            self.end_stretch()?;
        }
        Ok(())
    }

    /// Ends the last block and gives the writer back, and the number of ids that went into no block.
    pub fn finish(mut self) -> Result<(BlockWriter, u64)> {
        self.end_stretch()?;
        Ok((self.writer, self.dropped))
    }

    fn end_stretch(&mut self) -> Result<()> {
        if self.blocks == 0 && !self.pending.is_empty() {
            self.writer.push(&self.pending)?;
        } else {
            self.dropped += self.pending.len() as u64;
        }
        self.pending.clear();
        self.documents = 0;
        self.blocks = 0;
        Ok(())
    }
}
