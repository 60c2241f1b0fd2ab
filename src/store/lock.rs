//! Scratch folders, and the lock on each: one worker per fingerprint, freed by the kernel when a process dies.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::artifact::remove_tree;
use super::{Digest, Failure, Store, advise};
use crate::error::{Context, Result};

/// A locked scratch folder.
pub struct Scratch {
    folder: PathBuf,
    /// Open on the folder; the lock lives as long as this or a copy that a child inherited.
    lock: File,
}

/// Who works in a scratch folder.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Holder {
    pub host: String,
    pub pid: u32,
    /// RFC 3339.
    pub since: String,
}

/// The answer to an attempt to lock.
pub enum Taken {
    /// By the caller.
    Mine(Scratch),
    /// By another; `None` while it has not yet said who it is.
    Theirs(Option<Holder>),
}

impl Holder {
    /// This process, now.
    pub fn me() -> Self {
        Self { host: host(), pid: std::process::id(), since: jiff::Timestamp::now().to_string() }
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cmx with pid {} on {} (since {})", self.pid, self.host, self.since)
    }
}

/// This machine's name.
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

impl Store {
    fn scratch_path(&self, fingerprint: Digest) -> PathBuf {
        self.root.join("scratch").join(fingerprint.to_string())
    }

    /// Locks the scratch folder of a fingerprint, or says who has it.
    pub fn scratch(&self, fingerprint: Digest) -> Result<Taken> {
        let folder = self.scratch_path(fingerprint);
        loop {
            self.create_folder(&folder)?;
            let lock = match File::open(&folder) {
                Ok(lock) => lock,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).context(|| format!("cannot open {}", folder.display())),
            };
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
                return Ok(Taken::Theirs(holder(&folder)));
            }
            // The one before us may have finished and removed the folder between our open and our lock.
            let inode = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
            if fs::metadata(&folder).ok().map(inode) == lock.metadata().ok().map(inode) {
                let text = serde_json::to_vec(&Holder::me()).context(|| "cannot write the lock".to_owned())?;
                let path = folder.join("holder.json");
                fs::write(&path, text).context(|| format!("cannot write {}", path.display())).map_err(advise)?;
                return Ok(Taken::Mine(Scratch { folder, lock }));
            }
        }
    }

    /// Who works on a fingerprint now, if anybody does.
    pub fn worked_on(&self, fingerprint: Digest) -> Option<Holder> {
        let folder = self.scratch_path(fingerprint);
        let lock = File::open(&folder).ok()?;
        let busy = flock(&lock, FlockOperation::NonBlockingLockShared).is_err();
        busy.then(|| holder(&folder))?
    }

    /// Why the last attempt at a fingerprint failed, if it did.
    pub fn failure(&self, fingerprint: Digest) -> Option<Failure> {
        let text = fs::read(self.scratch_path(fingerprint).join("failed.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }
}

fn holder(folder: &Path) -> Option<Holder> {
    serde_json::from_slice(&fs::read(folder.join("holder.json")).ok()?).ok()
}

impl Scratch {
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What becomes the artifact.
    pub fn output(&self) -> PathBuf {
        self.folder.join("output")
    }

    /// What a stage keeps between attempts.
    pub fn kept(&self) -> PathBuf {
        self.folder.join("kept")
    }

    /// The descriptor that carries the lock, to be inherited by the worker.
    pub fn lock(&self) -> &File {
        &self.lock
    }

    /// Prepares an attempt: an empty output folder, the kept one as it was, no trace of an earlier failure.
    pub fn begin(&self) -> Result<()> {
        remove_tree(&self.output())?;
        for folder in [self.output(), self.kept()] {
            fs::create_dir_all(&folder)
                .context(|| format!("cannot create {}", folder.display()))
                .map_err(advise)?;
        }
        let failure = self.folder.join("failed.json");
        if failure.exists() {
            fs::remove_file(&failure).context(|| format!("cannot remove {}", failure.display()))?;
        }
        Ok(())
    }

    /// Leaves word of why this attempt failed.
    pub fn record_failure(&self, failure: &Failure) -> Result<()> {
        let path = self.folder.join("failed.json");
        let text = serde_json::to_vec(failure).context(|| format!("cannot write {}", path.display()))?;
        fs::write(&path, text).context(|| format!("cannot write {}", path.display())).map_err(advise)
    }

    /// Removes the folder and frees the lock. It is renamed first, so that a kill halfway leaves no folder that
    /// looks like a resumable one.
    pub fn remove(self) -> Result<()> {
        let away = self.folder.with_extension("removed");
        remove_tree(&away)?;
        fs::rename(&self.folder, &away).context(|| format!("cannot remove {}", self.folder.display()))?;
        remove_tree(&away)
    }
}
