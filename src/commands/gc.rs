//! `cmx gc`: artifacts that nothing refers to.

use super::Surroundings;
use crate::error::{Error, Result};

/// Show, and then delete, artifacts that no pipeline uses
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    pub fn run(self, _surroundings: &Surroundings) -> Result<()> {
        Err(Error::new("`cmx gc` is not built yet"))
    }
}
