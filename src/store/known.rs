//! What need not be read twice: digests of unchanged files, seals of whole artifacts, dates of last use.
//!
//! A cache in the strict sense: if the database is lost, damaged or held by another process, the answer is the same
//! and only takes longer. It is open for the length of one batch, since its file lock would otherwise make a second
//! runner wait for the first.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice;
use rayon::prelude::*;
use redb::{Database, DatabaseError, ReadOnlyDatabase, ReadableDatabase, StorageError, TableDefinition};

use super::stat::Stat;
use super::{Digest, Entry, Tree, tree};
use crate::error::{Context, Error, Result};

const DIGESTS: TableDefinition<&[u8], &[u8; 32]> = TableDefinition::new("digests");
const SEALS: TableDefinition<&[u8; 32], &[u8; 32]> = TableDefinition::new("seals");
const USES: TableDefinition<&[u8; 32], u64> = TableDefinition::new("uses");

/// Files above this size are hashed one by one with all threads, smaller ones side by side.
pub(super) const LARGE: u64 = 16 << 20;

/// How much of a large file is in memory at a time: enough for every thread's share to be worth its while.
const RUN: usize = 64 << 20;

pub struct Known {
    path: PathBuf,
    learnt: Mutex<Learnt>,
}

/// What this process has loaded or found out. Never locked while a file is hashed.
#[derive(Default)]
struct Learnt {
    digests: HashMap<Stat, Digest>,
    seals_loaded: bool,
    seals: HashMap<Digest, Digest>,
    uses: HashMap<Digest, u64>,
    new_digests: Vec<Stat>,
    new_seals: Vec<Digest>,
    new_uses: Vec<Digest>,
}

impl Known {
    pub fn new(path: PathBuf) -> Self {
        Self { path, learnt: Mutex::default() }
    }

    /// The digests of files, in order; only what changed since it was last hashed is read.
    pub fn digests(&self, paths: &[PathBuf]) -> Result<Vec<Digest>> {
        let stats = paths.iter().map(|path| stat(path)).collect::<Result<Vec<_>>>()?;
        let mut answers = self.lookup(&stats);
        let mut to_read: Vec<usize> = (0..paths.len()).filter(|&index| answers[index].is_none()).collect();
        // A file changed within the clock's own tick could change again unseen: let the tick pass before reading.
        let wait = to_read.iter().map(|&index| stats[index].unsettled()).max().unwrap_or_default();
        sleep(wait);
        let (large, small): (Vec<_>, Vec<_>) = to_read.drain(..).partition(|&index| stats[index].size > LARGE);
        let mut read: Vec<(usize, Digest)> =
            small.par_iter().map(|&index| Ok((index, hash(&paths[index])?))).collect::<Result<_>>()?;
        for index in large {
            read.push((index, hash(&paths[index])?));
        }
        for (index, digest) in read {
            answers[index] = Some(digest);
            // Remembered only if nothing moved while it was read.
            if stat(&paths[index])? == stats[index] {
                let mut learnt = self.learnt();
                if learnt.digests.insert(stats[index], digest).is_none() {
                    learnt.new_digests.push(stats[index]);
                }
            }
        }
        let whole = answers.into_iter().zip(paths);
        whole
            .map(|(digest, path)| digest.ok_or_else(|| Error::new(format!("{} has no digest", path.display()))))
            .collect()
    }

    /// Remembers the digest of a file without reading it.
    pub fn learn(&self, stat: Stat, digest: Digest) {
        let mut learnt = self.learnt();
        if learnt.digests.insert(stat, digest) != Some(digest) {
            learnt.new_digests.push(stat);
        }
    }

    /// The tree of a folder as it is on disk.
    pub fn scan(&self, folder: &Path) -> Result<Tree> {
        let files = tree::walk(folder)?;
        let paths: Vec<_> = files.iter().map(|file| folder.join(&file.path)).collect();
        let entries = files.into_iter().zip(self.digests(&paths)?);
        Ok(Tree::new(
            entries.map(|(file, digest)| Entry { digest, size: file.stat.size, path: file.path }).collect(),
        ))
    }

