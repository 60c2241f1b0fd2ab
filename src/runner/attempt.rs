//! One attempt at a stage: a worker process, its events, its end.
//!
//! The worker is `cmx work <scratch>`, leader of a process group of its own. It inherits the lock of its scratch
//! folder, so that the folder stays locked until the last process of the attempt is gone, even if the runner is
//! killed; a pipe to its standard input carries the wish to stop, and the pipe's end tells it that the runner died.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

use super::cancel::Cancel;
use super::{RunEvent, Task};
use crate::error::{Context, Error, ExitCode, Result};
use crate::events::WorkerEvent;
use crate::store::Scratch;

/// Lines of a log that are shown with a failure.
const TAIL: usize = 12;

pub struct Attempt {
    pub ending: Ending,
    pub metrics: BTreeMap<String, Value>,
    pub notes: Vec<String>,
}

pub enum Ending {
    Finished,
    Interrupted,
    Failed { message: String, hint: Option<String>, tail: Vec<String> },
}

/// Runs a task in its scratch folder. An error means that no worker could be started or heard.
pub fn attempt(
    workspace: &Path,
    scratch: &Scratch,
    task: &Task,
    log: &Path,
    cancel: &Cancel,
    emit: &(dyn Fn(RunEvent) + Sync),
) -> Result<Attempt> {
    let path = scratch.folder().join("task.json");
    let text = serde_json::to_vec_pretty(task).context(|| format!("cannot write {}", path.display()))?;
    fs::write(&path, text).context(|| format!("cannot write {}", path.display()))?;

    let mut child = start(workspace, scratch, task, log)?;
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(Error::new("the worker has no pipes"));
    };
    let mut metrics = BTreeMap::new();
    let mut notes = Vec::new();
    let mut report = None;
    let ended = AtomicBool::new(false);
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let status = std::thread::scope(|scope| {
        scope.spawn(|| watch(stdin, group, cancel, &ended));
        for line in BufReader::new(stdout).lines().map_while(|line| line.ok()) {
            let Ok(event) = serde_json::from_str::<WorkerEvent>(&line) else { continue };
            match &event {
                WorkerEvent::Metric { name, value } => {
                    metrics.insert(name.clone(), value.clone());
                }
                WorkerEvent::Note { text } => notes.push(text.clone()),
                // Told when the worker has ended, with its log.
                WorkerEvent::Failed { message, hint } => {
                    report = Some((message.clone(), hint.clone()));
                    continue;
                }
                _ => {}
            }
            emit(RunEvent::of(&task.stage, event));
        }
        let status = child.wait();
        ended.store(true, Ordering::SeqCst);
        status
    });
    // What the worker started and did not stop.
    if let Some(group) = group {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let status = status.context(|| "cannot wait for the worker".to_owned())?;
    let ending = ending(status, report, log, cancel);
    Ok(Attempt { ending, metrics, notes })
}

/// Held while a lock is inheritable, so that no other worker is started with it.
static STARTING: Mutex<()> = Mutex::new(());

fn start(workspace: &Path, scratch: &Scratch, task: &Task, log: &Path) -> Result<Child> {
    let program = std::env::current_exe().context(|| "cannot find the cmx program".to_owned())?;
    let log = File::options().append(true).open(log).context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new(&program);
    command
        .arg("work")
        .arg(scratch.folder())
        .current_dir(workspace)
        .env("RAYON_NUM_THREADS", task.threads.to_string())
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0);
    let _alone = STARTING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let inherit = |flags| fcntl_setfd(scratch.lock(), flags).context(|| "cannot hand on the lock".to_owned());
    inherit(FdFlags::empty())?;
    let child = command.spawn().context(|| format!("cannot start {}", program.display()));
    inherit(FdFlags::CLOEXEC)?;
    child
}

/// Passes the user's wish to stop on to the worker: first as a word, then as an end.
fn watch(mut stdin: ChildStdin, group: Option<Pid>, cancel: &Cancel, ended: &AtomicBool) {
    let mut asked = false;
    while !ended.load(Ordering::SeqCst) {
        if cancel.is_raised() && !asked {
            asked = true;
            let _ = stdin.write_all(b"stop\n").and_then(|()| stdin.flush());
        }
        if cancel.is_urgent()
            && let Some(group) = group
        {
            let _ = kill_process_group(group, Signal::KILL);
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn ending(status: ExitStatus, report: Option<(String, Option<String>)>, log: &Path, cancel: &Cancel) -> Ending {
    if status.success() {
        return Ending::Finished;
    }
    if status.code() == Some(ExitCode::Interrupted as i32) || cancel.is_urgent() {
        return Ending::Interrupted;
    }
    if let Some((message, hint)) = report {
        return Ending::Failed { message, hint, tail: Vec::new() };
    }
    let (message, hint) = match (status.signal(), status.code()) {
        (Some(9), _) => (
            "the stage was killed (signal 9)".to_owned(),
            Some("if nobody did that, memory ran out: `dmesg` tells; run again to continue".to_owned()),
        ),
        (Some(signal), _) => (format!("the stage was ended by signal {signal}"), None),
        (None, Some(101)) => {
            ("the stage crashed: this is a bug in cmx".to_owned(), Some("please report it with the log".to_owned()))
        }
        (None, code) => (format!("the stage ended with exit code {}", code.unwrap_or(-1)), None),
    };
    Ending::Failed { message, hint, tail: tail(log) }
}

/// The last lines of a log.
fn tail(log: &Path) -> Vec<String> {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL)..].iter().map(|line| (*line).to_owned()).collect()
}
