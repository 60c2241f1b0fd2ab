//! `cmx schema`: the JSON Schema of pipelines and of the registry, for editors.

use super::{Surroundings, print_json};
use crate::error::Result;
use crate::manifest::{pipeline_schema, registry_schema};
use crate::plan::kind_schemas;
use crate::stages::KINDS;

/// Print the JSON Schema of pipelines, for editors
#[derive(clap::Args)]
pub struct Args {
    /// Print the schema of `datasets.toml` instead
    #[arg(long)]
    registry: bool,
}

impl Args {
    pub fn run(self, surroundings: &Surroundings) -> Result<()> {
        if self.registry {
            return print_json(&registry_schema());
        }
        print_json(&pipeline_schema(&kind_schemas(KINDS, &surroundings.workspace()?)?))
    }
}
