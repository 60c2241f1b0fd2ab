//! What a stage is given to work with: its folders, its threads, and a line to whoever started it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::events::{Level, Unit, WorkerEvent};

/// A stage's surroundings. It knows nothing about the graph, the store or the manifest.
pub struct Work {
    output: PathBuf,
    scratch: PathBuf,
    pool: PathBuf,
    threads: usize,
    line: Line,
    cancelled: Arc<AtomicBool>,
}

/// Where events go: the worker's pipe, or nowhere.
#[derive(Clone)]
struct Line(Arc<Mutex<Box<dyn Write + Send>>>);

impl Work {
    /// `output` is empty and becomes the artifact; `scratch` keeps what it holds between attempts; events are
    /// written to `events`, one JSON object a line; `cancelled` is raised when the stage should stop.
    pub fn new(
        output: PathBuf,
        scratch: PathBuf,
        threads: usize,
        events: Box<dyn Write + Send>,
        cancelled: Arc<AtomicBool>,
    ) -> Self {
        let pool = scratch.join("pool");
        Self { output, scratch, pool, threads, line: Line(Arc::new(Mutex::new(events))), cancelled }
    }

    /// The pool of a workspace, instead of one of the stage's own below [`Self::scratch`].
    #[must_use]
    pub fn with_pool(mut self, pool: PathBuf) -> Self {
        self.pool = pool;
        self
    }

    /// The folder that becomes the artifact: empty at the start of every attempt. What is written here must depend
    /// on parameters and inputs alone: no times, no absolute paths, nothing that varies with [`Self::threads`].
    pub fn output(&self) -> &Path {
        &self.output
    }

    /// A private folder that survives a kill: what an attempt leaves here, the next one finds. Files that are to
    /// be in the artifact are renamed or linked into [`Self::output`] at the end; linked ones are found again by the
    /// next attempt if this one is killed before its artifact is published.
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// A folder, perhaps not there yet, for files that are named by their content: every stage may use what any other
    /// left there, and all write to it at once. What is in it may go at any time, and is to be checked before use.
    pub fn pool(&self) -> &Path {
        &self.pool
    }

    /// How many threads the stage may use. Rayon's global pool has this size in the worker.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Ends the stage with an interruption if it was asked to stop; call it once per unit of work.
    pub fn check(&self) -> Result<()> {
        if self.cancelled.load(Ordering::Relaxed) { Err(Error::interrupted()) } else { Ok(()) }
    }

    /// The flag behind [`Self::check`], for loops on other threads.
    pub fn cancelled(&self) -> Arc<AtomicBool> {
        self.cancelled.clone()
    }

    /// Starts a step that counts `total` units (unknown: `None`).
    pub fn progress(&self, label: impl Into<String>, total: Option<u64>, unit: Unit) -> Progress {
        Progress::start(self.line.clone(), label.into(), total, unit)
    }

    /// A sentence for the log.
    pub fn info(&self, text: impl Into<String>) {
        self.say(Level::Info, text.into());
    }

    /// A sentence for the log and for the user.
    pub fn warn(&self, text: impl Into<String>) {
        self.say(Level::Warn, text.into());
    }

    /// A worker's standard error is the stage's log.
    fn say(&self, level: Level, text: String) {
        match level {
            Level::Info => eprintln!("{text}"),
            Level::Warn => eprintln!("warning: {text}"),
        }
        self.line.send(&WorkerEvent::Message { level, text });
    }

    /// A named figure of the result, kept in the receipt.
    pub fn metric(&self, name: impl Into<String>, value: impl Into<serde_json::Value>) {
        self.line.send(&WorkerEvent::Metric { name: name.into(), value: value.into() });
    }

    /// Text (a table) that the user should see when the run ends, kept in the receipt.
    pub fn note(&self, text: impl Into<String>) {
        self.line.send(&WorkerEvent::Note { text: text.into() });
    }
}

impl Line {
    /// A reader that went away is no reason to fail the stage: the runner's death is noticed elsewhere.
    fn send(&self, event: &WorkerEvent) {
        if let (Ok(mut out), Ok(mut text)) = (self.0.lock(), serde_json::to_vec(event)) {
            text.push(b'\n');
            let _ = out.write_all(&text).and_then(|()| out.flush());
        }
    }
}

/// A counter that others may watch; cheap enough to be raised per document, from any thread.
#[derive(Clone)]
pub struct Progress(Arc<Counter>);

struct Counter {
    line: Line,
    label: String,
    total: Option<u64>,
    unit: Unit,
    done: std::sync::atomic::AtomicU64,
    last_sent: Mutex<Instant>,
}

impl Progress {
    const INTERVAL: Duration = Duration::from_millis(100);

    fn start(line: Line, label: String, total: Option<u64>, unit: Unit) -> Self {
        let counter = Counter { line, label, total, unit, done: 0.into(), last_sent: Mutex::new(Instant::now()) };
        let progress = Self(Arc::new(counter));
        progress.send();
        progress
    }

    /// `amount` more units are done.
    pub fn add(&self, amount: u64) {
        self.0.done.fetch_add(amount, Ordering::Relaxed);
        self.send_if_due();
    }

    /// `done` units are done in all.
    pub fn set(&self, done: u64) {
        self.0.done.store(done, Ordering::Relaxed);
        self.send_if_due();
    }

    /// The last word of this counter.
    pub fn finish(&self) {
        self.send();
    }

    fn send_if_due(&self) {
        if let Ok(mut last) = self.0.last_sent.try_lock()
            && last.elapsed() >= Self::INTERVAL
        {
            *last = Instant::now();
            drop(last);
            self.send();
        }
    }

    fn send(&self) {
        let counter = &self.0;
        counter.line.send(&WorkerEvent::Progress {
            label: counter.label.clone(),
            done: counter.done.load(Ordering::Relaxed),
            total: counter.total,
            unit: counter.unit,
        });
    }
}
