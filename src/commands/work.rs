//! `cmx work`: the worker: runs one resolved stage in its scratch folder.

use std::fs;
use std::io::BufRead;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Surroundings;
use crate::error::{Context, Error, Result, nearest};
use crate::events::WorkerEvent;
use crate::runner::Task;
use crate::stages::{KINDS, Names, Work, kind};
use crate::store::advise_on_space;

/// Run one resolved stage (used by the runner)
#[derive(clap::Args)]
#[command(hide = true)]
pub struct Args {
    /// The scratch folder, which holds `task.json`
    folder: PathBuf,
}

impl Args {
    pub fn run(self, _surroundings: &Surroundings) -> Result<()> {
        let task = self.task();
        // The runner starts its workers in the workspace.
        let names = match (&task, std::env::current_dir()) {
            (Ok(task), Ok(workspace)) => Names::of(&task.parameters, &workspace),
            _ => Names::default(),
        };
        let result = task.and_then(work).map_err(advise_on_space);
        if let Err(error) = &result
            && !error.is_interruption()
        {
            let event = WorkerEvent::Failed {
                message: names.fill(&error.one_line()),
                hint: error.advice().map(|hint| names.fill(hint)),
            };
            let text = serde_json::to_string(&event).context(|| "cannot tell the runner".to_owned())?;
            println!("{text}");
        }
        result
    }

    fn task(&self) -> Result<Task> {
        let path = self.folder.join("task.json");
        let text = fs::read(&path).context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).context(|| format!("{} is damaged", path.display()))
    }
}

fn work(task: Task) -> Result<()> {
    let Some(kind) = kind(&task.kind) else {
        let error = Error::invalid(format!("there is no kind `{}`", task.kind));
        let near = nearest(&task.kind, KINDS.iter().map(|kind| kind.name));
        return Err(match near {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error,
        });
    };
    rayon::ThreadPoolBuilder::new()
        .num_threads(task.threads)
        .build_global()
        .context(|| "cannot start the worker's threads".to_owned())?;
    let cancelled = Arc::new(AtomicBool::new(false));
    listen(cancelled.clone());
    let events = Box::new(std::io::stdout());
    let mut work = Work::new(task.output, task.kept, task.threads, events, cancelled).with_pool(task.pool);
    kind.run(task.parameters, &mut work)
}

/// Listens to the runner: a line is the wish to stop; the end of the pipe means that the runner is gone, and with it
/// the reason to go on.
fn listen(cancelled: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if line.is_err() {
                break;
            }
            cancelled.store(true, Ordering::SeqCst);
        }
        // The whole group, so that a user's program ends too.
        let _ = rustix::process::kill_current_process_group(rustix::process::Signal::KILL);
        std::process::exit(1);
    });
}
