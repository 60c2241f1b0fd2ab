//! The blend of datasets that a run trains on, with the token blocks at hand.

use super::blend::{Blend, Place, Share};
use crate::corpus::mix::Amount;
use crate::corpus::{Block, Blocks};
use crate::error::{Context, Error, Result};

pub struct Mix {
    blend: Blend,
    /// Of each share, the passes over its corpus that are encoded: one, or several with other merges left out.
    passes: Vec<Vec<Blocks>>,
}

impl Mix {
    /// Each share is a dataset's name, the passes over it that are encoded, and how much to take of it. All blocks must
    /// have one length. Passes differ a little in their number of blocks: of each those are read that all have.
    pub fn new(shares: Vec<(String, Vec<Blocks>, Amount)>) -> Result<Self> {
        let (mut parts, mut all) = (Vec::new(), Vec::new());
        for (name, passes, amount) in shares {
            let available = passes.iter().map(Blocks::len).min().unwrap_or(0) as u64;
            let length = passes.first().map_or(0, Blocks::sequence_length);
            parts.push(Share { name, available, length, amount });
            all.push(passes);
        }
        Ok(Self { blend: Blend::new(parts)?, passes: all })
    }

    pub fn blend(&self) -> &Blend {
        &self.blend
    }

    /// Of each share, the number of passes that are encoded.
    pub fn passes(&self) -> Vec<u64> {
        self.passes.iter().map(|passes| passes.len() as u64).collect()
    }

    /// A block. The passes over a dataset take those that are encoded in turn.
    pub fn block(&self, Place { share, row, pass }: Place) -> Result<Block> {
        let name = &self.blend.shares()[share].name;
        let passes = &self.passes[share];
        let blocks = &passes[(pass % passes.len() as u64) as usize];
        let block = blocks.block(row as usize).context(|| format!("cannot read the dataset {name}"))?;
        let length = self.blend.sequence_length();
        if block.length != length {
            let found = block.length;
            return Err(Error::invalid(format!("block {row} of {name} has {found} tokens, not {length}")));
        }
        Ok(block)
    }
}
