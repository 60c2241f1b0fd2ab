//! The record of a run: its events in `cache/runs/<run>.jsonl`, and one log file per stage in the folder beside it.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::RunEvent;
use crate::error::{Context, Result};
use crate::store::Store;

/// Progress is recorded once in a while; a display sees all of it.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Written from the first stage that runs: a run that does nothing leaves nothing behind.
pub struct Record<'a> {
    store: &'a Store,
    open: Option<Open>,
    /// Events before the first stage ran.
    early: Vec<String>,
    progress: HashMap<String, Instant>,
}

struct Open {
    folder: PathBuf,
    events: File,
}

impl<'a> Record<'a> {
    pub fn new(store: &'a Store) -> Self {
        Self { store, open: None, early: Vec::new(), progress: HashMap::new() }
    }

    /// A new log file for a stage.
    pub fn log(&mut self, stage: &str) -> Result<PathBuf> {
        if self.open.is_none() {
            let runs = self.store.runs();
            let name = format!("{}-{}", jiff::Zoned::now().strftime("%Y%m%d-%H%M%S"), std::process::id());
            let folder = runs.join(&name);
            self.store.create_folder(&folder)?;
            let path = runs.join(format!("{name}.jsonl"));
            let opened = OpenOptions::new().create(true).append(true).open(&path);
            let mut events = opened.context(|| format!("cannot write {}", path.display()))?;
            for line in self.early.drain(..) {
                let _ = writeln!(events, "{line}");
            }
            self.open = Some(Open { folder, events });
        }
        let folder = self.open.as_ref().map(|open| open.folder.clone()).unwrap_or_default();
        let path = log_in(&folder, stage);
        File::create(&path).context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Adds an event. The record is for reading afterwards: if the disk is full, the run itself finds out.
    pub fn write(&mut self, event: &RunEvent) {
        if let RunEvent::Progress { stage, .. } = event {
            if self.progress.get(stage).is_some_and(|last| last.elapsed() < PROGRESS_EVERY) {
                return;
            }
            self.progress.insert(stage.clone(), Instant::now());
        }
        match &mut self.open {
            Some(open) => {
                let _ = writeln!(open.events, "{}", event.to_json());
            }
            None if matches!(event, RunEvent::StageFresh { .. }) => {}
            None => self.early.push(event.to_json()),
        }
    }
}

/// The log of a stage in a run's folder.
pub fn log_in(folder: &Path, stage: &str) -> PathBuf {
    folder.join(format!("{}.log", stage.replace('/', "%2F")))
}

/// The newest log of a stage, over all runs.
pub fn newest_log(store: &Store, stage: &str) -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> =
        fs::read_dir(store.runs()).ok()?.flatten().map(|item| item.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders.iter().rev().map(|folder| log_in(folder, stage)).find(|path| path.exists())
}
