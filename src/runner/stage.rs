//! One stage, from its lock to its receipt.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use petgraph::graph::NodeIndex;

use super::assess::Judgement;
use super::attempt::{self, Ending};
use super::cancel::Cancel;
use super::{RunEvent, Task};
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::store::{Digest, Failure, Health, Holder, Receipt, Scratch, Store, Taken};

/// Everything that a stage's thread needs.
pub struct Job<'a> {
    pub plan: &'a Plan,
    pub store: &'a Store,
    pub node: NodeIndex,
    pub judgement: Judgement,
    /// Run even if a receipt exists.
    pub forced: bool,
    pub threads: usize,
    /// Absolute.
    pub log: PathBuf,
}

pub struct Done {
    pub fingerprint: Digest,
    pub artifact: Digest,
    /// The artifact is the one that the stage had before.
    pub same: bool,
    pub seconds: f64,
    /// Another runner did it while this one waited.
    pub by_other: bool,
}

pub enum Outcome {
    Done(Done),
    Interrupted,
    Failed { message: String, hint: Option<String>, log: PathBuf, tail: Vec<String> },
}

impl Job<'_> {
    pub fn run(self, cancel: &Cancel, emit: &(dyn Fn(RunEvent) + Sync)) -> Outcome {
        let log = self.log.strip_prefix(self.store.workspace()).unwrap_or(&self.log).to_owned();
        match self.carry_out(cancel, emit) {
            Ok(outcome) => outcome,
            Err(error) if error.is_interruption() => Outcome::Interrupted,
            Err(error) => Outcome::Failed {
                message: error.one_line(),
                hint: error.advice().map(str::to_owned),
                log,
                tail: Vec::new(),
            },
        }
    }

    fn carry_out(&self, cancel: &Cancel, emit: &(dyn Fn(RunEvent) + Sync)) -> Result<Outcome> {
        let stage = &self.plan.graph[self.node];
        let fingerprint = self.judgement.fingerprint;
        let (scratch, waited) = self.lock(cancel, emit)?;
        // Whoever had the lock may have done the work: then it is not done twice.
        if (waited || !self.forced)
            && let Some(receipt) = self.store.receipt(fingerprint)
            && self.store.check(receipt.artifact)? == Health::Whole
        {
            scratch.remove()?;
            let artifact = receipt.artifact;
            return Ok(Outcome::Done(Done { fingerprint, artifact, same: true, seconds: 0.0, by_other: true }));
        }
        scratch.begin()?;
        let task = Task {
            stage: stage.name.clone(),
            kind: self.judgement.resolved.kind.clone(),
            parameters: self.judgement.resolved.parameters.clone(),
            threads: self.threads,
            output: scratch.output(),
            kept: scratch.kept(),
            pool: self.store.pool(),
        };
        let linkable = self.store.linkable(&self.inputs())?;
        let started = jiff::Timestamp::now().to_string();
        let clock = Instant::now();
        let attempt = attempt::attempt(self.store.workspace(), &scratch, &task, &self.log, cancel, emit)?;
        let log = self.log.strip_prefix(self.store.workspace()).unwrap_or(&self.log).to_owned();
        match attempt.ending {
            Ending::Finished => {}
            Ending::Interrupted => return Ok(Outcome::Interrupted),
            Ending::Failed { message, hint, tail } => {
                let failure = Failure { message: message.clone(), hint: hint.clone(), log: log.clone() };
                if let Err(error) = scratch.record_failure(&failure) {
                    // On a full disk the stage's own failure is what matters.
                    tracing::debug!(%error, "the failure was not recorded");
                }
                return Ok(Outcome::Failed { message, hint, log, tail });
            }
        }
        let (artifact, tree) = self.store.publish(&scratch.output(), &linkable)?;
        let seconds = clock.elapsed().as_secs_f64();
        self.store.write_receipt(&Receipt {
            version: Receipt::version(),
            fingerprint,
            artifact,
            pipeline: self.plan.name.clone(),
            stage: stage.name.clone(),
            kind: stage.kind.clone(),
            key: serde_json::to_value(&self.judgement.resolved.key)
                .map_err(|error| Error::new("cannot write the key").caused_by(error))?,
            metrics: attempt.metrics,
            notes: attempt.notes,
            files: tree.entries().len() as u64,
            bytes: tree.size(),
            started,
            seconds,
            host: crate::store::host(),
            threads: self.threads,
            program: env!("CARGO_PKG_VERSION").to_owned(),
        })?;
        // What the stage kept may be links to the files of the artifact, so that the seal comes last.
        scratch.remove()?;
        self.store.seal(artifact)?;
        let same = self.judgement.last.as_ref().is_some_and(|last| last.artifact == artifact);
        Ok(Outcome::Done(Done { fingerprint, artifact, same, seconds, by_other: false }))
    }

    /// The artifacts of the stages before.
    fn inputs(&self) -> Vec<Digest> {
        let parents = self.plan.parents(self.node).into_iter();
        let latest = parents.filter_map(|node| self.store.latest(&self.plan.name, &self.plan.graph[node].name));
        latest.filter_map(|fingerprint| Some(self.store.receipt(fingerprint)?.artifact)).collect()
    }

    /// The stage's scratch folder, locked; says once for whom it waits.
    fn lock(&self, cancel: &Cancel, emit: &(dyn Fn(RunEvent) + Sync)) -> Result<(Scratch, bool)> {
        let mut announced: Option<Holder> = None;
        let mut waited = false;
        loop {
            match self.store.scratch(self.judgement.fingerprint)? {
                Taken::Mine(scratch) => return Ok((scratch, waited)),
                Taken::Theirs(holder) => {
                    waited = true;
                    if let Some(holder) = holder
                        && announced.as_ref() != Some(&holder)
                    {
                        let stage = self.plan.graph[self.node].name.clone();
                        emit(RunEvent::StageWaits { stage, holder: holder.to_string() });
                        announced = Some(holder);
                    }
                }
            }
            if cancel.is_raised() {
                return Err(Error::interrupted());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
