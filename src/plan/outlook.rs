//! A stage before it can be resolved: its parameters without paths, and where its inputs will come from.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::bind::{Location, Origin as Bound};
use super::{Node, Plan, check};

/// Where an input comes from.
pub enum Origin<'a> {
    /// The artifact of a stage, or a part of it.
    Stage(&'a Node, Option<&'a Path>),
    /// Absolute path of a file or folder.
    Source(PathBuf),
}

impl Plan {
    /// The parameters of a stage as its kind reads them; inputs are known by name only.
    pub fn unresolved(&self, stage: &Node) -> Value {
        check::unresolved(&stage.parameters, &stage.inputs)
    }

    /// Where the model, tokenizer or file that a stage calls so comes from.
    pub fn origin<'a>(&'a self, stage: &'a Node, written: &str) -> Option<Origin<'a>> {
        let bound = stage.inputs.iter().find(|bound| bound.written == written)?;
        match &bound.origin {
            Bound::Input(Location::Artifact { stage, part }) => {
                Some(Origin::Stage(&self.graph[*stage], part.as_deref()))
            }
            Bound::Input(Location::Source(path)) => Some(Origin::Source(self.workspace.join(path))),
            _ => None,
        }
    }
}
