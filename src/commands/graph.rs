//! `cmx graph`: the graph of a pipeline as DOT or Mermaid.

use super::Surroundings;
use crate::error::{Error, Result};

/// Print the graph of a pipeline
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    pub fn run(self, _surroundings: &Surroundings) -> Result<()> {
        Err(Error::new("`cmx graph` is not built yet"))
    }
}
