//! One file per verb: each reads a plan or asks the runner, and prints.

/// As `print!` of `std`, which would panic when the reader of a pipe has seen enough (`cmx status | head -1`).
macro_rules! print {
    ($($text:tt)*) => { $crate::commands::show(&format!($($text)*)) };
}

/// As [`print!`], with a line end.
macro_rules! println {
    () => { $crate::commands::show("\n") };
    ($($text:tt)*) => { $crate::commands::show(&(format!($($text)*) + "\n")) };
}

mod check;
mod completions;
mod explain;
mod forecast;
mod gc;
mod generate;
mod graph;
mod init;
mod logs;
mod mix;
mod plan;
mod rerun;
mod run;
mod schema;
mod status;
mod tokenizers;
mod tokens;
mod verify;
mod work;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::{Context, Error, ExitCode as ErrorCode, Result};
use crate::plan::{Plan, find_workspace, manifests_in};
use crate::store::Store;

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
    Tokenizers(tokenizers::Args),
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
    workspace: Option<PathBuf>,
}

impl Surroundings {
    /// Absolute path of the workspace.
    pub fn workspace(&self) -> Result<PathBuf> {
        let here = std::env::current_dir().context(|| "the current folder is gone".to_owned())?;
        match &self.workspace {
            Some(folder) => match here.join(folder).canonicalize() {
                Ok(path) if path.is_dir() => Ok(path),
                _ => Err(Error::invalid(format!("there is no folder {}", folder.display()))),
            },
            None => Ok(find_workspace(&here)),
        }
    }

    /// A path on the command line: in the workspace if that was given, else in the current folder.
    pub fn located(&self, path: &Path) -> PathBuf {
        self.workspace.as_deref().map_or_else(|| path.to_owned(), |workspace| workspace.join(path))
    }
}

/// The plan of a pipeline (of the last one run, when none is given) and the store of its workspace.
fn project(surroundings: &Surroundings, pipeline: Option<&Path>) -> Result<(Plan, Store)> {
    let workspace = surroundings.workspace()?;
    let store = Store::open(&workspace);
    let manifest = match (pipeline, store.last_manifest()) {
        (Some(path), _) => std::env::current_dir().map(|here| here.join(path)).unwrap_or_else(|_| path.to_owned()),
        (None, Some(last)) => workspace.join(last),
        (None, None) => {
            let error = Error::invalid("no pipeline was named, and none has been run here yet");
            return Err(match manifests_in(&workspace.join("pipelines")).first() {
                Some(name) => error.hint(format!("name its manifest, for example pipelines/{name}")),
                None => error.hint("`cmx init FOLDER` makes a project with a pipeline that runs as it is"),
            });
        }
    };
    Ok((Plan::load(&workspace, &manifest)?, store))
}

/// Prints on standard output. Who has stopped reading misses nothing; any other failure ends the program.
fn show(text: &str) {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(&format!("cannot print: {error}"));
            std::process::exit(ErrorCode::Failed as i32);
        }
        _ => {}
    }
}

/// Prints a line on standard error, if anyone reads there.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn print_json(value: &serde_json::Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).context(|| "cannot write JSON".to_owned())?;
    println!("{text}");
    Ok(())
}

/// Rows under a header, columns aligned by display width; the last column is not padded.
fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut lines = vec![header.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>()];
    lines.extend(rows);
    let width = |text: &str| unicode_width::UnicodeWidthStr::width(text);
    let widths: Vec<usize> =
        (0..header.len()).map(|column| lines.iter().map(|line| width(&line[column])).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for line in &lines {
        let mut row = String::new();
        for (cell, &column) in line.iter().zip(&widths) {
            row.push_str(cell);
            row.extend(std::iter::repeat_n(' ', column.saturating_sub(width(cell)) + 2));
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

impl Cli {
    /// Carries the command out, prints its error once, and returns the exit code.
    pub fn run(self) -> ExitCode {
        logging();
        let surroundings = Surroundings { workspace: self.workspace };
        match self.command.run(&surroundings) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let code = error.code();
                complain(&format!("{:?}", miette::Report::new(error)));
                ExitCode::from(code as u8)
            }
        }
    }
}

/// Diagnostics on standard error: `CMX_LOG=debug` shows what the program thinks; warnings are always shown.
fn logging() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("CMX_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
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
            Command::Tokenizers(args) => args.run(surroundings),
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
