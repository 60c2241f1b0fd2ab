//! `cmx run`: brings a pipeline up to date.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::PathBuf;

use super::{Surroundings, project};
use crate::error::{Error, Result};
use crate::plan::{Plan, pipeline_name};
use crate::runner::cancel::Cancel;
use crate::runner::display::{Bars, Display, Json, Lines, counted, seconds};
use crate::runner::{self, Options, Summary};
use crate::store::Store;

/// Run what is not up to date
#[derive(clap::Args)]
pub struct Args {
    /// The pipeline's manifest; the last one run when left out
    pipeline: Option<PathBuf>,
    /// Run only this stage, or all instances of it, and what they depend on (may be given several times)
    #[arg(long, value_name = "STAGE")]
    only: Vec<String>,
    #[command(flatten)]
    how: How,
}

/// How a run is to go: shared by `run` and `rerun`.
#[derive(clap::Args)]
pub struct How {
    /// Run at most so many stages at once
    #[arg(long, short, value_name = "N")]
    jobs: Option<usize>,
    /// Use so many threads in all instead of every core
    #[arg(long, value_name = "N")]
    cpus: Option<usize>,
    /// After a failure, go on with the stages that do not depend on it
    #[arg(long, short)]
    keep_going: bool,
    /// How to show what happens: bars on a terminal and lines elsewhere, unless said otherwise
    #[arg(long, value_enum, default_value = "auto")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum LogFormat {
    Auto,
    Bars,
    Lines,
    Json,
}

impl Args {
    pub fn run(self, surroundings: &Surroundings) -> Result<()> {
        let (plan, store) = project(surroundings, self.pipeline.as_deref())?;
        let only = (!self.only.is_empty()).then_some(self.only);
        let only = only.map(|names| with_parents(&plan, &names)).transpose()?;
        self.how.run(&plan, &store, only, BTreeSet::new())
    }
}

/// The named stages and everything before them.
fn with_parents(plan: &Plan, names: &[String]) -> Result<BTreeSet<petgraph::graph::NodeIndex>> {
    let mut wanted = BTreeSet::new();
    let mut open = names.iter().map(|name| plan.stages_named(name)).collect::<Result<Vec<_>>>()?.concat();
    while let Some(node) = open.pop() {
        if wanted.insert(node) {
            open.extend(plan.parents(node));
        }
    }
    Ok(wanted)
}

impl How {
    /// Runs a plan and reports: notes of the final stages and where things are on standard output.
    pub fn run(
        self,
        plan: &Plan,
        store: &Store,
        only: Option<BTreeSet<petgraph::graph::NodeIndex>>,
        force: BTreeSet<petgraph::graph::NodeIndex>,
    ) -> Result<()> {
        let format = match self.log_format {
            LogFormat::Auto if std::io::stderr().is_terminal() => LogFormat::Bars,
            LogFormat::Auto => LogFormat::Lines,
            other => other,
        };
        let mut display: Box<dyn Display> = match format {
            LogFormat::Bars => Box::new(Bars::default()),
            LogFormat::Json => Box::new(Json),
            _ => Box::new(Lines::default()),
        };
        claim_name(plan, store)?;
        store.set_last_manifest(&plan.manifest)?;
        let cancel = Cancel::on_signals()?;
        let options = Options { jobs: self.jobs, cpus: self.cpus, keep_going: self.keep_going, only, force };
        let started = std::time::Instant::now();
        let summary = runner::run(plan, store, &options, display.as_mut(), &cancel)?;
        report(plan, &summary, started.elapsed().as_secs_f64())
    }
}

/// What is known of stages is kept under their pipeline's name: `explain` and `gc` would take one pipeline for another
/// of the same name.
fn claim_name(plan: &Plan, store: &Store) -> Result<()> {
    let name = &plan.name;
    if let Some(other) = store.manifest_of(name).filter(|other| *other != plan.manifest)
        && pipeline_name(&plan.workspace, &other).as_ref() == Some(name)
    {
        return Err(Error::invalid(format!(
            "{} and {} are both named `{name}`",
            other.display(),
            plan.manifest.display()
        ))
        .hint("give one of them another `name`"));
    }
    store.set_manifest_of(name, &plan.manifest)
}

fn report(plan: &Plan, summary: &Summary, elapsed: f64) -> Result<()> {
    for (_, note) in &summary.notes {
        println!("\n{}", note.trim_end());
    }
    if summary.ran > 0 && summary.failed.is_empty() && !summary.interrupted {
        println!();
        for (stage, view) in &summary.views {
            println!("{stage} is in {}", view.display());
        }
    }
    let name = &plan.name;
    if summary.interrupted {
        return Err(Error::interrupted().hint(format!(
            "{} done, {} to go: the same command continues",
            summary.ran + summary.fresh,
            summary.left
        )));
    }
    if !summary.failed.is_empty() {
        let failed = summary.failed.join(", ");
        let left = if summary.left > 0 { format!("; {} not started", summary.left) } else { String::new() };
        return Err(Error::new(format!("{name}: {failed} failed{left}")));
    }
    if summary.ran == 0 {
        println!("{name}: nothing to do, {} fresh", counted(summary.fresh as u64, "stage"));
    } else {
        let ran = counted(summary.ran as u64, "stage");
        println!("{name}: {ran} ran, {} fresh, {}", summary.fresh, seconds(elapsed));
    }
    Ok(())
}
