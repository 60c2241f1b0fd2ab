//! `cmx status`: every stage of a pipeline: fresh, stale, running, failed.

use super::Surroundings;
use crate::error::{Error, Result};

/// Show every stage of a pipeline
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    pub fn run(self, _surroundings: &Surroundings) -> Result<()> {
        Err(Error::new("`cmx status` is not built yet"))
    }
}
