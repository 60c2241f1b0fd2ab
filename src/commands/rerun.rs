//! `cmx rerun`: a stage and all that follows, again.

use super::Surroundings;
use crate::error::{Error, Result};

/// Run a stage and everything after it again
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    pub fn run(self, _surroundings: &Surroundings) -> Result<()> {
        Err(Error::new("`cmx rerun` is not built yet"))
    }
}
