//! `cmx init`: a new project folder.

use super::Surroundings;
use crate::error::{Error, Result};

/// Make a new project folder
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    pub fn run(self, _surroundings: &Surroundings) -> Result<()> {
        Err(Error::new("`cmx init` is not built yet"))
    }
}
