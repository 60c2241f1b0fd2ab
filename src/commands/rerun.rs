//! `cmx rerun --from STAGE`: a stage and all that follows again, nothing before it.

use std::path::PathBuf;

use super::{Surroundings, project, run::How};
use crate::error::Result;

/// Run a stage and all that follows again
#[derive(clap::Args)]
pub struct Args {
    /// The pipeline's manifest; the last one run when left out
    pipeline: Option<PathBuf>,
    /// The first stage to run again; for a `foreach` stage, all its instances
    #[arg(long, value_name = "STAGE")]
    from: String,
    #[command(flatten)]
    how: How,
}

impl Args {
    pub fn run(self, surroundings: &Surroundings) -> Result<()> {
        let (plan, store) = project(surroundings, self.pipeline.as_deref())?;
        let force = plan.from_stage(&self.from)?.into_iter().collect();
        self.how.run(&plan, &store, None, force)
    }
}
