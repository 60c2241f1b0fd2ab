//! Whether a stage is fresh, and if not, why: the receipts held against the plan and the disk.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use petgraph::graph::NodeIndex;
use serde::Serialize;

use crate::error::{Context, Error, Result};
use crate::plan::{Key, Materials, Plan, Resolved};
use crate::store::{Digest, Failure, Health, Holder, Receipt, Store};

/// What is known of the artifacts of a plan while it is walked in order.
pub struct World<'a> {
    plan: &'a Plan,
    store: &'a Store,
    artifacts: HashMap<String, Digest>,
}

/// A stage held against the store.
pub struct Judgement {
    pub resolved: Resolved,
    pub fingerprint: Digest,
    pub verdict: Verdict,
    /// Why it would run, one line each; empty when it is fresh.
    pub why: Vec<String>,
    /// The receipt that the stage had last, under this or another key.
    pub last: Option<Receipt>,
}

pub enum Verdict {
    /// This key has a receipt, and its artifact is whole.
    Fresh(Box<Receipt>),
    /// This key has a receipt, but somebody altered the artifact.
    Altered(Digest, Vec<String>),
    Stale,
}

/// Where a stage stands, for `plan` and `status`.
#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Nothing to do.
    Fresh,
    /// Will run; why says what changed.
    Stale,
    /// Never ran.
    New,
    /// A parent will run; decided then.
    Waiting,
    /// Somebody is at it now.
    Running,
    /// The last attempt failed.
    Failed,
}

/// One line of `plan` and `status`.
#[derive(Clone, Debug, Serialize)]
pub struct Assessment {
    pub name: String,
    pub kind: String,
    pub state: State,
    pub why: Vec<String>,
    #[serde(skip)]
    pub receipt: Option<Receipt>,
}

impl<'a> World<'a> {
    pub fn new(plan: &'a Plan, store: &'a Store) -> Self {
        Self { plan, store, artifacts: HashMap::new() }
    }

    pub fn set_artifact(&mut self, stage: &str, artifact: Digest) {
        self.artifacts.insert(stage.to_owned(), artifact);
    }

    /// Judges a stage whose parents' artifacts are known.
    pub fn judge(&mut self, node: NodeIndex) -> Result<Judgement> {
        let plan = self.plan;
        let stage = &plan.graph[node];
        let resolved = plan.resolve(node, self)?;
        let fingerprint = resolved.key.fingerprint();
        let latest = self.store.latest(&plan.name, &stage.name);
        let last = latest.and_then(|fingerprint| self.store.receipt(fingerprint));
        let receipt = match &last {
            Some(last) if last.fingerprint == fingerprint => Some(last.clone()),
            _ => self.store.receipt(fingerprint),
        };
        let mut why = Vec::new();
        let verdict = match receipt {
            None => {
                why = self.why(&resolved.key, last.as_ref())?;
                Verdict::Stale
            }
            Some(receipt) => match self.store.check(receipt.artifact)? {
                Health::Whole => Verdict::Fresh(Box::new(receipt)),
                Health::Missing => {
                    why.push("its artifact is missing".to_owned());
                    Verdict::Stale
                }
                Health::Altered(differences) => {
                    why.push(format!("its artifact was altered: {}", shortened(&differences)));
                    Verdict::Altered(receipt.artifact, differences)
                }
            },
        };
        Ok(Judgement { resolved, fingerprint, verdict, why, last })
    }

    fn why(&self, key: &Key, last: Option<&Receipt>) -> Result<Vec<String>> {
        let Some(last) = last else { return Ok(vec!["never run".to_owned()]) };
        let old: Key = serde_json::from_value(last.key.clone())
            .context(|| format!("the receipt of {} holds no key", last.stage))?;
        Ok(key.diff(&old).iter().map(ToString::to_string).collect())
    }
}

