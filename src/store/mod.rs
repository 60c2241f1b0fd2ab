//! Artifacts, receipts, views, locks, digests: the only module that writes under `cache/`.
//!
//! ```text
//! cache/artifacts/<digest>/       immutable, read-only output trees
//! cache/trees/<digest>            the list of an artifact's files; its own BLAKE3 is the artifact's name
//! cache/receipts/<fingerprint>.json  written last: never names an artifact that is not whole and on disk
//! cache/latest/<pipeline>/<stage> the fingerprint that a stage had when it was last found or made fresh
//! cache/scratch/<fingerprint>/    in progress: survives a kill; locked while somebody works in it
//! cache/pool/<hash>               files that a source named by their hash, linked from artifacts; `.part`: unfinished
//! cache/quarantine/               artifacts that were found altered, kept for their owner to look at
//! cache/runs/<run>.jsonl          events of a run; one log file per stage in the folder beside it
//! cache/calibrations/             how fast this machine trains which shapes
//! cache/digests.redb              what need not be read twice: digests of files, seals of artifacts, dates of use
//! cache/names/<pipeline>          the manifest that gave its pipeline this name
//! cache/last                      the manifest that was run last
//! ```
//!
//! A stage's output becomes an artifact in this order, so that a kill at any point leaves the old state or the new:
//! files hashed → fsynced → tree written → one rename → folder fsynced → receipt.

mod artifact;
mod calibration;
mod digest;
mod gc;
mod known;
mod lock;
mod receipt;
mod stat;
mod tree;
mod view;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};
use crate::files;

pub use artifact::{Health, Linkable, Quarantined};
pub use digest::Digest;
pub use gc::{Garbage, What};
pub use lock::{Holder, Scratch, Taken, host};
pub use receipt::{Failure, Receipt};
pub use tree::{Entry, Tree};

use known::Known;

/// The store of one workspace.
pub struct Store {
    workspace: PathBuf,
    root: PathBuf,
    known: Known,
}

impl Store {
    /// The store under `workspace/cache`. Nothing is created before something has to be written.
    pub fn open(workspace: &Path) -> Self {
        let root = workspace.join("cache");
        let known = Known::new(root.join("digests.redb"));
        Self { workspace: workspace.to_owned(), root, known }
    }

    pub fn workspace(&self) -> &Path {
        &self.workspace
    }

    /// The digest of a file, or the tree digest of a folder, outside the store; unchanged files are not read again.
    pub fn digest_of(&self, path: &Path) -> Result<Digest> {
        let metadata = fs::metadata(path).context(|| format!("cannot read {}", path.display()))?;
        if metadata.is_dir() {
            return Ok(self.scan(path)?.digest());
        }
        let mut digests = self.known.digests(&[path.to_owned()])?;
        digests.pop().ok_or_else(|| Error::new(format!("{} has no digest", path.display())))
    }

    /// The tree of a folder as it is on disk.
    pub fn scan(&self, folder: &Path) -> Result<Tree> {
        self.known.scan(folder)
    }

    /// Writes what was learnt about files, so that the next process need not read them.
    pub fn flush(&self) {
        self.known.flush();
    }

    /// The manifest that was run last, relative to the workspace.
    pub fn last_manifest(&self) -> Option<PathBuf> {
        fs::read_to_string(self.root.join("last")).ok().map(|text| PathBuf::from(text.trim_end()))
    }

    /// Remembers the manifest that is run now.
    pub fn set_last_manifest(&self, manifest: &Path) -> Result<()> {
        if self.last_manifest().as_deref() != Some(manifest) {
            self.write(&self.root.join("last"), format!("{}\n", manifest.display()).as_bytes())?;
        }
        Ok(())
    }

    /// The manifest whose pipeline had this name when it was last run, relative to the workspace.
    pub fn manifest_of(&self, pipeline: &str) -> Option<PathBuf> {
        fs::read_to_string(self.name_path(pipeline)).ok().map(|text| PathBuf::from(text.trim_end()))
    }

    /// Remembers whose name this is.
    pub fn set_manifest_of(&self, pipeline: &str, manifest: &Path) -> Result<()> {
        if self.manifest_of(pipeline).as_deref() != Some(manifest) {
            self.write(&self.name_path(pipeline), format!("{}\n", manifest.display()).as_bytes())?;
        }
        Ok(())
    }

    fn name_path(&self, pipeline: &str) -> PathBuf {
        self.root.join("names").join(receipt::file_name(pipeline))
    }

    /// Folder of files that a source named by their hash, so that none is fetched twice.
    pub fn pool(&self) -> PathBuf {
        self.root.join("pool")
    }

    /// Folder of runs and logs.
    pub fn runs(&self) -> PathBuf {
        self.root.join("runs")
    }

    /// Creates a folder of the store.
    pub fn create_folder(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).context(|| format!("cannot create {}", folder.display())).map_err(advise)
    }

    fn write(&self, path: &Path, contents: &[u8]) -> Result<()> {
        if let Some(parent) = path.parent() {
            self.create_folder(parent)?;
        }
        files::write_atomic(path, contents).context(|| format!("cannot write {}", path.display())).map_err(advise)
    }
}

/// Adds what to do when the cause is a full disk or a missing permission.
fn advise(error: Error) -> Error {
    match error.io_kind() {
        Some(ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
            error.hint("cmx needs to write in the workspace: check owner and mode of that folder")
        }
        _ => advise_on_space(error),
    }
}

/// Adds what to do when the cause is a full disk, unless that is said already.
pub fn advise_on_space(error: Error) -> Error {
    match error.io_kind() {
        Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) if error.advice().is_none() => {
            error.hint("free some space (`cmx gc --dry-run` shows what may go) and run again; nothing is lost")
        }
        _ => error,
    }
}
