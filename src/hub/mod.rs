//! The Hugging Face Hub, folders laid out like one, object stores and plain addresses: what they serve, fetched and
//! verified.
//!
//! | source                            | how its files are found                                                |
//! |-----------------------------------|------------------------------------------------------------------------|
//! | `https://huggingface.co` …        | the Hub's API: revision → commit, recursive listing ([`api`])          |
//! | `file:///folder`, laid out as one | the folder as it is now; a dataset `org/name` in `datasets/org/name/`  |
//! | `s3://bucket/folder/`             | S3's listing, signed or anonymous ([`s3`])                             |
//! | `https://…/file`, `file:///file`  | one file each                                                          |
//!
//! Nothing is believed: names that would leave the target folder are refused, sizes and hashes are held against the
//! source's own listing, and a file gets its name only when it is whole.

pub mod api;
mod client;
mod folder;
pub(crate) mod names;
mod part;
pub mod s3;
mod transfer;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};

pub use client::{Client, Patience, Rights};
pub use names::shown;
pub use rusty_s3::Credentials;
pub use transfer::{Fetched, Folders, fetch};

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
    /// An object store's name for this very content; no other is accepted.
    pub etag: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// An address of the hub, which is told the token.
    Hub(String),
    /// An address of anybody's, which is told nothing.
    Plain(String),
    Object {
        bucket: Arc<rusty_s3::Bucket>,
        key: String,
    },
    File(PathBuf),
}

/// What the source says of a file's content; lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// SHA-256 of the content (files in LFS).
    Sha256(String),
    /// SHA-1 of `blob SIZE\0` and the content: git's name of a blob (all others).
    GitBlob(String),
}

impl Listing {
    /// Orders the files by name, and makes sure that each gets a place of its own.
    fn sorted(mut self) -> Result<Self> {
        self.files.sort_by(|a, b| a.name.cmp(&b.name));
        let names: HashSet<&str> = self.files.iter().map(|file| file.name.as_str()).collect();
        for pair in self.files.windows(2) {
            if pair[0].name == pair[1].name {
                return Err(Error::new(format!("the source names two files `{}`", pair[0].name)));
            }
        }
        for file in &self.files {
            let folders = file.name.match_indices('/').map(|(end, _)| &file.name[..end]);
            if let Some(both) = folders.into_iter().find(|folder| names.contains(folder)) {
                let message = format!("the source names `{both}` as a file and as a folder");
                return Err(Error::new(message).hint("leave one of them out with `include` or `exclude`"));
            }
        }
        Ok(self)
    }

    /// Bytes of all files, if the source says so.
    pub fn size(&self) -> Option<u64> {
        self.files.iter().try_fold(0_u64, |sum, file| Some(sum.saturating_add(file.size?)))
    }

    /// What pins files that an object store names by ETags: BLAKE3 over the lines `NAME\tSIZE\tETAG\n`, in order of
    /// name. `None` where there is no such file.
    pub fn etags(&self) -> Option<String> {
        let mut hasher = blake3::Hasher::new();
        for file in &self.files {
            if let (Some(etag), Some(size)) = (&file.etag, file.size) {
                hasher.update(format!("{}\t{size}\t{etag}\n", file.name).as_bytes());
            }
        }
        (hasher.count() > 0).then(|| hasher.finalize().to_hex().to_string())
    }
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
    let listing = match endpoint.strip_prefix("file://") {
        Some(root) => folder::list(Path::new(root), repo, patterns)?,
        None => api::list(client, endpoint, repo, patterns)?,
    };
    if listing.files.is_empty() {
        let error = Error::invalid(format!("no file of {} matches the patterns", repo.name));
        return Err(error.hint("see `include` and `exclude`"));
    }
    listing.sorted()
}

/// The files at addresses: one each, named after the last part of its path, or those below a folder of an object
/// store at `site` that match the patterns.
pub fn list_urls(client: &Client, urls: &[String], site: &s3::Site, patterns: &Patterns) -> Result<Listing> {
    let mut files: Vec<Remote> = Vec::new();
    let mut names = HashSet::new();
    for url in urls {
        let found =
            if url.starts_with("s3://") { s3::list(client, site, url, patterns)? } else { vec![at_address(url)?] };
        for file in found {
            if !names.insert(file.name.clone()) {
                let message = format!("two of the `urls` end in `{}`; their files would be one", file.name);
                return Err(Error::invalid(message));
            }
            files.push(file);
        }
    }
    Listing { commit: None, files }.sorted()
}

/// The file at a plain address.
fn at_address(url: &str) -> Result<Remote> {
    let name = names::of_url(url)?;
    let (from, size) = match url.strip_prefix("file://") {
        Some(path) => {
            let path = PathBuf::from(path);
            let metadata = std::fs::metadata(&path).context(|| format!("cannot read {}", path.display()))?;
            if !metadata.is_file() {
                return Err(Error::invalid(format!("{} is no file", path.display())));
            }
            (Origin::File(path), Some(metadata.len()))
        }
        None => (Origin::Plain(url.to_owned()), None),
    };
    Ok(Remote { name, from, size, checksum: None, etag: None })
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
