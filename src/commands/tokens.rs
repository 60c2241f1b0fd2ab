//! `cmx tokens`: tokens per dataset and split, and per training mix.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use super::mix::mixes;
use super::{Surroundings, print_json, project, table};
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::runner::assess;
use crate::runner::display::count;
use crate::stages::Form;
use crate::store::{Receipt, Store};

/// Count tokens per dataset and split, and per training mix
#[derive(clap::Args)]
pub struct Args {
    /// The pipeline's manifest; the last one run when left out
    pipeline: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One split of an encoded dataset, as its stage counted it.
#[derive(Serialize)]
struct Split {
    stage: String,
    dataset: String,
    split: String,
    documents: u64,
    blocks: u64,
    /// In blocks; what is trained on.
    tokens: u64,
}

impl Args {
    pub fn run(self, surroundings: &Surroundings) -> Result<()> {
        let (plan, store) = project(surroundings, self.pipeline.as_deref())?;
        let splits = splits(&plan, &store);
        let mixes = mixes(&plan, &store, &assess(&plan, &store)?)?;
        if self.json {
            return print_json(&serde_json::json!({ "pipeline": plan.name, "datasets": splits, "mixes": mixes }));
        }
        if splits.is_empty() {
            return Err(Error::invalid(format!("nothing of {} is encoded yet", plan.name))
                .hint("`cmx run` encodes; this table is made from its receipts"));
        }
        let rows = splits.iter().map(|split| {
            let amounts = [split.documents, split.blocks, split.tokens].map(count);
            [vec![split.dataset.clone(), split.split.clone()], amounts.to_vec(), vec![split.stage.clone()]].concat()
        });
        print!("{}", table(&["dataset", "split", "documents", "blocks", "tokens", "stage"], rows));
        for mix in &mixes {
            print!("\n{}", mix.show());
        }
        Ok(())
    }
}

/// Every encoded split, in run order.
fn splits(plan: &Plan, store: &Store) -> Vec<Split> {
    let mut splits = Vec::new();
    for &node in &plan.order {
        let stage = &plan.graph[node];
        let Some((dataset, Form::Encoded)) = &stage.provides else { continue };
        let receipt = store.latest(&plan.name, &stage.name).and_then(|fingerprint| store.receipt(fingerprint));
        let Some(Receipt { metrics, .. }) = receipt else { continue };
        let length = stage.parameters["sequence_length"].as_u64().unwrap_or(0);
        let metric = |name: &str, split: &str| metrics.get(&format!("{name}.{split}")).and_then(Value::as_u64);
        for name in metrics.keys().filter_map(|name| name.strip_prefix("blocks.")) {
            let blocks = metric("blocks", name).unwrap_or(0);
            // A short last block stands alone: then the count of its tokens is what there is.
            let all = metric("tokens", name).unwrap_or(0) - metric("dropped", name).unwrap_or(0);
            splits.push(Split {
                stage: stage.name.clone(),
                dataset: dataset.clone(),
                split: name.to_owned(),
                documents: metric("documents", name).unwrap_or(0),
                blocks,
                tokens: all.min(blocks * length),
            });
        }
    }
    splits
}
