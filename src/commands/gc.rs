//! `cmx gc`: removes what no pipeline uses now.

use super::{Surroundings, table};
use crate::error::Result;
use crate::runner::display::bytes;
use crate::store::{Store, What};

/// Remove artifacts that no pipeline uses now
#[derive(clap::Args)]
pub struct Args {
    /// Only show what would go
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Empty the quarantine too
    #[arg(long)]
    quarantine: bool,
}

impl Args {
    pub fn run(self, surroundings: &Surroundings) -> Result<()> {
        let store = Store::open(&surroundings.workspace()?);
        let garbage = store.garbage(self.quarantine)?;
        if garbage.is_empty() {
            println!("nothing to remove: every artifact is in use by a pipeline");
            return Ok(());
        }
        let rows = garbage.iter().map(|piece| {
            let name = match piece.what {
                What::Artifact(digest) => format!("artifact {}", digest.short()),
                What::Scratch(fingerprint) => format!("scratch {}", fingerprint.short()),
                What::Quarantined => piece.path.display().to_string(),
                What::Pooled => "downloaded files".to_owned(),
            };
            let day = piece.last_use.and_then(|seconds| jiff::Timestamp::from_second(seconds as i64).ok());
            let day = day.map(|day| day.strftime("%Y-%m-%d").to_string()).unwrap_or_default();
            vec![name, piece.stage.clone(), day, bytes(piece.size), bytes(piece.freed)]
        });
        print!("{}", table(&["what", "stage", "last used", "size", "frees"], rows));
        let freed = garbage.iter().map(|piece| piece.freed).sum();
        if self.dry_run {
            println!("\n{} would be freed; run without --dry-run to remove", bytes(freed));
            return Ok(());
        }
        for piece in &garbage {
            store.remove(piece)?;
        }
        println!("\n{} freed", bytes(freed));
        Ok(())
    }
}
