//! `cmx tokens`: tokens per dataset and split, and per training mix.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use super::{Surroundings, print_json, project, table};
use crate::corpus::mix;
use crate::error::{Error, Result};
use crate::plan::Plan;
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

/// What one share of a mix comes to.
#[derive(Serialize)]
struct Part {
    share: String,
    /// Blocks of one pass over the mix; absent while the dataset is not encoded.
    blocks: Option<u64>,
    tokens: Option<u64>,
}

#[derive(Serialize)]
struct Mix {
    stage: String,
    shares: Vec<Part>,
    blocks: Option<u64>,
    tokens: Option<u64>,
}

impl Args {
    pub fn run(self, surroundings: &Surroundings) -> Result<()> {
        let (plan, store) = project(surroundings, self.pipeline.as_deref())?;
        let splits = splits(&plan, &store);
        let mixes = mixes(&plan, &splits);
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
            println!("\nmix of {}, one epoch", mix.stage);
            let amount = |amount: Option<u64>| amount.map_or("not encoded yet".to_owned(), count);
            let parts =
                mix.shares.iter().map(|part| vec![part.share.clone(), amount(part.blocks), amount(part.tokens)]);
            let total = vec!["in all".to_owned(), amount(mix.blocks), amount(mix.tokens)];
            print!("{}", table(&["share", "blocks", "tokens"], parts.chain([total])));
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

/// Every mix of the pipeline: the shares as written, and what they come to.
fn mixes(plan: &Plan, splits: &[Split]) -> Vec<Mix> {
    let mut by_name: BTreeMap<String, &Split> = BTreeMap::new();
    for split in splits.iter().filter(|split| split.split == "train") {
        by_name.insert(split.dataset.clone(), split);
        by_name.insert(format!("@{}", split.stage), split);
    }
    let mut mixes = Vec::new();
    for &node in &plan.order {
        let stage = &plan.graph[node];
        let Some(shares) = stage.parameters["mix"].as_array() else { continue };
        let part = |share: &str| {
            let (ratio, name) = share.split_once(':')?;
            let split = by_name.get(name)?;
            let blocks = mix::rows(split.blocks, ratio.parse().ok()?);
            Some((blocks, blocks * split.tokens / split.blocks.max(1)))
        };
        let shares: Vec<Part> = shares
            .iter()
            .filter_map(Value::as_str)
            .map(|share| {
                let part = part(share);
                Part { share: share.to_owned(), blocks: part.map(|p| p.0), tokens: part.map(|p| p.1) }
            })
            .collect();
        let sum = |amount: fn(&Part) -> Option<u64>| shares.iter().map(amount).sum::<Option<u64>>();
        let (blocks, tokens) = (sum(|part| part.blocks), sum(|part| part.tokens));
        mixes.push(Mix { stage: stage.name.clone(), shares, blocks, tokens });
    }
    mixes
}
