//! Arguments, logging, exit code; nothing else.

use clap::Parser;

fn main() -> std::process::ExitCode {
    cmx::commands::Cli::parse().run()
}
