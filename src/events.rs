//! What a worker tells its runner: one JSON object a line on a pipe.

use serde::{Deserialize, Serialize};

/// One line of the worker's pipe. The runner adds time and stage name before it passes an event on.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum WorkerEvent {
    /// `done` of `total` units of the step `label`; sent at most ten times a second per label.
    Progress { label: String, done: u64, total: Option<u64>, unit: Unit },
    /// A sentence for the log and, at `warn`, for the user.
    Message { level: Level, text: String },
    /// A named figure of the result (`tokens`, `loss`), kept in the receipt.
    Metric { name: String, value: serde_json::Value },
    /// Text that the user should see when the run ends (a table), kept in the receipt.
    Note { text: String },
    /// The stage cannot go on: the worker's last word. Told on the pipe, for the disk may be what is full.
    Failed { message: String, hint: Option<String> },
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    Info,
    Warn,
}

/// What is counted; decides how a display writes amounts and rates.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    Bytes,
    Documents,
    Tokens,
    Steps,
    Items,
}
