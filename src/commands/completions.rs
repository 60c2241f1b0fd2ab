//! `cmx completions`: completion scripts for shells.

use clap::CommandFactory;

use super::{Cli, Surroundings};
use crate::error::Result;

/// Print a completion script for a shell
#[derive(clap::Args)]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

impl Args {
    pub fn run(self, _surroundings: &Surroundings) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "cmx", &mut script);
        print!("{}", String::from_utf8_lossy(&script));
        Ok(())
    }
}
