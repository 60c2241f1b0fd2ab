//! `cmx logs`: the log of a stage.

use super::Surroundings;
use crate::error::{Error, Result};

/// Print the log of a stage's last attempt
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    pub fn run(self, _surroundings: &Surroundings) -> Result<()> {
        Err(Error::new("`cmx logs` is not built yet"))
    }
}
