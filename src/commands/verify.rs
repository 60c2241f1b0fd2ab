//! `cmx verify`: reads every artifact again, whatever is known of it.

use super::Surroundings;
use crate::error::{Error, Result};
use crate::runner::display::bytes;
use crate::store::{Health, Store};

/// Read every artifact again and compare it with its digest
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    pub fn run(self, surroundings: &Surroundings) -> Result<()> {
        let store = Store::open(&surroundings.workspace()?);
        let receipts = store.receipts();
        let stage_of = |artifact| {
            let receipt = receipts.iter().find(|receipt| receipt.artifact == artifact);
            receipt.map_or("no receipt".to_owned(), |receipt| format!("{}/{}", receipt.pipeline, receipt.stage))
        };
        let mut altered = 0;
        let (mut whole, mut size) = (0, 0);
        for artifact in store.artifacts()? {
            match store.verify(artifact)? {
                Health::Whole => {
                    whole += 1;
                    size += store.tree(artifact).map_or(0, |tree| tree.size());
                }
                Health::Missing => {}
                Health::Altered(differences) => {
                    altered += 1;
                    println!("{} ({}): {}", artifact.short(), stage_of(artifact), differences.join(", "));
                }
            }
        }
        if altered > 0 {
            return Err(Error::new(format!("{altered} artifact(s) are not what was published; {whole} are"))
                .hint("the next `cmx run` moves them to cache/quarantine/ and makes them again"));
        }
        match whole {
            0 => println!("there is no artifact here yet"),
            _ => println!("{whole} artifacts are whole ({})", bytes(size)),
        }
        Ok(())
    }
}
