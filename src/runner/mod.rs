//! A plan → artifacts: scheduler, worker processes, events, displays.
//!
//! One dispatcher owns the state of every stage. Stages run on threads of their own, each with its worker process,
//! and speak to the dispatcher by messages only; displays and the record of the run listen to the same stream.

mod assess;
mod attempt;
pub mod cancel;
pub mod display;
mod event;
mod pools;
mod record;
mod stage;
mod task;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use petgraph::graph::NodeIndex;

use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::store::{Digest, Store};

pub use assess::{Assessment, Explanation, State, assess, explain};
pub use event::RunEvent;
pub use pools::memory as host_memory;
pub use record::newest_log;
pub use task::Task;

use assess::{Verdict, World};
use cancel::Cancel;
use display::Display;
use pools::Pools;
use record::Record;
use stage::{Done, Outcome};

/// How a run is to go.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// At most so many stages at once; as many as the pools allow when absent.
    pub jobs: Option<usize>,
    /// Threads in all; every core when absent.
    pub cpus: Option<usize>,
    /// After a failure go on with the stages that do not depend on it.
    pub keep_going: bool,
    /// Run only these and what they depend on; everything when absent.
    pub only: Option<BTreeSet<NodeIndex>>,
    /// Run these even if they are fresh.
    pub force: BTreeSet<NodeIndex>,
}

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub ran: usize,
    pub fresh: usize,
    pub failed: Vec<String>,
    /// Not started, because a stage before them failed or the run was interrupted.
    pub left: usize,
    pub interrupted: bool,
    /// Notes of the final stages, when anything ran: stage, text.
    pub notes: Vec<(String, String)>,
    /// Views of the final stages: stage, path relative to the workspace.
    pub views: Vec<(String, PathBuf)>,
}

/// Where a stage stands in a run.
///
/// ```text
/// Waiting ──parents done──▶ Fresh                       (a receipt with this key, its artifact whole)
///    │          └─────────▶ Ready ──pools──▶ Running ──▶ Done
///    │                                          └──────▶ Failed
///    └──a parent failed, or the run is ending──────────▶ Left
/// ```
enum Stand {
    /// Some parent is not done.
    Waiting,
    /// Judged stale; waits for room in the pools. Boxed: the key is large.
    Ready(Box<assess::Judgement>),
    Running,
    /// Fresh, or made so by this run.
    Done,
    Failed,
    /// Will not run in this run.
    Left,
}

/// What stage threads tell the dispatcher.
enum Message {
    Event(RunEvent),
    Finished(NodeIndex, Outcome),
}

/// Brings a plan's stages up to date.
///
/// # Errors
/// Only what makes the run as a whole impossible; a failed stage is part of the summary.
pub fn run(
    plan: &Plan,
    store: &Store,
    options: &Options,
    display: &mut dyn Display,
    cancel: &Cancel,
) -> Result<Summary> {
    let mut dispatcher = Dispatcher {
        plan,
        store,
        options,
        display,
        record: Record::new(store),
        world: World::new(plan, store),
        pools: Pools::new(options.cpus, options.jobs)?,
        stands: plan.order.iter().map(|&node| (node, Stand::Waiting)).collect(),
        summary: Summary::default(),
        ran: BTreeSet::new(),
    };
    if let Some(only) = &options.only {
        dispatcher.stands.retain(|node, _| only.contains(node));
    }
    let started = Instant::now();
    dispatcher.emit(RunEvent::RunStarted { pipeline: plan.name.clone(), stages: dispatcher.stands.len() });
    let result = dispatcher.dispatch(cancel);
    store.flush();
    dispatcher.finish(started.elapsed(), cancel);
    result.map(|()| dispatcher.summary)
}

struct Dispatcher<'a> {
    plan: &'a Plan,
    store: &'a Store,
    options: &'a Options,
    display: &'a mut dyn Display,
    record: Record<'a>,
    world: World<'a>,
    pools: Pools,
    stands: HashMap<NodeIndex, Stand>,
    summary: Summary,
    ran: BTreeSet<NodeIndex>,
}

