//! Documents' token ids → blocks of one length.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BlockWriter, Row, Shards};
use crate::error::Result;

/// What stands between documents, and where a stream of them is cut anew.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Recipe {
    /// One stream `<s> document </s> <s> document </s> …`, cut into blocks; only the last partial block is dropped.
    Clean,
    /// The published layout on one worker: `<s> document <s> document …` without any `</s>`, cut anew for every
    /// 1,000 documents, whose last partial block is dropped.
    AsPublished,
}

/// How documents share blocks.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Packing {
    /// One behind the other, and cut wherever a block is full.
    Stream,
    /// As many whole ones as follow one another and fit; the rest of the block is padding.
    Whole,
    /// Each has a block of its own; the rest of it is padding.
    None,
}

/// Documents per `group_texts` call of the published run: `datasets.map`'s default batch.
const PUBLISHED_BATCH: u64 = 1000;

/// How a [`Packer`] lays out documents.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub recipe: Recipe,
    pub packing: Packing,
    /// Ids of a block.
    pub length: usize,
    /// What goes before and behind each document, as far as the recipe has it; an absent one is left out.
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    /// What fills a block up.
    pub pad: u32,
}

/// Lays documents out in blocks of one length.
///
/// Where a stretch of a stream that is cut on its own (1,000 documents as published, the whole split if clean) is
/// shorter than one block, it becomes one short block, as in the published `group_texts`: no text is better lost
/// than a whole small dev set. Of a document that is longer than a block, one that is not cut keeps its beginning.
pub struct Packer {
    writer: BlockWriter,
    rules: Rules,
    carry: Carry,
}

/// What goes over from one block to the next.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Carry {
    /// Ids that are in no block yet.
    pending: Vec<u32>,
    /// Whether each of them is to be predicted; empty as long as all are.
    counted: Vec<bool>,
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
    pub fn new(writer: BlockWriter, rules: Rules) -> Self {
        let eos = if rules.recipe == Recipe::Clean { rules.eos } else { None };
        Self { writer, rules: Rules { eos, ..rules }, carry: Carry::default() }
    }

    /// Goes on from a checkpoint; a new packer's `writer` must be one that was resumed with its shards.
    pub fn resume(mut self, checkpoint: Checkpoint) -> Result<Self> {
        self.carry = checkpoint.carry;
        if self.rules.packing == Packing::Stream {
            self.cut()?;
        }
        Ok(self)
    }

    /// Appends a document; `ids` are its own tokens, and `counted` says of each whether it is to be predicted, where
    /// that is not so of all (what goes around the document is not then). For all documents or for none. If a shard
    /// ended with it, the answer is where that was.
    pub fn push(&mut self, ids: &[u32], counted: Option<&[bool]>) -> Result<Option<Checkpoint>> {
        let Rules { packing, length, bos, eos, .. } = self.rules;
        let own = ids.len() + usize::from(bos.is_some()) + usize::from(eos.is_some());
        let shards = if packing == Packing::Whole && self.carry.pending.len() + own > length {
            self.fill_up()?
        } else {
            None
        };
        let Carry { pending, counted: all_counted, starts, documents, dropped, .. } = &mut self.carry;
        let start = pending.len();
        pending.extend(bos);
        pending.extend_from_slice(ids);
        pending.extend(eos);
        if let Some(counted) = counted {
            all_counted.resize(start + usize::from(bos.is_some()), false);
            all_counted.extend_from_slice(counted);
            all_counted.resize(pending.len(), false);
        }
        if pending.len() > start {
            starts.push(start);
        }
        *documents += 1;
        if packing == Packing::Stream {
            return self.cut();
        }
        *dropped += pending.len().saturating_sub(length) as u64;
        pending.truncate(length);
        all_counted.truncate(length);
        let shards = if packing == Packing::None { self.fill_up()? } else { shards };
        Ok(shards.map(|shards| Checkpoint { carry: self.carry.clone(), shards }))
    }

    /// Ends the last block, and gives the shards and the number of ids that went into no block.
    pub fn finish(mut self) -> Result<(Shards, u64)> {
        if self.rules.packing == Packing::Stream {
            self.end_stretch()?;
        } else {
            self.fill_up()?;
        }
        Ok((self.writer.close()?, self.carry.dropped))
    }

    /// Writes the pending ids, if there are any, as a block that ends in padding.
    fn fill_up(&mut self) -> Result<Option<Shards>> {
        let Carry { pending, counted, starts, blocks, .. } = &mut self.carry;
        if pending.is_empty() {
            return Ok(None);
        }
        let filled = pending.len();
        pending.resize(self.rules.length, self.rules.pad);
        let counted_all = (!counted.is_empty()).then_some(&counted[..]);
        let shards = self.writer.push(&Row { ids: pending, filled, starts, counted: counted_all })?;
        *blocks += 1;
        pending.clear();
        counted.clear();
        starts.clear();
        Ok(shards)
    }

    /// Writes the pending ids as far as they make whole blocks.
    fn cut(&mut self) -> Result<Option<Checkpoint>> {
        let length = self.rules.length;
        let mut checkpoint = None;
        let Carry { pending, counted, starts, .. } = &self.carry;
        let (whole, mut begun, mut own) = (pending.len() / length * length, 0, Vec::new());
        let mut blocks = self.carry.blocks;
        for end in (length..=whole).step_by(length) {
            let start = end - length;
            let until = begun + starts[begun..].partition_point(|&at| at < end);
            own.clear();
            own.extend(starts[begun..until].iter().map(|at| at - start));
            begun = until;
            blocks += 1;
            let row =
                Row { ids: &pending[start..end], filled: length, starts: &own, counted: counted.get(start..end) };
            if let Some(shards) = self.writer.push(&row)? {
                let carry = Carry {
                    pending: pending[end..].to_vec(),
                    counted: counted.get(end..).unwrap_or_default().to_vec(),
                    starts: starts[begun..].iter().map(|at| at - end).collect(),
                    blocks,
                    ..self.carry
                };
                checkpoint = Some(Checkpoint { carry, shards });
            }
        }
        self.carry.blocks = blocks;
        self.carry.pending.drain(..whole);
        self.carry.counted.drain(..whole.min(self.carry.counted.len()));
        self.carry.starts.drain(..begun);
        self.carry.starts.iter_mut().for_each(|at| *at -= whole);
        if self.rules.recipe == Recipe::AsPublished && self.carry.documents == PUBLISHED_BATCH {
            return Ok(self.end_stretch()?.or(checkpoint));
        }
        Ok(checkpoint)
    }

    fn end_stretch(&mut self) -> Result<Option<Checkpoint>> {
        let Carry { pending, counted, starts, blocks, dropped, .. } = std::mem::take(&mut self.carry);
        self.carry.dropped = dropped;
        if blocks == 0 && !pending.is_empty() {
            let counted = (!counted.is_empty()).then_some(&counted[..]);
            let row = Row { ids: &pending, filled: pending.len(), starts: &starts, counted };
            let shards = self.writer.push(&row)?;
            return Ok(shards.map(|shards| Checkpoint { carry: self.carry.clone(), shards }));
        }
        self.carry.dropped += pending.len() as u64;
        Ok(None)
    }
}
