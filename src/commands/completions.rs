//! `cmx completions`: completion scripts for shells.

use super::Surroundings;
use crate::error::{Error, Result};

/// Print a completion script for a shell
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    pub fn run(self, _surroundings: &Surroundings) -> Result<()> {
        Err(Error::new("`cmx completions` is not built yet"))
    }
}