impl<'a> Dispatcher<'a> {
    fn dispatch(&mut self, cancel: &Cancel) -> Result<()> {
        let (sender, receiver) = mpsc::channel();
        std::thread::scope(|scope| {
            let mut running = 0;
            loop {
                let ending = cancel.is_raised() || (!self.options.keep_going && !self.summary.failed.is_empty());
                if !ending {
                    self.judge_waiting()?;
                    for node in self.ready() {
                        let resources = self.plan.graph[node].resources;
                        let Some(share) = self.pools.take(&self.plan.graph[node].name, resources)? else {
                            continue;
                        };
                        let Some(Stand::Ready(judgement)) = self.stands.insert(node, Stand::Running) else {
                            continue;
                        };
                        let name = self.plan.graph[node].name.clone();
                        let log = self.record.log(&name)?;
                        let log_relative = log.strip_prefix(self.store.workspace()).unwrap_or(&log).to_owned();
                        self.emit(RunEvent::StageStarted {
                            stage: name,
                            why: judgement.why.clone(),
                            log: log_relative,
                        });
                        let job = stage::Job {
                            plan: self.plan,
                            store: self.store,
                            node,
                            judgement: *judgement,
                            forced: self.options.force.contains(&node),
                            threads: share.threads,
                            log,
                        };
                        let sender = sender.clone();
                        scope.spawn(move || {
                            let events = sender.clone();
                            let outcome = job.run(cancel, &move |event| {
                                // The dispatcher listens until every stage has finished.
                                let _ = events.send(Message::Event(event));
                            });
                            let _ = sender.send(Message::Finished(node, outcome));
                        });
                        self.pools.started(node, share);
                        running += 1;
                    }
                }
                if running == 0 {
                    return Ok(());
                }
                match receiver.recv_timeout(Duration::from_millis(100)) {
                    Ok(Message::Event(event)) => self.emit(event),
                    Ok(Message::Finished(node, outcome)) => {
                        running -= 1;
                        self.pools.finished(node);
                        self.finished(node, outcome)?;
                    }
                    Err(RecvTimeoutError::Timeout) => self.display.tick(),
                    Err(RecvTimeoutError::Disconnected) => {
                        return Err(Error::new("a stage's thread ended unheard"));
                    }
                }
            }
        })
    }

    /// Moves every stage whose parents are done to `Done` or `Ready`.
    fn judge_waiting(&mut self) -> Result<()> {
        for &node in &self.plan.order {
            if !matches!(self.stands.get(&node), Some(Stand::Waiting)) {
                continue;
            }
            let parents = self.plan.parents(node);
            if parents.iter().any(|parent| matches!(self.stands.get(parent), Some(Stand::Failed | Stand::Left))) {
                self.stands.insert(node, Stand::Left);
                continue;
            }
            if !parents.iter().all(|parent| matches!(self.stands.get(parent), Some(Stand::Done))) {
                continue;
            }
            let name = self.plan.graph[node].name.clone();
            let judgement = match self.world.judge(node) {
                Ok(judgement) => judgement,
                Err(error) => {
                    self.fail(node, error.one_line(), error.advice().map(str::to_owned), None);
                    continue;
                }
            };
            match judgement.verdict {
                Verdict::Fresh(ref receipt) if !self.options.force.contains(&node) => {
                    let artifact = receipt.artifact;
                    self.accept(node, &judgement.fingerprint, artifact)?;
                    self.summary.fresh += 1;
                    self.emit(RunEvent::StageFresh { stage: name, artifact });
                }
                _ => {
                    if let Verdict::Altered(artifact, differences) = &judgement.verdict {
                        let quarantined = self.store.quarantine(*artifact, differences.clone())?;
                        self.emit(RunEvent::Quarantined {
                            stage: name,
                            path: quarantined.path,
                            differences: quarantined.differences,
                        });
                    }
                    self.stands.insert(node, Stand::Ready(Box::new(judgement)));
                }
            }
        }
        Ok(())
    }

