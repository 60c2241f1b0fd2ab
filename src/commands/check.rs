//! `cmx check`: reads a pipeline and everything it names, and runs nothing.

use super::Surroundings;
use crate::error::{Error, Result};

/// Check a pipeline and everything it names, without running anything
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    pub fn run(self, _surroundings: &Surroundings) -> Result<()> {
        Err(Error::new("`cmx check` is not built yet"))
    }
}
