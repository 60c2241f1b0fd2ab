//! The list of an artifact's files, whose own digest names the artifact.

use std::fs;
use std::path::{Path, PathBuf};

use super::stat::Stat;
use super::{Digest, Store};
use crate::error::{Context, Error, Result};

const HEADER: &str = "cmx tree 1";

/// Files with their digests, in byte order of their paths. Empty folders, modes and times are not part of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tree {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Relative, `/`-separated.
    pub path: String,
    /// Bytes.
    pub size: u64,
    pub digest: Digest,
}

impl Tree {
    pub fn new(mut entries: Vec<Entry>) -> Self {
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Self { entries }
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.entries.iter().map(|entry| entry.size).sum()
    }

    /// The digest of the text form: the artifact's name.
    pub fn digest(&self) -> Digest {
        Digest::of(self.to_text().as_bytes())
    }

    /// One line a file: digest, size, path.
    pub fn to_text(&self) -> String {
        let mut text = format!("{HEADER}\n");
        for entry in &self.entries {
            text.push_str(&format!("{} {} {}\n", entry.digest, entry.size, entry.path));
        }
        text
    }

    pub fn from_text(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        (lines.next()? == HEADER).then_some(())?;
        let entry = |line: &str| {
            let (digest, rest) = line.split_once(' ')?;
            let (size, path) = rest.split_once(' ')?;
            Some(Entry { path: path.to_owned(), size: size.parse().ok()?, digest: digest.parse().ok()? })
        };
        Some(Self { entries: lines.map(entry).collect::<Option<_>>()? })
    }

    /// The digest of one file, or the tree digest of one folder, of this tree.
    pub fn part(&self, path: &str) -> Option<Digest> {
        if let Some(entry) = self.entries.iter().find(|entry| entry.path == path) {
            return Some(entry.digest);
        }
        let prefix = format!("{path}/");
        let below = self.entries.iter().filter_map(|entry| {
            entry.path.strip_prefix(&prefix).map(|rest| Entry { path: rest.to_owned(), ..entry.clone() })
        });
        let part = Self { entries: below.collect() };
        (!part.entries.is_empty()).then(|| part.digest())
    }

    /// What differs in `other`, as a user reads it: `b.txt changed`, `c.txt missing`, `d.txt added`.
    pub fn differences(&self, other: &Tree) -> Vec<String> {
        let find = |tree: &Tree, path: &str| {
            let found = tree.entries.binary_search_by(|entry| entry.path.as_str().cmp(path));
            found.ok().map(|index| tree.entries[index].digest)
        };
        let mut differences = Vec::new();
        for entry in &self.entries {
            match find(other, &entry.path) {
                None => differences.push(format!("{} missing", entry.path)),
                Some(digest) if digest != entry.digest => differences.push(format!("{} changed", entry.path)),
                Some(_) => {}
            }
        }
        let added = other.entries.iter().filter(|entry| find(self, &entry.path).is_none());
        differences.extend(added.map(|entry| format!("{} added", entry.path)));
        differences
    }
}

/// A file found on a walk.
pub(super) struct Found {
    pub path: String,
    pub stat: Stat,
}

/// Every file below `folder`, in byte order of the relative paths. Links are followed for a user's folders (a corpus
/// may live on another disk) and cannot occur in artifacts, where [`Store::publish`] refuses them.
pub(super) fn walk(folder: &Path) -> Result<Vec<Found>> {
    let mut files = Vec::new();
    let mut pending = vec![(folder.to_owned(), String::new(), 0)];
    while let Some((absolute, relative, depth)) = pending.pop() {
        if depth > 64 {
            return Err(Error::invalid(format!("{} is nested too deeply", absolute.display()))
                .hint("is there a symbolic link to a folder above it?"));
        }
        let listing = fs::read_dir(&absolute).context(|| format!("cannot list {}", absolute.display()))?;
        for item in listing {
            let item = item.context(|| format!("cannot list {}", absolute.display()))?;
            let path = item.path();
            let name = name_of(&path)?;
            let relative = if relative.is_empty() { name } else { format!("{relative}/{name}") };
            let metadata = fs::metadata(&path).context(|| format!("cannot read {}", path.display()))?;
            if metadata.is_dir() {
                pending.push((path, relative, depth + 1));
            } else {
                files.push(Found { path: relative, stat: Stat::of(&metadata) });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn name_of(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    match name {
        Some(name) if !name.contains(['\n', '\r']) => Ok(name.to_owned()),
        _ => Err(Error::invalid(format!("{:?} has a name that is not UTF-8 or has a line break", path))
            .hint("rename the file")),
    }
}

impl Store {
    pub(super) fn tree_path(&self, artifact: Digest) -> PathBuf {
        self.root.join("trees").join(artifact.to_string())
    }

    /// The files of an artifact, as recorded when it was made; `None` when the record is missing or damaged.
    pub fn tree(&self, artifact: Digest) -> Option<Tree> {
        let text = fs::read_to_string(self.tree_path(artifact)).ok()?;
        (Digest::of(text.as_bytes()) == artifact).then(|| Tree::from_text(&text))?
    }

    /// The digest of a file or folder within an artifact, without reading contents.
    pub fn part(&self, artifact: Digest, path: &Path) -> Result<Digest> {
        let tree = match self.tree(artifact) {
            Some(tree) => tree,
            None => self.scan(&self.artifact_path(artifact))?,
        };
        let name = path.to_string_lossy();
        tree.part(name.trim_end_matches('/')).ok_or_else(|| {
            let names: Vec<_> = tree.entries().iter().map(|entry| entry.path.as_str()).collect();
            let error = Error::invalid(format!("the artifact has no file or folder `{name}`"));
            match crate::error::nearest(&name, names.iter().copied()) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error.hint(format!("it holds: {}", names[..names.len().min(12)].join(", "))),
            }
        })
    }
}