    fn ready(&self) -> Vec<NodeIndex> {
        let ready = |node: &&NodeIndex| matches!(self.stands.get(node), Some(Stand::Ready(_)));
        self.plan.order.iter().filter(ready).copied().collect()
    }

    /// The stage stands at `artifact` now, by this run or an earlier one.
    fn accept(&mut self, node: NodeIndex, fingerprint: &Digest, artifact: Digest) -> Result<()> {
        let stage = &self.plan.graph[node];
        self.world.set_artifact(&stage.name, artifact);
        self.store.set_latest(&self.plan.name, &stage.name, *fingerprint)?;
        self.store.set_view(&stage.view, artifact)?;
        self.store.record_use(artifact);
        self.stands.insert(node, Stand::Done);
        Ok(())
    }

    fn finished(&mut self, node: NodeIndex, outcome: Outcome) -> Result<()> {
        let name = self.plan.graph[node].name.clone();
        match outcome {
            Outcome::Done(Done { fingerprint, artifact, same, seconds, by_other }) => {
                self.accept(node, &fingerprint, artifact)?;
                if by_other {
                    self.summary.fresh += 1;
                    self.emit(RunEvent::StageFresh { stage: name, artifact });
                } else {
                    self.summary.ran += 1;
                    self.ran.insert(node);
                    self.emit(RunEvent::StageFinished { stage: name, artifact, seconds, same });
                }
                // A run of days should not lose what it learnt to a power cut.
                self.store.flush();
            }
            Outcome::Interrupted => {
                self.stands.insert(node, Stand::Left);
                self.emit(RunEvent::StageInterrupted { stage: name });
            }
            Outcome::Failed { message, hint, log, tail } => self.fail(node, message, hint, Some((log, tail))),
        }
        Ok(())
    }

    fn fail(
        &mut self,
        node: NodeIndex,
        message: String,
        hint: Option<String>,
        log: Option<(PathBuf, Vec<String>)>,
    ) {
        let stage = self.plan.graph[node].name.clone();
        self.stands.insert(node, Stand::Failed);
        self.summary.failed.push(stage.clone());
        let (log, tail) = log.map_or((None, Vec::new()), |(log, tail)| (Some(log), tail));
        self.emit(RunEvent::StageFailed { stage, message, hint, log, tail });
    }

    fn finish(&mut self, elapsed: Duration, cancel: &Cancel) {
        let open = |stand: &&Stand| matches!(stand, Stand::Waiting | Stand::Ready(_) | Stand::Left);
        self.summary.left = self.stands.values().filter(open).count();
        self.summary.interrupted = cancel.is_raised();
        for &node in &self.plan.order {
            let stage = &self.plan.graph[node];
            let is_final = self.plan.graph.neighbors(node).next().is_none();
            if !is_final || !matches!(self.stands.get(&node), Some(Stand::Done)) {
                continue;
            }
            self.summary.views.push((stage.name.clone(), stage.view.clone()));
            if self.ran.contains(&node) {
                let receipt = self.store.latest(&self.plan.name, &stage.name).and_then(|f| self.store.receipt(f));
                let notes = receipt.map(|receipt| receipt.notes).unwrap_or_default();
                self.summary.notes.extend(notes.into_iter().map(|note| (stage.name.clone(), note)));
            }
        }
        self.emit(RunEvent::RunEnded {
            ran: self.summary.ran,
            fresh: self.summary.fresh,
            failed: self.summary.failed.len(),
            left: self.summary.left,
            interrupted: self.summary.interrupted,
            seconds: elapsed.as_secs_f64(),
        });
        self.display.end();
    }

    fn emit(&mut self, event: RunEvent) {
        self.record.write(&event);
        self.display.event(&event);
    }
}
