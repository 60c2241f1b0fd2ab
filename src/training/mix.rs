//! The blend of datasets that a run trains on, with the token blocks at hand.

use super::blend::{Blend, Place, Share};
use crate::corpus::Blocks;
use crate::corpus::mix::Amount;
use crate::error::{Context, Error, Result};

pub struct Mix {
    blend: Blend,
    /// Of each share.
    blocks: Vec<Blocks>,
}

impl Mix {
    /// Each share is a dataset's name, its blocks, and how much to take of it. All blocks must have one length.
    pub fn new(shares: Vec<(String, Blocks, Amount)>) -> Result<Self> {
        let (mut parts, mut all) = (Vec::new(), Vec::new());
        for (name, blocks, amount) in shares {
            let (available, length) = (blocks.len() as u64, blocks.sequence_length());
            parts.push(Share { name, available, length, amount });
            all.push(blocks);
        }
        Ok(Self { blend: Blend::new(parts)?, blocks: all })
    }

    pub fn blend(&self) -> &Blend {
        &self.blend
    }

    /// The ids of a block.
    pub fn block(&self, Place { share, row }: Place) -> Result<Vec<u32>> {
        let name = &self.blend.shares()[share].name;
        let ids = self.blocks[share].row(row as usize).context(|| format!("cannot read the dataset {name}"))?;
        let length = self.blend.sequence_length();
        if ids.len() != length {
            let found = ids.len();
            return Err(Error::invalid(format!("block {row} of {name} has {found} tokens, not {length}")));
        }
        Ok(ids)
    }
}
