//! What happens in a run: the one stream that displays, logs and the record of the run listen to.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::events::{Level, Unit, WorkerEvent};
use crate::store::Digest;

/// One line of `--log-format json` and of `cache/runs/<run>.jsonl`; both add `time` (RFC 3339) in front.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum RunEvent {
    RunStarted {
        pipeline: String,
        stages: usize,
    },
    /// Nothing to do for this stage.
    StageFresh {
        stage: String,
        artifact: Digest,
    },
    StageStarted {
        stage: String,
        why: Vec<String>,
        log: PathBuf,
    },
    /// Another process works on the very same thing.
    StageWaits {
        stage: String,
        holder: String,
    },
    /// `same`: the artifact is the one that the stage had before, so that nothing after it has to run.
    StageFinished {
        stage: String,
        artifact: Digest,
        seconds: f64,
        same: bool,
    },
    StageInterrupted {
        stage: String,
    },
    StageFailed {
        stage: String,
        message: String,
        hint: Option<String>,
        log: Option<PathBuf>,
        tail: Vec<String>,
    },
    /// An altered artifact was set aside and will be made again.
    Quarantined {
        stage: String,
        path: PathBuf,
        differences: Vec<String>,
    },
    Progress {
        stage: String,
        label: String,
        done: u64,
        total: Option<u64>,
        unit: Unit,
    },
    Message {
        stage: String,
        level: Level,
        text: String,
    },
    Metric {
        stage: String,
        name: String,
        value: Value,
    },
    Note {
        stage: String,
        text: String,
    },
    RunEnded {
        ran: usize,
        fresh: usize,
        failed: usize,
        left: usize,
        interrupted: bool,
        seconds: f64,
    },
}

impl RunEvent {
    /// A worker's event, with the name of its stage.
    pub fn of(stage: &str, event: WorkerEvent) -> Self {
        let stage = stage.to_owned();
        match event {
            WorkerEvent::Progress { label, done, total, unit } => {
                Self::Progress { stage, label, done, total, unit }
            }
            WorkerEvent::Message { level, text } => Self::Message { stage, level, text },
            WorkerEvent::Metric { name, value } => Self::Metric { stage, name, value },
            WorkerEvent::Note { text } => Self::Note { stage, text },
            WorkerEvent::Failed { message, hint } => {
                Self::StageFailed { stage, message, hint, log: None, tail: Vec::new() }
            }
        }
    }

    /// As one JSON object, `time` first.
    pub fn to_json(&self) -> String {
        let mut line = serde_json::Map::new();
        line.insert("time".to_owned(), jiff::Timestamp::now().to_string().into());
        if let Ok(Value::Object(event)) = serde_json::to_value(self) {
            line.extend(event);
        }
        Value::Object(line).to_string()
    }
}
