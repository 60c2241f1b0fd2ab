//! Artifacts: published whole, checked before use, set aside when somebody altered them.

use std::collections::HashMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::known::{Known, LARGE};
use super::stat::Stat;
use super::tree::{self, Tree};
use super::{Digest, Store, advise};
use crate::error::{Context, Error, Result};
use crate::files::sync_folder;

/// What a check found at an artifact's place.
#[derive(Clone, Debug, PartialEq)]
pub enum Health {
    /// Every file is as it was published.
    Whole,
    /// There is no such folder.
    Missing,
    /// Files were changed, removed or added; one line each.
    Altered(Vec<String>),
}

/// An altered artifact, set aside.
#[derive(Clone, Debug, PartialEq)]
pub struct Quarantined {
    /// Where it lies now, relative to the workspace.
    pub path: PathBuf,
    pub differences: Vec<String>,
}

/// The large files of artifacts that were just found whole, by their stat but for the ctime.
///
/// A stage that changes one shard of a model links the others. A link sets the ctime of its file, and the digest that is
/// known of the file no longer fits its stat: without this, the whole model would be read again.
#[derive(Default)]
pub struct Linkable(HashMap<Stat, Digest>);

impl Store {
    /// What a stage may link to: the large files of these artifacts. One that is not whole is left out.
    pub fn linkable(&self, artifacts: &[Digest]) -> Result<Linkable> {
        let mut linkable = Linkable::default();
        for artifact in artifacts {
            let (Health::Whole, Some(tree)) = (self.check(*artifact)?, self.tree(*artifact)) else { continue };
            for file in
                tree::walk(&self.artifact_path(*artifact))?.into_iter().filter(|file| file.stat.size > LARGE)
            {
                if let Some(digest) = tree.part(&file.path) {
                    linkable.0.insert(file.stat.but_for_links(), digest);
                }
            }
        }
        Ok(linkable)
    }

    /// Absolute path at which an artifact stands when it exists.
    pub fn artifact_path(&self, artifact: Digest) -> PathBuf {
        self.root.join("artifacts").join(artifact.to_string())
    }

