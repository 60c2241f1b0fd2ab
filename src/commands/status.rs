//! `cmx status`: every stage of a pipeline: fresh, stale, running, failed.

use std::path::PathBuf;

use super::{Surroundings, project, table};
use crate::error::Result;
use crate::runner::display::{bytes, counted, seconds};
use crate::runner::{Assessment, State, assess};

/// Show every stage of a pipeline
#[derive(clap::Args)]
pub struct Args {
    /// The pipeline's manifest; the last one run when left out
    pipeline: Option<PathBuf>,
    /// Print JSON: {"pipeline", "stages": [{"name", "kind", "state", "why"}]}, in run order
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(self, surroundings: &Surroundings) -> Result<()> {
        let (plan, store) = project(surroundings, self.pipeline.as_deref())?;
        let stages = assess(&plan, &store)?;
        if self.json {
            return super::print_json(&serde_json::json!({ "pipeline": plan.name, "stages": stages }));
        }
        println!("{} ({})\n", plan.name, plan.manifest.display());
        let rows = stages.iter().map(|stage| {
            let remark = stage.why.join("; ");
            let remark = if remark.is_empty() { made(stage) } else { remark };
            vec![stage.name.clone(), word(stage.state).to_owned(), remark]
        });
        print!("{}", table(&["stage", "state", ""], rows));
        Ok(())
    }
}

/// The word for a state, as in the JSON.
pub fn word(state: State) -> &'static str {
    match state {
        State::Fresh => "fresh",
        State::Stale => "stale",
        State::New => "new",
        State::Waiting => "waiting",
        State::Running => "running",
        State::Failed => "failed",
    }
}

/// When a fresh stage was made and what came of it.
fn made(stage: &Assessment) -> String {
    let Some(receipt) = &stage.receipt else { return String::new() };
    let day = receipt.started.get(..16).unwrap_or_default().replace('T', " ");
    format!("{day}, {}, {} in {}", seconds(receipt.seconds), bytes(receipt.bytes), counted(receipt.files, "file"))
}
