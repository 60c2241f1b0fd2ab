//! What a worker is told: one resolved stage, in `task.json` of its scratch folder.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A worker needs nothing else: no manifest, no graph, no store.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Task {
    pub stage: String,
    /// A built-in kind; a user's kind runs as `command`.
    pub kind: String,
    /// Resolved: every input has its absolute path.
    pub parameters: Value,
    pub threads: usize,
    /// Absolute paths.
    pub output: PathBuf,
    pub kept: PathBuf,
    pub pool: PathBuf,
}