    /// Makes `output`, a finished folder of the store's scratch space, an artifact. It appears with one rename, whole.
    /// [`Self::seal`] it when nothing links to its files any more: that changes their stats. Files that are links to those
    /// of `linkable` are not read: since these were found whole, size and mtime, which whoever writes to a file changes,
    /// are still the same.
    ///
    /// # Errors
    /// Links and special files are refused, as is an empty output; a full disk leaves the old state.
    pub fn publish(&self, output: &Path, linkable: &Linkable) -> Result<(Digest, Tree)> {
        protect(output)?;
        for file in tree::walk(output)? {
            if let Some(digest) = linkable.0.get(&file.stat.but_for_links()) {
                self.known.learn(file.stat, *digest);
            }
        }
        let tree = self.scan(output)?;
        if tree.entries().is_empty() {
            return Err(
                Error::new("the stage produced no file").hint("it must write at least one into its output folder")
            );
        }
        let sync = |entry: &super::Entry| {
            let path = output.join(&entry.path);
            File::open(&path).and_then(|file| file.sync_all()).context(|| format!("cannot sync {}", path.display()))
        };
        tree.entries().par_iter().try_for_each(sync).map_err(advise)?;

        let artifact = tree.digest();
        self.write(&self.tree_path(artifact), tree.to_text().as_bytes())?;
        if let Health::Altered(differences) = self.check(artifact)? {
            self.quarantine(artifact, differences)?;
        }
        let path = self.artifact_path(artifact);
        if path.exists() {
            remove_tree(output)?;
        } else {
            let parent = self.root.join("artifacts");
            self.create_folder(&parent)?;
            fs::rename(output, &path)
                .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o555)))
                .and_then(|()| sync_folder(&parent))
                .context(|| format!("cannot publish {}", path.display()))
                .map_err(advise)?;
        }
        Ok((artifact, tree))
    }

    /// Whether an artifact is still what was published. Reads no contents while its files' stats (ctime included)
    /// are those under which it was last found whole.
    pub fn check(&self, artifact: Digest) -> Result<Health> {
        let path = self.artifact_path(artifact);
        if !path.is_dir() {
            return Ok(Health::Missing);
        }
        let seal = seal_of(&tree::walk(&path)?);
        if self.known.seal(artifact) == Some(seal) {
            return Ok(Health::Whole);
        }
        let found = self.scan(&path)?;
        if found.digest() == artifact {
            self.seal(artifact)?;
            return Ok(Health::Whole);
        }
        let differences = match self.tree(artifact) {
            Some(recorded) => recorded.differences(&found),
            None => vec!["its contents do not give its digest".to_owned()],
        };
        Ok(Health::Altered(differences))
    }

    /// Reads every file of an artifact again, whatever is known of it.
    pub fn verify(&self, artifact: Digest) -> Result<Health> {
        let path = self.artifact_path(artifact);
        if !path.is_dir() {
            return Ok(Health::Missing);
        }
        let found = Known::new(PathBuf::new()).scan(&path)?;
        Ok(match self.tree(artifact) {
            _ if found.digest() == artifact => Health::Whole,
            Some(recorded) => Health::Altered(recorded.differences(&found)),
            None => Health::Altered(vec!["its contents do not give its digest".to_owned()]),
        })
    }

    /// Moves an altered artifact to `cache/quarantine/`, so that it is neither used nor lost.
    pub fn quarantine(&self, artifact: Digest, differences: Vec<String>) -> Result<Quarantined> {
        let folder = self.root.join("quarantine");
        self.create_folder(&folder)?;
        let free =
            |number: u32| Some(folder.join(format!("{}-{number}", artifact.short()))).filter(|p| !p.exists());
        let path = (1..).find_map(free).ok_or_else(|| Error::new("the quarantine is full"))?;
        let from = self.artifact_path(artifact);
        fs::set_permissions(&from, Permissions::from_mode(0o755))
            .and_then(|()| fs::rename(&from, &path))
            .context(|| format!("cannot move {} to {}", from.display(), path.display()))
            .map_err(advise)?;
        let path = path.strip_prefix(&self.workspace).unwrap_or(&path).to_owned();
        Ok(Quarantined { path, differences })
    }

    /// Remembers the stats of an artifact that was just found whole, once they can no longer hide a change.
    pub fn seal(&self, artifact: Digest) -> Result<()> {
        let path = self.artifact_path(artifact);
        let files = tree::walk(&path)?;
        let wait = files.iter().map(|file| file.stat.unsettled()).max().unwrap_or_default();
        std::thread::sleep(wait);
        // What was hashed may have been changed since. Files that were not are known and not read again.
        if self.scan(&path)?.digest() == artifact {
            self.known.set_seal(artifact, seal_of(&files));
        }
        Ok(())
    }

    /// Records that an artifact is in use today.
    pub fn record_use(&self, artifact: Digest) {
        self.known.set_use(artifact);
    }

    /// Every artifact in the store, in order of digest.
    pub fn artifacts(&self) -> Result<Vec<Digest>> {
        let folder = self.root.join("artifacts");
        if !folder.exists() {
            return Ok(Vec::new());
        }
        let mut artifacts = Vec::new();
        for item in fs::read_dir(&folder).context(|| format!("cannot list {}", folder.display()))? {
            let item = item.context(|| format!("cannot list {}", folder.display()))?;
            artifacts.extend(item.file_name().to_str().and_then(|name| name.parse::<Digest>().ok()));
        }
        artifacts.sort();
        Ok(artifacts)
    }
}

/// One digest over the paths and stats of an artifact's files.
fn seal_of(files: &[tree::Found]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for file in files {
        hasher.update(&(file.path.len() as u64).to_le_bytes());
        hasher.update(file.path.as_bytes());
        hasher.update(&file.stat.key());
    }
    hasher.finalize().into()
}

/// Makes files read-only and refuses what cannot be part of an artifact.
fn protect(folder: &Path) -> Result<()> {
    for item in fs::read_dir(folder).context(|| format!("cannot list {}", folder.display()))? {
        let path = item.context(|| format!("cannot list {}", folder.display()))?.path();
        let metadata = fs::symlink_metadata(&path).context(|| format!("cannot read {}", path.display()))?;
        let mode = if metadata.is_dir() {
            protect(&path)?;
            0o555
        } else if metadata.is_file() {
            0o444
        } else {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Err(Error::new(format!("the stage's output holds `{name}`, which is not a plain file"))
                .hint("an artifact holds plain files and folders only: write a copy instead of a link"));
        };
        if metadata.permissions().mode() & 0o777 != mode {
            fs::set_permissions(&path, Permissions::from_mode(mode))
                .context(|| format!("cannot make {} read-only", path.display()))?;
        }
    }
    Ok(())
}

/// Removes a folder of the store, read-only parts included.
pub(super) fn remove_tree(folder: &Path) -> Result<()> {
    fn unlock(folder: &Path) -> std::io::Result<()> {
        fs::set_permissions(folder, Permissions::from_mode(0o755))?;
        for item in fs::read_dir(folder)? {
            let item = item?;
            if item.file_type()?.is_dir() {
                unlock(&item.path())?;
            }
        }
        Ok(())
    }
    if !folder.exists() {
        return Ok(());
    }
    unlock(folder)
        .and_then(|()| fs::remove_dir_all(folder))
        .context(|| format!("cannot remove {}", folder.display()))
}
