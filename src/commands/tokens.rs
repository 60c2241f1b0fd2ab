//! `cmx tokens`: tokens per dataset and split, and per mix.

use super::Surroundings;
use crate::error::{Error, Result};

/// Count the tokens of each dataset and of the training mix
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    pub fn run(self, _surroundings: &Surroundings) -> Result<()> {
        Err(Error::new("`cmx tokens` is not built yet"))
    }
}
