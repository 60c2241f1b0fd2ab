//! `cmx plan`: what would run, in which order, and why.

use std::path::PathBuf;

use super::forecast::forecasts;
use super::mix::mixes;
use super::status::word;
use super::{Surroundings, project, table};
use crate::error::Result;
use crate::runner::display::counted;
use crate::runner::{State, assess};

/// Show what would run, in which order, and why
#[derive(clap::Args)]
pub struct Args {
    /// The pipeline's manifest; the last one run when left out
    pipeline: Option<PathBuf>,
    /// Print JSON: {"pipeline", "stages": [{"name", "kind", "state", "why"}], "mixes": […], "forecasts": […]}, every
    /// stage in run order
    #[arg(long)]
    json: bool,
    /// Measure how fast this machine trains, for the forecast of time; takes seconds to minutes, once for each shape
    #[arg(long)]
    calibrate: bool,
}

impl Args {
    pub fn run(self, surroundings: &Surroundings) -> Result<()> {
        let (plan, store) = project(surroundings, self.pipeline.as_deref())?;
        let stages = assess(&plan, &store)?;
        let mixes = mixes(&plan, &store, &stages)?;
        let forecasts = forecasts(&plan, &store, &stages, &mixes, self.calibrate)?;
        if self.json {
            let json = serde_json::json!({
                "pipeline": plan.name, "stages": stages, "mixes": mixes, "forecasts": forecasts
            });
            return super::print_json(&json);
        }
        let to_run: Vec<_> = stages.iter().filter(|stage| stage.state != State::Fresh).collect();
        if to_run.is_empty() {
            println!("{}: nothing to do, {} fresh", plan.name, counted(stages.len() as u64, "stage"));
            return Ok(());
        }
        let certain = to_run.iter().filter(|stage| stage.state != State::Waiting).count();
        println!("{}: {} of {} stages are not fresh", plan.name, to_run.len(), stages.len());
        println!("{certain} would run; whether the others do is decided when those before them are done\n");
        let rows = to_run.iter().enumerate().map(|(number, stage)| {
            vec![(number + 1).to_string(), stage.name.clone(), word(stage.state).to_owned(), stage.why.join("; ")]
        });
        print!("{}", table(&["", "stage", "state", "why"], rows));
        for mix in mixes.iter().filter(|mix| to_run.iter().any(|stage| stage.name == mix.stage)) {
            print!("\n{}", mix.show());
        }
        for forecast in &forecasts {
            print!("\n{}", forecast.show());
        }
        Ok(())
    }
}
