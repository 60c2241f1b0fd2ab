//! The Hugging Face Hub, folders laid out like one, and plain addresses: what they serve, fetched and verified.
//!
//! | address of the hub           | where a dataset `org/name` lies                                            |
//! |------------------------------|----------------------------------------------------------------------------|
//! | `https://huggingface.co` …   | the Hub's API: revision → commit, recursive listing, resolve               |
//! | `file:///folder`             | `/folder/datasets/org/name/` (a model: `/folder/org/name/`), as it is now  |
//!
//! Nothing is believed: names that would leave the target folder are refused, sizes and hashes are held against the
//! hub's own listing, and a file gets its name only when it is whole.

mod client;
mod folder;
mod names;
mod transfer;

use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};

pub use client::{Client, Patience};
pub use transfer::{Fetched, fetch};

/// The Hub itself.
pub const HUGGING_FACE: &str = "https://huggingface.co";

/// What a repository holds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum RepoType {
    Model,
    Dataset,
}

/// A revision of a repository.
#[derive(Clone, Debug)]
pub struct Repo {
    pub name: String,
    pub kind: RepoType,
    /// Branch, tag or commit.
    pub revision: String,
}

/// What is to be had at the source.
#[derive(Debug)]
pub struct Listing {
    /// The commit that the revision stands for; `None` where there are no commits.
    pub commit: Option<String>,
    /// In the order of their names.
    pub files: Vec<Remote>,
}

/// One file at the source.
#[derive(Clone, Debug, PartialEq)]
pub struct Remote {
    /// Its name below the target folder, with `/`; checked to stay there.
    pub name: String,
    pub from: Origin,
    /// Bytes, if the source says so before the transfer.
    pub size: Option<u64>,
    pub checksum: Option<Checksum>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    Address { url: String, authorized: bool },
    File(PathBuf),
}

/// What the source says of a file's content; lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq)]
pub enum Checksum {
    /// SHA-256 of the content (files in LFS).
    Sha256(String),
    /// SHA-1 of `blob SIZE\0` and the content: git's name of a blob (all others).
    GitBlob(String),
}

/// Which files of a repository are wanted.
pub struct Patterns {
    include: Option<GlobSet>,
    exclude: GlobSet,
}

impl RepoType {
    /// As the API's and the pages' addresses have it.
    fn plural(self) -> &'static str {
        match self {
            RepoType::Model => "models",
            RepoType::Dataset => "datasets",
        }
    }

    /// What stands before the repository's name, in the Hub's addresses and in a hub folder.
    fn prefix(self) -> &'static str {
        match self {
            RepoType::Model => "",
            RepoType::Dataset => "datasets/",
        }
    }
}

impl Patterns {
    /// Globs as the Hub's clients have them: `*` and `?` match `/` too, and a name that ends in `/` means all below
    /// it. All files are wanted when `include` is empty.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self> {
        let set = |globs: &[String]| -> Result<GlobSet> {
            let mut set = GlobSetBuilder::new();
            for text in globs {
                let glob = if text.ends_with('/') { format!("{text}*") } else { text.clone() };
                let glob = GlobBuilder::new(&glob).literal_separator(false).build();
                set.add(
                    glob.map_err(|error| Error::invalid(format!("`{text}` is no file pattern")).caused_by(error))?,
                );
            }
            set.build().map_err(|error| Error::invalid("the file patterns cannot be used").caused_by(error))
        };
        Ok(Self { include: if include.is_empty() { None } else { Some(set(include)?) }, exclude: set(exclude)? })
    }

    pub fn want(&self, name: &str) -> bool {
        self.include.as_ref().is_none_or(|include| include.is_match(name)) && !self.exclude.is_match(name)
    }
}

/// The wanted files of a repository at `endpoint`: an `http(s)://` hub, or a `file://` folder laid out as one.
pub fn list(client: &Client, endpoint: &str, repo: &Repo, patterns: &Patterns) -> Result<Listing> {
    names::check_repo(&repo.name)?;
    let mut listing = match endpoint.strip_prefix("file://") {
        Some(root) => folder::list(Path::new(root), repo, patterns)?,
        None => client.list(endpoint, repo, patterns)?,
    };
    if listing.files.is_empty() {
        let error = Error::invalid(format!("no file of {} matches the patterns", repo.name));
        return Err(error.hint("see `include` and `exclude`"));
    }
    listing.files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(listing)
}

/// The files at plain addresses, named after the last parts of their paths.
pub fn list_urls(urls: &[String]) -> Result<Listing> {
    let mut files: Vec<Remote> = Vec::new();
    for url in urls {
        let name = names::of_url(url)?;
        if files.iter().any(|file| file.name == name) {
            let message = format!("two of the `urls` end in `{name}`; their files would be one");
            return Err(Error::invalid(message));
        }
        let (from, size) = match url.strip_prefix("file://") {
            Some(path) => {
                let path = PathBuf::from(path);
                let metadata = std::fs::metadata(&path).context(|| format!("cannot read {}", path.display()))?;
                if !metadata.is_file() {
                    return Err(Error::invalid(format!("{} is no file", path.display())));
                }
                (Origin::File(path), Some(metadata.len()))
            }
            None => (Origin::Address { url: url.clone(), authorized: false }, None),
        };
        files.push(Remote { name, from, size, checksum: None });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Listing { commit: None, files })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Python's fnmatch, which the Hub's own client uses: `*` crosses folders.
    #[test]
    fn patterns_are_those_of_the_hub() {
        let want = |include: &[&str], exclude: &[&str], name: &str| {
            let owned = |globs: &[&str]| globs.iter().map(|glob| (*glob).to_owned()).collect::<Vec<_>>();
            Patterns::new(&owned(include), &owned(exclude)).unwrap().want(name)
        };
        assert!(want(&[], &[], "any/thing"));
        assert!(want(&["*.jsonl"], &[], "data/2023/a.jsonl"));
        assert!(want(&["data/2023*"], &[], "data/2023-06_zh_head_0000.jsonl"));
        assert!(!want(&["data/2023*"], &[], "data/2022-06_zh_head_0000.jsonl"));
        assert!(want(&["data/"], &[], "data/x/y"));
        assert!(!want(&["*.json"], &["train*"], "train.json"));
        assert!(want(&["a[12].bin"], &[], "a2.bin"));
    }
}
