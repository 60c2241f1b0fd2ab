//! `cmx logs STAGE`: the newest log of a stage.

use std::path::PathBuf;

use super::{Surroundings, project};
use crate::error::{Context, Error, Result};
use crate::runner::newest_log;

/// Print the newest log of a stage
#[derive(clap::Args)]
pub struct Args {
    /// The stage
    stage: String,
    /// The pipeline's manifest; the last one run when left out
    pipeline: Option<PathBuf>,
    /// Print only the path of the log
    #[arg(long)]
    path: bool,
}

impl Args {
    pub fn run(self, surroundings: &Surroundings) -> Result<()> {
        let (plan, store) = project(surroundings, self.pipeline.as_deref())?;
        let stage = &plan.graph[plan.node(&self.stage)?].name;
        let Some(path) = newest_log(&store, stage) else {
            return Err(Error::invalid(format!("stage {stage} has no log: it never ran here")));
        };
        if self.path {
            println!("{}", path.display());
            return Ok(());
        }
        let mut log = std::fs::File::open(&path).context(|| format!("cannot read {}", path.display()))?;
        match std::io::copy(&mut log, &mut std::io::stdout()) {
            // The reader has seen enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            result => result.map(drop).context(|| "cannot print the log".to_owned()),
        }
    }
}
