//! `cmx generate`: continues a text with a model folder.

use super::Surroundings;
use crate::error::{Error, Result};

/// Continue a text with a model
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    pub fn run(self, _surroundings: &Surroundings) -> Result<()> {
        Err(Error::new("`cmx generate` is not built yet"))
    }
}
