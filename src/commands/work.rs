//! `cmx work`: the worker: runs one resolved stage in its scratch folder.

use super::Surroundings;
use crate::error::{Error, Result};

/// Run one resolved stage (used by the runner)
#[derive(clap::Args)]
#[command(hide = true)]
pub struct Args {}

impl Args {
    pub fn run(self, _surroundings: &Surroundings) -> Result<()> {
        Err(Error::new("`cmx work` is not built yet"))
    }
}
