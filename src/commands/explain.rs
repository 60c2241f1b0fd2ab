//! `cmx explain`: why a stage would run, item by item.

use super::Surroundings;
use crate::error::{Error, Result};

/// Say why a stage would run: what changed, from what to what
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    pub fn run(self, _surroundings: &Surroundings) -> Result<()> {
        Err(Error::new("`cmx explain` is not built yet"))
    }
}
