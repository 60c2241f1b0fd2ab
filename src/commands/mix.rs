//! The training mixes of a pipeline in numbers: what a run will read of each dataset, to the block, before it starts.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::table;
use crate::corpus::Blocks;
use crate::error::{Context, Error, Result};
use crate::plan::{self, Node, Plan};
use crate::runner::display::{count, counted};
use crate::runner::{Assessment, State};
use crate::store::Store;
use crate::training::{self, Blend, Extent};

/// The split that is trained on.
pub const TRAIN: &str = "train";

/// The mix of a stage that trains.
#[derive(Serialize)]
pub struct Mix {
    pub stage: String,
    shares: Vec<Share>,
    /// Steps of the run; this and the rest are absent while they can't be known.
    pub steps: Option<u64>,
    blocks_per_step: Option<u64>,
    /// Blocks of a pass over the mix that fill no step and are left out.
    left_out: Option<u64>,
    /// All that the run reads.
    blocks: Option<u64>,
    pub tokens: Option<u64>,
    /// Why the run can't be known, or not yet.
    pub why: Vec<String>,
}

#[derive(Serialize)]
struct Share {
    /// As written.
    share: String,
    dataset: String,
    /// Blocks that the dataset has.
    encoded: Option<u64>,
    /// Blocks that a pass over the mix takes of them.
    taken: Option<u64>,
    /// What the run reads of them, all passes over the mix together.
    blocks: Option<u64>,
    tokens: Option<u64>,
}

/// Blocks of a dataset, and the tokens of each.
type Size = (u64, usize);

/// Every mix of a plan, in run order; `stages` says what is fresh.
pub fn mixes(plan: &Plan, store: &Store, stages: &[Assessment]) -> Result<Vec<Mix>> {
    let states: BTreeMap<&str, &Assessment> = stages.iter().map(|stage| (stage.name.as_str(), stage)).collect();
    let of_training = plan.order.iter().map(|&node| &plan.graph[node]).filter(|stage| stage.kind == "train");
    of_training.map(|stage| mix(stage, plan, store, &states)).collect()
}

fn mix(stage: &Node, plan: &Plan, store: &Store, states: &BTreeMap<&str, &Assessment>) -> Result<Mix> {
    let extent: Extent = serde_json::from_value(stage.parameters.clone())
        .context(|| format!("the parameters of {} say not how long it trains", stage.name))?;
    let (mut shares, mut parts, mut why) = (Vec::new(), Vec::new(), Vec::new());
    for share in plan.shares(stage) {
        let size = size_of(&share, store, states).unwrap_or_else(|error| Err(error.one_line()));
        if let Err(unknown) = &size
            && !why.contains(unknown)
        {
            why.push(unknown.clone());
        }
        let size = size.ok();
        shares.push(Share {
            share: share.written.to_owned(),
            dataset: share.dataset.to_owned(),
            encoded: size.map(|(blocks, _)| blocks),
            taken: size.map(|(blocks, length)| share.amount.blocks(blocks, length)),
            blocks: None,
            tokens: None,
        });
        let part = |(available, length)| {
            let name = share.dataset.to_owned();
            training::Share { name, available, length, amount: share.amount }
        };
        parts.extend(size.map(part));
    }
    let mut mix = Mix {
        stage: stage.name.clone(),
        shares,
        steps: None,
        blocks_per_step: None,
        left_out: None,
        blocks: None,
        tokens: None,
        why,
    };
    if mix.why.is_empty() {
        let run = Blend::new(parts).and_then(|blend| Ok((training::Plan::new(&blend, &extent)?, blend)));
        match run {
            Ok((run, blend)) => mix.set(&run, &blend, extent.seed),
            Err(error) => mix.why.push(error.one_line()),
        }
    }
    Ok(mix)
}

