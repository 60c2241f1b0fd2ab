//! Manifests and receipts → the graph, fingerprints, and why a stage is stale.

pub mod key;

use std::path::{Path, PathBuf};

use petgraph::graph::{DiGraph, NodeIndex};
use serde_json::Value;

use crate::error::Result;
use crate::store::Digest;

pub use key::Key;

/// A pipeline, resolved as far as that is possible before anything runs.
pub struct Plan {
    /// The pipeline's name.
    pub name: String,
    /// Its manifest, relative to the workspace.
    pub manifest: PathBuf,
    /// Absolute path of the workspace: the folder with `datasets.toml` and `cache/`.
    pub workspace: PathBuf,
    /// Edges run from a stage to those that use its artifact.
    pub graph: DiGraph<Node, ()>,
    /// Every stage after all it depends on; ties in the order of the manifest.
    pub order: Vec<NodeIndex>,
}

/// One stage (or one instance of a `foreach`).
#[derive(Clone, Debug)]
pub struct Node {
    /// `train`, `download[SkyPile-150B-2023]`.
    pub name: String,
    pub kind: String,
    /// The kind's revision; 0 for a user's `command` kind, whose command line is part of the key instead.
    pub revision: u32,
    /// A user's kind: the program and its arguments.
    pub command: Option<Vec<String>>,
    /// All parameters, defaults filled in, inputs as written.
    pub parameters: Value,
    pub resources: Resources,
    /// Where the view of the artifact stands, relative to the workspace: `outputs/train`, `data/books/split`.
    pub view: PathBuf,
}

/// What a running stage takes from the pools of its host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Threads; 0 means as many as there are.
    pub cpus: usize,
    /// Bytes.
    pub memory: u64,
    pub gpus: usize,
}

/// What a plan asks about the world when it resolves a stage.
pub trait Materials {
    /// The current artifact of a parent stage: its digest and absolute path. Parents are finished by then.
    fn artifact(&mut self, stage: &str) -> Result<(Digest, PathBuf)>;
    /// The digest of a part (file or folder) of an artifact, from its tree, without reading contents.
    fn part(&mut self, artifact: Digest, path: &Path) -> Result<Digest>;
    /// The digest of a source file or folder in the workspace.
    fn source(&mut self, path: &Path) -> Result<Digest>;
}

/// A stage that can be run.
#[derive(Clone, Debug)]
pub struct Resolved {
    pub key: Key,
    /// Parameters for the worker: every input in the object form of `stages::inputs`.
    pub parameters: Value,
}
