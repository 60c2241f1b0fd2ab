//! `cmx init`: a new project folder, with a pipeline that runs as it is.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use super::Surroundings;
use crate::error::{Context, Error, Result};

/// Make a new project folder, with a small pipeline that runs as it is
#[derive(clap::Args)]
pub struct Args {
    /// The folder; made if it is not there
    #[arg(default_value = ".")]
    folder: PathBuf,
}

/// What a project begins with.
const FILES: [(&str, &str); 5] = [
    ("datasets.toml", include_str!("init/datasets.toml")),
    ("pipelines/example.toml", include_str!("init/example.toml")),
    ("corpus/notes.jsonl", include_str!("init/notes.jsonl")),
    ("README.md", include_str!("init/README.md")),
    (".gitignore", include_str!("init/gitignore")),
];

impl Args {
    pub fn run(self, _surroundings: &Surroundings) -> Result<()> {
        let path = |name: &str| self.folder.join(name);
        if let Some((name, _)) = FILES.iter().find(|(name, _)| path(name).symlink_metadata().is_ok()) {
            return Err(Error::invalid(format!("{} is there already; nothing was written", path(name).display()))
                .hint("name another folder: cmx init FOLDER"));
        }
        for (name, text) in FILES {
            let path = path(name);
            let failed = || format!("cannot write {}", path.display());
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).context(failed)?;
            }
            // Never over a file that came up since the check.
            let mut file = OpenOptions::new().write(true).create_new(true).open(&path).context(failed)?;
            file.write_all(text.as_bytes()).context(failed)?;
            println!("{}", path.display());
        }
        let enter = match self.folder.to_str() {
            Some(".") => String::new(),
            _ => format!("cd {} && ", self.folder.display()),
        };
        println!("\nnext: {enter}cmx run pipelines/example.toml");
        Ok(())
    }
}
