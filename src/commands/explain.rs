//! `cmx explain STAGE`: why a stage would run, and all that decides it.

use std::path::PathBuf;

use super::{Surroundings, project};
use crate::error::Result;
use crate::runner::{Explanation, explain};

/// Say why a stage would run, and what decides it
#[derive(clap::Args)]
pub struct Args {
    /// The stage
    stage: String,
    /// The pipeline's manifest; the last one run when left out
    pipeline: Option<PathBuf>,
    /// Show every entry of the stage's key
    #[arg(long, short)]
    verbose: bool,
}

impl Args {
    pub fn run(self, surroundings: &Surroundings) -> Result<()> {
        let (plan, store) = project(surroundings, self.pipeline.as_deref())?;
        let node = plan.node(&self.stage)?;
        let Some(Explanation { why, key, last }) = explain(&plan, &store, node)? else {
            println!("{}: waits for a stage before it; decided when that is done", self.stage);
            return Ok(());
        };
        if why.is_empty() {
            println!("{}: fresh", self.stage);
        }
        for line in &why {
            println!("{}: {line}", self.stage);
        }
        if self.verbose {
            println!("\nfingerprint {}", key.fingerprint());
            for item in &key.items {
                println!("  {} = {}", item.name, item.value);
            }
            if let Some(last) = last {
                println!(
                    "\nlast made {} in {:.1} s by cmx {} on {}",
                    last.started, last.seconds, last.program, last.host
                );
                println!("artifact {} ({} files, {} bytes)", last.artifact, last.files, last.bytes);
                for (name, value) in &last.metrics {
                    println!("  {name} = {value}");
                }
            }
        }
        Ok(())
    }
}
