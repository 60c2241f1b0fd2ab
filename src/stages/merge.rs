//! `merge`: a LoRA adapter folded into the model it was trained on.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Input, Stage, Work};
use crate::error::Result;
use crate::events::Unit;
use crate::weights::Checkpoint;
use crate::weights::adapter::Adapter;
use crate::weights::merging::Merge as Merging;
use crate::weights::rewrite::{Companions, Sharing, share_companions};

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Merge {
    /// The model that the adapter was trained on.
    model: Input,
    /// An adapter in PEFT's layout.
    adapter: Input,
}

impl Stage for Merge {
    const KIND: &'static str = "merge";
    const REVISION: u32 = 1;

    fn run(&self, work: &mut Work) -> Result<()> {
        let sharing = Sharing::of(&self.model.from);
        let base = Checkpoint::open(self.model.path())?;
        let adapter = Adapter::open(self.adapter.path())?;
        let merging = Merging::new(&base, &adapter)?;
        let progress = work.progress("merging", Some(base.bytes_in_all()), Unit::Bytes);
        let rewritten = merging.write(work.output(), sharing, &mut |bytes| {
            progress.add(bytes);
            work.check()
        })?;
        progress.finish();
        share_companions(base.folder(), work.output(), sharing, Companions::All)?;

        let (added, replaced) = merging.counts();
        work.metric("tensors_merged", added);
        work.metric("tensors_replaced", replaced);
        work.metric("shards_written", rewritten.written.len());
        work.metric("shards_shared", rewritten.shared.len());
        Ok(())
    }
}