    fn learnt(&self) -> MutexGuard<'_, Learnt> {
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The digests that are known without reading.
    fn lookup(&self, stats: &[Stat]) -> Vec<Option<Digest>> {
        let mut learnt = self.learnt();
        let unknown: Vec<Stat> = stats.iter().filter(|stat| !learnt.digests.contains_key(stat)).copied().collect();
        learnt.digests.extend(self.load_digests(&unknown));
        stats.iter().map(|stat| learnt.digests.get(stat).copied()).collect()
    }

    /// The seal under which an artifact was last found whole.
    pub fn seal(&self, artifact: Digest) -> Option<Digest> {
        self.with_seals(|learnt| learnt.seals.get(&artifact).copied())
    }

    pub fn set_seal(&self, artifact: Digest, seal: Digest) {
        self.with_seals(|learnt| {
            if learnt.seals.insert(artifact, seal) != Some(seal) {
                learnt.new_seals.push(artifact);
            }
        });
    }

    /// Unix time (seconds) of the day on which an artifact was last used.
    pub fn last_use(&self, artifact: Digest) -> Option<u64> {
        self.with_seals(|learnt| learnt.uses.get(&artifact).copied())
    }

    /// Records a use, to the day: a run that does nothing need not write for it.
    pub fn set_use(&self, artifact: Digest) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let day = now - now % 86_400;
        self.with_seals(|learnt| {
            if learnt.uses.insert(artifact, day) != Some(day) {
                learnt.new_uses.push(artifact);
            }
        });
    }

    /// Seals and uses are few (one an artifact) and are read together, once.
    fn with_seals<T>(&self, answer: impl FnOnce(&mut Learnt) -> T) -> T {
        let mut learnt = self.learnt();
        if !learnt.seals_loaded {
            learnt.seals_loaded = true;
            self.load_seals(&mut learnt);
        }
        answer(&mut learnt)
    }

    fn load_digests(&self, stats: &[Stat]) -> Vec<(Stat, Digest)> {
        if stats.is_empty() {
            return Vec::new();
        }
        let Some(database) = self.open_to_read() else { return Vec::new() };
        let loaded = (|| -> Result<Vec<(Stat, Digest)>, redb::Error> {
            let table = database.begin_read()?.open_table(DIGESTS)?;
            let mut loaded = Vec::new();
            for stat in stats {
                if let Some(digest) = table.get(stat.key().as_slice())? {
                    loaded.push((*stat, Digest::from_bytes(*digest.value())));
                }
            }
            Ok(loaded)
        })();
        loaded.unwrap_or_else(|error| {
            tracing::debug!(%error, "the database of digests was not read");
            Vec::new()
        })
    }

    fn load_seals(&self, learnt: &mut Learnt) {
        let Some(database) = self.open_to_read() else { return };
        let loaded = (|| -> Result<(), redb::Error> {
            let read = database.begin_read()?;
            for entry in read.open_table(SEALS)?.range::<&[u8; 32]>(..)? {
                let (artifact, seal) = entry?;
                learnt.seals.insert(Digest::from_bytes(*artifact.value()), Digest::from_bytes(*seal.value()));
            }
            for entry in read.open_table(USES)?.range::<&[u8; 32]>(..)? {
                let (artifact, day) = entry?;
                learnt.uses.insert(Digest::from_bytes(*artifact.value()), day.value());
            }
            Ok(())
        })();
        if let Err(error) = loaded {
            tracing::debug!(%error, "the database of digests was not read");
        }
    }

    /// Writes what is new. A failure costs time later, not correctness, and is only logged.
    pub fn flush(&self) {
        let mut learnt = self.learnt();
        if learnt.new_digests.is_empty() && learnt.new_seals.is_empty() && learnt.new_uses.is_empty() {
            return;
        }
        let Some(database) = self.open_to_write() else { return };
        let written = (|| -> Result<(), redb::Error> {
            let write = database.begin_write()?;
            {
                let mut table = write.open_table(DIGESTS)?;
                for stat in &learnt.new_digests {
                    if let Some(digest) = learnt.digests.get(stat) {
                        table.insert(stat.key().as_slice(), digest.as_bytes())?;
                    }
                }
                let mut table = write.open_table(SEALS)?;
                for artifact in &learnt.new_seals {
                    if let Some(seal) = learnt.seals.get(artifact) {
                        table.insert(artifact.as_bytes(), seal.as_bytes())?;
                    }
                }
                let mut table = write.open_table(USES)?;
                for artifact in &learnt.new_uses {
                    if let Some(day) = learnt.uses.get(artifact) {
                        table.insert(artifact.as_bytes(), day)?;
                    }
                }
            }
            write.commit()?;
            Ok(())
        })();
        match written {
            Ok(()) => {
                learnt.new_digests.clear();
                learnt.new_seals.clear();
                learnt.new_uses.clear();
            }
            Err(error) => tracing::debug!(%error, "the database of digests was not written"),
        }
    }

    fn open_to_read(&self) -> Option<ReadOnlyDatabase> {
        if !self.path.exists() {
            return None;
        }
        match patiently(|| ReadOnlyDatabase::open(&self.path)) {
            Ok(database) => Some(database),
            Err(DatabaseError::DatabaseAlreadyOpen) => None,
            Err(_) => {
                // Not closed cleanly: opening it for writing repairs it.
                drop(self.open_to_write()?);
                ReadOnlyDatabase::open(&self.path).ok()
            }
        }
    }

    fn open_to_write(&self) -> Option<Database> {
        fs::create_dir_all(self.path.parent()?).ok()?;
        match patiently(|| Database::create(&self.path)) {
            Ok(database) => Some(database),
            Err(DatabaseError::DatabaseAlreadyOpen) => None,
            Err(DatabaseError::Storage(StorageError::Io(error))) if error.kind() != ErrorKind::InvalidData => {
                // A full disk, a missing permission: the database may be sound.
                tracing::debug!(%error, "the database of digests was not opened");
                None
            }
            Err(error) => {
                tracing::warn!(%error, "{} is damaged: starting a new one", self.path.display());
                fs::remove_file(&self.path).ok()?;
                Database::create(&self.path).ok()
            }
        }
    }
}