impl Materials for World<'_> {
    fn artifact(&mut self, stage: &str) -> Result<(Digest, PathBuf)> {
        let artifact = self.artifacts.get(stage).copied();
        let artifact = artifact.ok_or_else(|| Error::new(format!("stage {stage} has no artifact yet")))?;
        Ok((artifact, self.store.artifact_path(artifact)))
    }

    fn part(&mut self, artifact: Digest, path: &Path) -> Result<Digest> {
        self.store.part(artifact, path)
    }

    fn source(&mut self, path: &Path) -> Result<Digest> {
        self.store.digest_of(path)
    }
}

/// What `explain` shows of a stage.
pub struct Explanation {
    /// Why it would run, one line each; empty when it is fresh.
    pub why: Vec<String>,
    pub key: Key,
    /// The receipt that the stage had last, under this or another key.
    pub last: Option<Receipt>,
}

/// Explains one stage; `None` while a stage before it has to run.
pub fn explain(plan: &Plan, store: &Store, node: NodeIndex) -> Result<Option<Explanation>> {
    let mut world = World::new(plan, store);
    for &before in plan.order.iter().take_while(|&&before| before != node) {
        let stage = &plan.graph[before];
        if !plan.parents(before).iter().all(|parent| world.artifacts.contains_key(&plan.graph[*parent].name)) {
            continue;
        }
        if let Ok(Judgement { verdict: Verdict::Fresh(receipt), .. }) = world.judge(before) {
            world.set_artifact(&stage.name, receipt.artifact);
        }
    }
    if !plan.parents(node).iter().all(|parent| world.artifacts.contains_key(&plan.graph[*parent].name)) {
        return Ok(None);
    }
    let judgement = world.judge(node)?;
    Ok(Some(Explanation { why: judgement.why, key: judgement.resolved.key, last: judgement.last }))
}

/// Every stage of a plan in run order, without running or moving anything.
pub fn assess(plan: &Plan, store: &Store) -> Result<Vec<Assessment>> {
    let mut world = World::new(plan, store);
    let mut states: BTreeMap<NodeIndex, State> = BTreeMap::new();
    let mut assessments = Vec::new();
    for &node in &plan.order {
        let stage = &plan.graph[node];
        let stale: Vec<&str> = plan
            .parents(node)
            .into_iter()
            .filter(|parent| states.get(parent) != Some(&State::Fresh))
            .map(|parent| plan.graph[parent].name.as_str())
            .collect();
        let latest = store.latest(&plan.name, &stage.name).and_then(|fingerprint| store.receipt(fingerprint));
        let (state, why, receipt) = if !stale.is_empty() {
            (State::Waiting, vec![format!("waits for {}", stale.join(", "))], latest)
        } else {
            match world.judge(node) {
                Ok(judgement) => stand(store, judgement),
                Err(error) => (State::Failed, vec![error.one_line()], latest),
            }
        };
        if let (State::Fresh, Some(receipt)) = (state, &receipt) {
            world.set_artifact(&stage.name, receipt.artifact);
        }
        states.insert(node, state);
        assessments.push(Assessment { name: stage.name.clone(), kind: stage.kind.clone(), state, why, receipt });
    }
    store.flush();
    Ok(assessments)
}

fn stand(store: &Store, judgement: Judgement) -> (State, Vec<String>, Option<Receipt>) {
    let Judgement { fingerprint, verdict, why, last, .. } = judgement;
    if let Verdict::Fresh(receipt) = verdict {
        return (State::Fresh, Vec::new(), Some(*receipt));
    }
    if let Some(holder) = store.worked_on(fingerprint) {
        let Holder { host, pid, since } = holder;
        return (State::Running, vec![format!("by pid {pid} on {host} since {since}")], last);
    }
    if let Some(Failure { message, log, .. }) = store.failure(fingerprint) {
        return (State::Failed, vec![message, format!("log: {}", log.display())], last);
    }
    let state = if last.is_none() && matches!(verdict, Verdict::Stale) { State::New } else { State::Stale };
    (state, why, last)
}

/// The first few of a list of differences.
fn shortened(differences: &[String]) -> String {
    let more = differences.len().saturating_sub(3);
    let shown = differences[..differences.len() - more].join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}
