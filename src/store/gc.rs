//! What the store holds that no pipeline uses now, and its removal.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::artifact::remove_tree;
use super::{Digest, Store, Taken, tree};
use crate::error::{Context, Result};

/// Scratch folders of attempts younger than this are kept, so that they can be continued.
const RESUMABLE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Something that may go.
#[derive(Clone, Debug)]
pub struct Garbage {
    pub what: What,
    /// Relative to the workspace.
    pub path: PathBuf,
    /// The stage that made it, as far as a receipt says.
    pub stage: String,
    /// Unix time (seconds) of the day of its last use, as recorded.
    pub last_use: Option<u64>,
    /// Bytes of its files.
    pub size: u64,
    /// Bytes that its removal gives back: files that another folder links to are not counted.
    pub freed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Artifact(Digest),
    Scratch(Digest),
    Quarantined,
    /// Files of the pool that belong to nothing else.
    Pooled,
}

impl Store {
    /// Everything that no stage of any pipeline had when it was last run: artifacts, abandoned scratch folders, if
    /// asked for the quarantine, and at last what only the pool still has, which is more when the others are gone.
    pub fn garbage(&self, with_quarantine: bool) -> Result<Vec<Garbage>> {
        let receipts = self.receipts();
        let latest: HashSet<Digest> = self.all_latest().into_iter().collect();
        let used: HashSet<Digest> =
            receipts.iter().filter(|r| latest.contains(&r.fingerprint)).map(|r| r.artifact).collect();
        let stages: BTreeMap<Digest, String> =
            receipts.iter().map(|r| (r.artifact, format!("{}/{}", r.pipeline, r.stage))).collect();

        let mut garbage = Vec::new();
        for artifact in self.artifacts()?.into_iter().filter(|artifact| !used.contains(artifact)) {
            let path = self.artifact_path(artifact);
            let stage = stages.get(&artifact).cloned().unwrap_or_default();
            garbage.push((What::Artifact(artifact), path, stage, self.known.last_use(artifact)));
        }
        for (path, name) in entries(&self.root.join("scratch"))? {
            let Ok(fingerprint) = name.parse::<Digest>() else { continue };
            let old = fs::metadata(path.join("holder.json"))
                .and_then(|metadata| metadata.modified())
                .is_ok_and(|time| time.elapsed().is_ok_and(|age| age > RESUMABLE));
            if old && self.worked_on(fingerprint).is_none() {
                garbage.push((What::Scratch(fingerprint), path, String::new(), None));
            }
        }
        if with_quarantine {
            let folders = entries(&self.root.join("quarantine"))?;
            garbage.extend(folders.into_iter().map(|(path, _)| (What::Quarantined, path, String::new(), None)));
        }

        // A file is freed when all its links are among what goes; that in the pool goes with the last other.
        let mut links: HashMap<(u64, u64), u64> = HashMap::new();
        let pooled = self.pooled()?;
        for file in &pooled {
            links.insert((file.metadata.dev(), file.metadata.ino()), 1);
        }
        let mut measured = Vec::new();
        for (what, path, stage, last_use) in garbage {
            let mut files = Vec::new();
            for file in tree::walk(&path)? {
                let file = path.join(&file.path);
                let metadata = fs::symlink_metadata(&file).context(|| format!("cannot read {}", file.display()))?;
                let seen = links.entry((metadata.dev(), metadata.ino())).or_default();
                *seen += 1;
                files.push((metadata.len(), *seen == metadata.nlink()));
            }
            let size = files.iter().map(|(size, _)| size).sum();
            let freed = files.iter().filter(|(_, last)| *last).map(|(size, _)| size).sum();
            let path = path.strip_prefix(&self.workspace).unwrap_or(&path).to_owned();
            measured.push(Garbage { what, path, stage, last_use, size, freed });
        }
        let is_left = |file: &&Pooled| links[&(file.metadata.dev(), file.metadata.ino())] == file.metadata.nlink();
        if pooled.iter().any(|file| is_left(&file)) {
            let alone = pooled.iter().filter(|file| file.metadata.nlink() == 1);
            let size = alone.map(|file| file.metadata.len()).sum();
            let path = self.pool().strip_prefix(&self.workspace).map_or_else(|_| self.pool(), Path::to_owned);
            let (what, stage) = (What::Pooled, String::new());
            measured.push(Garbage { what, path, stage, last_use: None, size, freed: size });
        }
        Ok(measured)
    }

    /// The files of the pool, without the unfinished ones that may be gone on with.
    fn pooled(&self) -> Result<Vec<Pooled>> {
        let mut found = Vec::new();
        for (path, _) in entries(&self.pool())? {
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            let is_part = path.extension().is_some_and(|extension| extension == "part");
            let is_old = || metadata.modified().is_ok_and(|time| time.elapsed().is_ok_and(|age| age > RESUMABLE));
            if metadata.is_file() && (!is_part || is_old()) {
                found.push(Pooled { path, metadata });
            }
        }
        Ok(found)
    }

    /// Removes one piece of garbage. Receipts that name an artifact go before it does.
    pub fn remove(&self, garbage: &Garbage) -> Result<()> {
        let path = self.workspace.join(&garbage.path);
        match garbage.what {
            What::Artifact(artifact) => {
                for receipt in self.receipts().iter().filter(|receipt| receipt.artifact == artifact) {
                    self.remove_receipt(receipt.fingerprint)?;
                }
                remove_tree(&path)?;
                let tree = self.tree_path(artifact);
                if tree.exists() {
                    fs::remove_file(&tree).context(|| format!("cannot remove {}", tree.display()))?;
                }
                Ok(())
            }
            What::Scratch(fingerprint) => match self.scratch(fingerprint)? {
                Taken::Mine(scratch) => scratch.remove(),
                Taken::Theirs(_) => Ok(()),
            },
            What::Quarantined => remove_tree(&path),
            What::Pooled => {
                for file in self.pooled()?.iter().filter(|file| file.metadata.nlink() == 1) {
                    let path = &file.path;
                    fs::remove_file(path).context(|| format!("cannot remove {}", path.display()))?;
                }
                Ok(())
            }
        }
    }
}

/// A file of the pool.
struct Pooled {
    path: PathBuf,
    metadata: fs::Metadata,
}

/// What a folder holds: path and name of each entry, in order.
fn entries(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for item in fs::read_dir(folder).context(|| format!("cannot list {}", folder.display()))? {
        let item = item.context(|| format!("cannot list {}", folder.display()))?;
        found.push((item.path(), item.file_name().to_string_lossy().into_owned()));
    }
    found.sort();
    Ok(found)
}
