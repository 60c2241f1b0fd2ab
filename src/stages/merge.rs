//! `merge`: a LoRA adapter folded into the model it was trained on.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Input, Outlook, Prospect, Stage, Work};
use crate::error::{Context, Error, Result};
use crate::events::Unit;
use crate::weights::Checkpoint;
use crate::weights::adapter::Adapter;
use crate::weights::expansion::{EMBEDDING, OUTPUT};
use crate::weights::merging::{Merge as Merging, Onto};
use crate::weights::rewrite::{Companions, Sharing, share_companions};

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Merge {
    /// The model that the adapter was trained on.
    model: Input,
    /// An adapter in PEFT's layout.
    adapter: Input,
    /// Which weights the adapter is added to.
    base: Onto,
}

impl Stage for Merge {
    const KIND: &'static str = "merge";
    const REVISION: u32 = 1;

    fn prospect(&self, inputs: &dyn Outlook) -> Option<Prospect> {
        let config = inputs.model(&self.model);
        Some(Prospect::model(config.map(|config| crate::model::Config { packed: false, ..config })))
    }

    fn run(&self, work: &mut Work) -> Result<()> {
        let sharing = Sharing::of(&self.model.from);
        let base = Checkpoint::open(self.model.path())?;
        let adapter = Adapter::open(self.adapter.path())?;
        let mut config = read_config(base.folder())?;
        check_vocabulary(&base, &config)?;
        let merging = Merging::new(&base, &adapter, self.base)?;
        let progress = work.progress("merging", Some(merging.bytes()), Unit::Bytes);
        let rewritten = merging.write(work.output(), sharing, &mut |bytes| {
            progress.add(bytes);
            work.check()
        })?;
        progress.finish();
        if config.get(QUANTISED).is_some() {
            // The weights are whole now.
            if let Some(fields) = config.as_object_mut() {
                fields.shift_remove(QUANTISED);
            }
            share_companions(base.folder(), work.output(), sharing, Companions::ExceptConfig)?;
            let path = work.output().join("config.json");
            std::fs::write(&path, format!("{config:#}\n"))
                .context(|| format!("cannot write {}", path.display()))?;
        } else {
            share_companions(base.folder(), work.output(), sharing, Companions::All)?;
        }

        let counts = merging.counts();
        work.metric("base", serde_json::json!(self.base));
        work.metric("tensors_merged", counts.added);
        work.metric("tensors_replaced", counts.replaced);
        work.metric("tensors_dequantised", counts.dequantised);
        work.metric("shards_written", rewritten.written.len());
        work.metric("shards_shared", rewritten.shared.len());
        Ok(())
    }
}

/// The entry of `config.json` that says how weights are packed.
const QUANTISED: &str = "quantization_config";

fn read_config(folder: &Path) -> Result<Value> {
    let path = folder.join("config.json");
    let text = std::fs::read(&path).context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text)
        .map_err(|error| Error::invalid(format!("{} is not valid JSON", path.display())).caused_by(error))
}

/// The model's matrices must have the rows that its `config.json` says: whoever loads the merged model would stop there.
fn check_vocabulary(base: &Checkpoint, config: &Value) -> Result<()> {
    let Some(vocabulary) = config.get("vocab_size").and_then(Value::as_u64) else { return Ok(()) };
    for name in [EMBEDDING, OUTPUT].into_iter().filter(|name| base.contains(name)) {
        let rows = base.spec(name)?.shape.first().copied().unwrap_or(0);
        if rows as u64 != vocabulary {
            let folder = base.folder().display();
            return Err(Error::invalid(format!(
                "config.json of {folder} says vocab_size {vocabulary}, `{name}` has {rows} rows"
            ))
            .hint("give the folder as it was written: its config.json belongs to another model, or was edited"));
        }
    }
    Ok(())
}
