//! `cmx check`: reads a pipeline and everything it names, and runs nothing.

use std::path::PathBuf;

use super::Surroundings;
use crate::error::Result;
use crate::plan::Plan;
use crate::runner::display::counted;

/// Check a pipeline and everything it names, without running anything
#[derive(clap::Args)]
pub struct Args {
    /// The pipelines' manifests
    #[arg(required = true, value_name = "PIPELINE")]
    pipelines: Vec<PathBuf>,
}

impl Args {
    pub fn run(self, surroundings: &Surroundings) -> Result<()> {
        let workspace = surroundings.workspace()?;
        for manifest in &self.pipelines {
            let plan = Plan::load(&workspace, manifest)?;
            println!("{}: {}, ok", manifest.display(), counted(plan.order.len() as u64, "stage"));
        }
        Ok(())
    }
}
