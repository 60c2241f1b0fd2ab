//! The blend of datasets that a run trains on, and the order of its token blocks.

use super::Permutation;
use crate::corpus::{Blocks, mix};
use crate::error::{Context, Error, Result};
use crate::model::ops::Stream;

/// Shares of datasets, one after the other.
pub struct Mix {
    shares: Vec<Share>,
    length: usize,
}

struct Share {
    name: String,
    blocks: Blocks,
    rows: u64,
}

impl Mix {
    /// Each share is a dataset's name, its blocks, and the ratio to take of it. All blocks must have one length.
    pub fn new(shares: Vec<(String, Blocks, f64)>) -> Result<Self> {
        let mut length = None;
        let mut all = Vec::new();
        for (name, blocks, ratio) in shares {
            if !(ratio > 0.0 && ratio.is_finite()) {
                return Err(Error::invalid(format!("the ratio of {name} is {ratio}; it must be above 0")));
            }
            if blocks.is_empty() {
                return Err(Error::invalid(format!("the dataset {name} has no token blocks")));
            }
            let own = blocks.sequence_length();
            match &length {
                None => length = Some((own, name.clone())),
                Some((length, _)) if *length == own => {}
                Some((length, first)) => {
                    return Err(Error::invalid(format!(
                        "the blocks of {first} have {length} tokens, those of {name} {own}"
                    ))
                    .hint("encode both with the same `sequence_length`"));
                }
            }
            let rows = mix::rows(blocks.len() as u64, ratio);
            all.push(Share { name, blocks, rows });
        }
        let Some((length, _)) = length else {
            return Err(Error::invalid("the mix is empty: there is nothing to train on"));
        };
        Ok(Self { shares: all, length })
    }

    /// Blocks of one epoch.
    pub fn len(&self) -> u64 {
        self.shares.iter().map(|share| share.rows).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens of a block.
    pub fn sequence_length(&self) -> usize {
        self.length
    }

    /// The permutation of the blocks in `epoch`.
    pub fn order(&self, seed: u64, epoch: u64) -> Permutation {
        Permutation::new(self.len(), Stream::new(seed).named("order").numbered(epoch))
    }

    /// The block at a position of the mix before it is permuted.
    pub fn block(&self, position: u64) -> Result<Vec<u32>> {
        let mut rest = position;
        for share in &self.shares {
            if rest < share.rows {
                let row = (rest % share.blocks.len() as u64) as usize;
                let ids = share.blocks.row(row).context(|| format!("cannot read the dataset {}", share.name))?;
                if ids.len() != self.length {
                    return Err(Error::invalid(format!(
                        "block {row} of {} has {} tokens, not {}",
                        share.name,
                        ids.len(),
                        self.length
                    )));
                }
                return Ok(ids);
            }
            rest -= share.rows;
        }
        Err(Error::new(format!("block {position} was asked for, but the mix has only {}", self.len())))
    }
}
