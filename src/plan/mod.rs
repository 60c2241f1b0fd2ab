//! Manifests and receipts → the graph, fingerprints, and why a stage is stale.

mod bind;
mod check;
mod diff;
pub mod key;
mod kinds;
mod load;
mod order;
mod outlook;
mod resolve;
mod workspace;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use petgraph::Direction::{Incoming, Outgoing};
use petgraph::graph::{DiGraph, NodeIndex};
use serde_json::Value;

use crate::corpus::mix::Amount;
use crate::error::{Error, Result};
use crate::manifest::with_suggestion;
use crate::stages::Form;
use crate::store::Digest;

use bind::{Bound, Origin};
pub use diff::Change;
pub use key::Key;
pub use kinds::kind_schemas;
pub(crate) use kinds::{KindSpec, Kinds};
pub use load::{manifests_in, pipeline_name, registry};
pub use outlook::Origin as InputOrigin;
pub use workspace::{CACHE, REGISTRY, find_workspace};

/// A pipeline, resolved as far as that is possible before anything runs.
pub struct Plan {
    /// The pipeline's name.
    pub name: String,
    pub description: Option<String>,
    /// Its manifest, relative to the workspace (absolute if it lies outside).
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
    /// The name without the instance: `download`.
    pub stage: String,
    pub kind: String,
    /// The kind's revision; 0 for a user's `command` kind, whose command line is part of the key instead.
    pub revision: u32,
    /// A user's kind: its program and arguments.
    pub command: Option<CommandLine>,
    /// All parameters, defaults filled in, inputs as written.
    pub parameters: Value,
    pub resources: Resources,
    /// Absolute path of a `config.json`: the model that the stage will bring. No part of the key.
    pub expect: Option<PathBuf>,
    /// Where the view of the artifact stands, relative to the workspace: `outputs/train`, `outputs/split-books`.
    pub view: PathBuf,
    /// The dataset and the form of it that the stage provides.
    pub provides: Option<(String, Form)>,
    /// What the inputs in `parameters` mean.
    pub(crate) inputs: Vec<Bound>,
}

/// The command line of a user's kind.
#[derive(Clone, Debug)]
pub struct CommandLine {
    /// As its manifest has it: what counts in the key, beside the parameters.
    pub written: Vec<String>,
    /// Parameters filled in; `{input}`, `{output}`, `{scratch}` and `{threads}` are left to the worker.
    pub filled: Vec<String>,
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

/// A share of a training mix, and where its dataset comes from.
pub struct Share<'a> {
    /// As written: `0.1:SkyPile-150B-2023`.
    pub written: &'a str,
    pub amount: Amount,
    pub dataset: &'a str,
    /// Split → name of its folder of token blocks.
    pub encoded: &'a BTreeMap<String, String>,
    /// Where the folders are if no stage provides them.
    pub root: &'a Path,
    pub provider: Option<&'a Node>,
}

/// What a plan asks about the world when it resolves a stage.
pub trait Materials {
    /// The current artifact of a parent stage: its digest and absolute path. Parents are finished by then.
    fn artifact(&mut self, stage: &str) -> Result<(Digest, PathBuf)>;
    /// The digest of a part (file or folder) of an artifact, from its tree, without reading contents.
    fn part(&mut self, artifact: Digest, path: &Path) -> Result<Digest>;
    /// The digest of a source file or folder: an absolute path in the workspace or under the root of a registered
    /// dataset.
    fn source(&mut self, path: &Path) -> Result<Digest>;
}

/// A stage that can be run.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The built-in kind that the worker runs: the stage's own, or `command` for a user's kind.
    pub kind: String,
    pub key: Key,
    /// Parameters for the worker: every input in the object form of `stages::inputs`.
    pub parameters: Value,
}

impl Plan {
    /// The stage of that name (`train`, `download[books]`).
    pub fn node(&self, name: &str) -> Result<NodeIndex> {
        let found = self.graph.node_indices().find(|node| self.graph[*node].name == name);
        found.ok_or_else(|| self.unknown_stage(name))
    }

    /// The stages whose artifacts a stage uses, in the order of the plan.
    pub fn parents(&self, node: NodeIndex) -> Vec<NodeIndex> {
        let parents: Vec<NodeIndex> = self.graph.neighbors_directed(node, Incoming).collect();
        self.order.iter().copied().filter(|node| parents.contains(node)).collect()
    }

    /// The shares of a stage that trains on a mix, in order.
    pub fn shares<'a>(&'a self, stage: &'a Node) -> impl Iterator<Item = Share<'a>> {
        stage.inputs.iter().filter_map(|bound| match &bound.origin {
            Origin::Share { amount, dataset } => Some(Share {
                written: &bound.written,
                amount: *amount,
                dataset: &dataset.entry.name,
                encoded: &dataset.entry.encoded,
                root: &dataset.entry.root,
                provider: dataset.provider.map(|node| &self.graph[node]),
            }),
            _ => None,
        })
    }

    /// The stage of that name, or all instances of a `foreach` stage.
    pub fn stages_named(&self, name: &str) -> Result<Vec<NodeIndex>> {
        let is_named = |node: &NodeIndex| self.graph[*node].name == name || self.graph[*node].stage == name;
        let found: Vec<NodeIndex> = self.graph.node_indices().filter(is_named).collect();
        if found.is_empty() { Err(self.unknown_stage(name)) } else { Ok(found) }
    }

    /// The same, and everything after, in the order of the plan.
    pub fn from_stage(&self, name: &str) -> Result<Vec<NodeIndex>> {
        let mut reached = vec![false; self.graph.node_count()];
        for node in self.stages_named(name)? {
            reached[node.index()] = true;
        }
        for node in &self.order {
            if reached[node.index()] {
                for child in self.graph.neighbors_directed(*node, Outgoing) {
                    reached[child.index()] = true;
                }
            }
        }
        Ok(self.order.iter().copied().filter(|node| reached[node.index()]).collect())
    }

    fn unknown_stage(&self, name: &str) -> Error {
        let instances = self.graph.node_weights().filter(|node| node.stage == name);
        let instances: Vec<&str> = instances.map(|node| node.name.as_str()).collect();
        if !instances.is_empty() {
            return Error::invalid(format!("`{name}` is {} stages of pipeline `{}`", instances.len(), self.name))
                .hint(format!("name one of them: {}", instances.join(", ")));
        }
        let error = Error::invalid(format!("pipeline `{}` has no stage `{name}`", self.name));
        let mut names: Vec<&str> = Vec::new();
        for node in self.graph.node_weights() {
            names.push(&node.name);
            if node.stage != node.name && !names.contains(&node.stage.as_str()) {
                names.push(&node.stage);
            }
        }
        with_suggestion(error, name, names, "its stages are")
    }
}
