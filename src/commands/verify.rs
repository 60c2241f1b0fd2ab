//! `cmx verify`: reads every artifact again and compares its digest.

use super::Surroundings;
use crate::error::{Error, Result};

/// Read every artifact again and compare it with its digest
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    pub fn run(self, _surroundings: &Surroundings) -> Result<()> {
        Err(Error::new("`cmx verify` is not built yet"))
    }
}
