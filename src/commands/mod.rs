//! One file per verb: each reads a plan or asks the runner, and prints.

mod check;
mod completions;
mod explain;
mod gc;
mod generate;
mod graph;
mod init;
mod logs;
mod plan;
mod rerun;
mod run;
mod schema;
mod status;
mod tokens;
mod verify;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::Result;

/// Declarative pipelines that turn a base Mixture-of-Experts model into a bilingual one, and prove how.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    /// Work in this folder instead of the nearest one upwards that holds `datasets.toml` or `cache/`
    #[arg(long, short = 'C', global = true, value_name = "FOLDER")]
    workspace: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Args),
    Status(status::Args),
    Rerun(rerun::Args),
    Plan(plan::Args),
    Explain(explain::Args),
    Graph(graph::Args),
    Logs(logs::Args),
    Tokens(tokens::Args),
    Generate(generate::Args),
    Verify(verify::Args),
    Gc(gc::Args),
    Check(check::Args),
    Init(init::Args),
    Schema(schema::Args),
    Completions(completions::Args),
    Work(work::Args),
}

/// What every verb is given.
pub struct Surroundings {
    /// `--workspace`, as given.
    pub workspace: Option<PathBuf>,
}

impl Cli {
    /// Carries the command out, prints its error once, and returns the exit code.
    pub fn run(self) -> ExitCode {
        let surroundings = Surroundings { workspace: self.workspace };
        match self.command.run(&surroundings) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let code = error.code();
                eprintln!("{:?}", miette::Report::new(error));
                ExitCode::from(code as u8)
            }
        }
    }
}

impl Command {
    fn run(self, surroundings: &Surroundings) -> Result<()> {
        match self {
            Command::Run(args) => args.run(surroundings),
            Command::Status(args) => args.run(surroundings),
            Command::Rerun(args) => args.run(surroundings),
            Command::Plan(args) => args.run(surroundings),
            Command::Explain(args) => args.run(surroundings),
            Command::Graph(args) => args.run(surroundings),
            Command::Logs(args) => args.run(surroundings),
            Command::Tokens(args) => args.run(surroundings),
            Command::Generate(args) => args.run(surroundings),
            Command::Verify(args) => args.run(surroundings),
            Command::Gc(args) => args.run(surroundings),
            Command::Check(args) => args.run(surroundings),
            Command::Init(args) => args.run(surroundings),
            Command::Schema(args) => args.run(surroundings),
            Command::Completions(args) => args.run(surroundings),
            Command::Work(args) => args.run(surroundings),
        }
    }
}