/// Tries for a quarter of a second while another process has the database open.
fn patiently<T>(open: impl Fn() -> Result<T, DatabaseError>) -> Result<T, DatabaseError> {
    for _ in 0..50 {
        match open() {
            Err(DatabaseError::DatabaseAlreadyOpen) => sleep(Duration::from_millis(5)),
            other => return other,
        }
    }
    open()
}

fn stat(path: &Path) -> Result<Stat> {
    let metadata = fs::metadata(path).context(|| format!("cannot read {}", path.display()))?;
    Ok(Stat::of(&metadata))
}

/// BLAKE3 of a file; large ones through a memory map and all threads, in runs whose memory is given back.
fn hash(path: &Path) -> Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    let hashed = File::open(path).and_then(|file| {
        if file.metadata()?.len() <= LARGE {
            return hasher.update_reader(file).map(drop);
        }
        // SAFETY: the map is only read, and dropped before the function returns. Whoever shortens the file meanwhile ends
        // the process with a signal, as with any reader of a map; a change of its content is seen in its stat.
        let map = unsafe { Mmap::map(&file)? };
        for (number, run) in map.chunks(RUN).enumerate() {
            hasher.update_rayon(run);
            #[cfg(unix)]
            // SAFETY: the map is read-only and backed by a file: its pages are read again if they are wanted again.
            let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, number * RUN, run.len()) };
        }
        Ok(())
    });
    hashed.context(|| format!("cannot read {}", path.display()))?;
    Ok(hasher.finalize().into())
}
