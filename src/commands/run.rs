//! `cmx run`: brings a pipeline up to date.

use super::Surroundings;
use crate::error::{Error, Result};

/// Run what is not up to date
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    pub fn run(self, _surroundings: &Surroundings) -> Result<()> {
        Err(Error::new("`cmx run` is not built yet"))
    }
}