/// The dataset of a share, from the receipt of the stage that encoded it or from the folder itself; or why that is not
/// known yet.
fn size_of(
    share: &plan::Share<'_>,
    store: &Store,
    states: &BTreeMap<&str, &Assessment>,
) -> Result<std::result::Result<Size, String>> {
    let folder = share
        .encoded
        .get(TRAIN)
        .ok_or_else(|| Error::invalid(format!("the dataset {} has no split `{TRAIN}`", share.dataset)))?;
    let Some(provider) = share.provider else { return size_of_folder(&share.root.join(folder)).map(Ok) };
    let name = &provider.name;
    let Assessment { state, why, receipt, .. } = states[name.as_str()];
    let receipt = match (state, receipt) {
        (State::Fresh, Some(receipt)) => receipt,
        _ => {
            let why = why.join("; ");
            return Ok(Err(match state {
                State::New => format!("not known yet: {name} has not run"),
                State::Running => format!("not known yet: {name} is running"),
                State::Failed => format!("not known yet: {name} failed: {why}"),
                State::Waiting => format!("not known yet: {name} {why}"),
                State::Stale | State::Fresh => format!("not known yet: {name} will run again: {why}"),
            }));
        }
    };
    let metric = |name: &str| receipt.metrics.get(&format!("{name}.{TRAIN}")).and_then(Value::as_u64);
    match (metric("blocks"), metric("tokens"), metric("dropped")) {
        // All blocks have one length.
        (Some(blocks), Some(tokens), Some(dropped)) => {
            let in_blocks = tokens.saturating_sub(dropped) + metric("padding").unwrap_or(0);
            Ok(Ok((blocks, (in_blocks / blocks.max(1)) as usize)))
        }
        // A user's own kind counts nothing.
        _ => size_of_folder(&store.artifact_path(receipt.artifact).join(folder)).map(Ok),
    }
}

pub fn size_of_folder(folder: &Path) -> Result<Size> {
    let passes = Blocks::open_passes(folder)?;
    let blocks = passes.iter().map(Blocks::len).min().unwrap_or(0);
    Ok((blocks as u64, passes.first().map_or(0, Blocks::sequence_length)))
}

impl Mix {
    fn set(&mut self, run: &training::Plan, blend: &Blend, seed: u64) {
        let length = blend.sequence_length() as u64;
        for (share, blocks) in self.shares.iter_mut().zip(run.blocks(blend, seed)) {
            share.blocks = Some(blocks);
            share.tokens = Some(blocks * length);
        }
        self.steps = Some(run.steps);
        self.blocks_per_step = Some(run.blocks_per_step);
        self.left_out = Some(blend.len() % run.blocks_per_step);
        self.blocks = Some(run.steps * run.blocks_per_step);
        self.tokens = Some(run.tokens);
    }

    /// The table that `cmx tokens` and `cmx plan` show.
    pub fn show(&self) -> String {
        let mut text = format!("mix of {}", self.stage);
        if let (Some(steps), Some(blocks)) = (self.steps, self.blocks_per_step) {
            text += &format!(": {} of {}", counted(steps, "step"), counted(blocks, "block"));
        }
        text.push('\n');
        let amount = |amount: Option<u64>| amount.map_or("?".to_owned(), count);
        let rows = self.shares.iter().map(|share| {
            let amounts = [share.encoded, share.taken, share.blocks, share.tokens].map(amount);
            [vec![share.share.clone()], amounts.to_vec()].concat()
        });
        let taken = self.shares.iter().map(|share| share.taken).sum::<Option<u64>>();
        let all = [None, taken, self.blocks, self.tokens].map(amount);
        let all = [vec!["in all".to_owned(), String::new()], all[1..].to_vec()].concat();
        text += &table(&["share", "encoded", "in the mix", "read", "tokens read"], rows.chain([all]));
        // Of a run that is less than a pass, more than these are not read.
        let whole_pass =
            self.blocks.zip(taken).is_some_and(|(read, taken)| read + self.left_out.unwrap_or(0) >= taken);
        if let Some(left_out @ 1..) = self.left_out.filter(|_| whole_pass) {
            text += &format!(
                "{} of each pass over the mix fill no step and are left out\n",
                counted(left_out, "block")
            );
        }
        for why in &self.why {
            text += &format!("{why}\n");
        }
        text
    }
}
