//! `cmx plan`: what would run, in which order, and why.

use super::Surroundings;
use crate::error::{Error, Result};

/// Show what would run, in which order, and why
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    pub fn run(self, _surroundings: &Surroundings) -> Result<()> {
        Err(Error::new("`cmx plan` is not built yet"))
    }
}
