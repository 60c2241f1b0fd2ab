//! Documents' token ids → blocks of one length.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BlockWriter, Shards};
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
    carry: Carry,
}

/// What goes over from one block to the next.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Carry {
    /// Ids that are in no block yet.
    pending: Vec<u32>,
    /// Where documents begin among them.
    starts: Vec<usize>,
    /// Documents and blocks of the current stretch.
    documents: u64,
    blocks: u64,
    dropped: u64,
}

/// Where the last whole shard ended; the documents that were pushed until then need not be pushed again.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Checkpoint {
    carry: Carry,
    pub shards: Shards,
}

impl Packer {
    /// `bos` and `eos` go around each document as far as the recipe has them; an absent one is left out.
    pub fn new(writer: BlockWriter, recipe: Recipe, length: usize, bos: Option<u32>, eos: Option<u32>) -> Self {
        let eos = if recipe == Recipe::Clean { eos } else { None };
        Self { writer, recipe, length, bos, eos, carry: Carry::default() }
    }

    /// Goes on from a checkpoint; a new packer's `writer` must be one that was resumed with its shards.
    pub fn resume(mut self, checkpoint: Checkpoint) -> Result<Self> {
        self.carry = checkpoint.carry;
        self.cut()?;
        Ok(self)
    }

    /// Appends a document; `ids` are its own tokens. If a shard ended with it, the answer is where that was.
    pub fn push(&mut self, ids: &[u32]) -> Result<Option<Checkpoint>> {
        let start = self.carry.pending.len();
        self.carry.pending.extend(self.bos);
        self.carry.pending.extend_from_slice(ids);
        self.carry.pending.extend(self.eos);
        if self.carry.pending.len() > start {
            self.carry.starts.push(start);
        }
        self.carry.documents += 1;
        self.cut()
    }

    /// Ends the last block, and gives the shards and the number of ids that went into no block.
    pub fn finish(mut self) -> Result<(Shards, u64)> {
        self.end_stretch()?;
        Ok((self.writer.close()?, self.carry.dropped))
    }

    /// Writes the pending ids as far as they make whole blocks.
    fn cut(&mut self) -> Result<Option<Checkpoint>> {
        let mut checkpoint = None;
        let Carry { pending, starts, .. } = &self.carry;
        let (whole, mut begun, mut own) = (pending.len() / self.length * self.length, 0, Vec::new());
        let mut blocks = self.carry.blocks;
        for end in (self.length..=whole).step_by(self.length) {
            let start = end - self.length;
            let until = begun + starts[begun..].partition_point(|&at| at < end);
            own.clear();
            own.extend(starts[begun..until].iter().map(|at| at - start));
            begun = until;
            blocks += 1;
            if let Some(shards) = self.writer.push(&pending[start..end], &own)? {
                let carry = Carry {
                    pending: pending[end..].to_vec(),
                    starts: starts[begun..].iter().map(|at| at - end).collect(),
                    blocks,
                    ..self.carry
                };
                checkpoint = Some(Checkpoint { carry, shards });
            }
        }
        self.carry.blocks = blocks;
        self.carry.pending.drain(..whole);
        self.carry.starts.drain(..begun);
        self.carry.starts.iter_mut().for_each(|at| *at -= whole);
        if self.recipe == Recipe::AsPublished && self.carry.documents == PUBLISHED_BATCH {
            return Ok(self.end_stretch()?.or(checkpoint));
        }
        Ok(checkpoint)
    }

    fn end_stretch(&mut self) -> Result<Option<Checkpoint>> {
        let Carry { pending, starts, blocks, dropped, .. } = std::mem::take(&mut self.carry);
        self.carry.dropped = dropped;
        if blocks == 0 && !pending.is_empty() {
            let shards = self.writer.push(&pending, &starts)?;
            return Ok(shards.map(|shards| Checkpoint { carry: self.carry.clone(), shards }));
        }
        self.carry.dropped += pending.len() as u64;
        Ok(None)
    }
}
