//! `cmx schema`: the JSON Schema of pipelines, for editors.

use super::Surroundings;
use crate::error::{Error, Result};

/// Print the JSON Schema of pipelines
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    pub fn run(self, _surroundings: &Surroundings) -> Result<()> {
        Err(Error::new("`cmx schema` is not built yet"))
    }
}
