//! The Hugging Face Hub's API: the commit of a revision, and the files of a commit, page by page.

use std::collections::HashSet;

use serde::Deserialize;

use super::client::{Client, Peer};
use super::names::{self, shown};
use super::{Checksum, Listing, Origin, Patterns, Remote, Repo, RepoType};
use crate::error::{Context, Error, Result};

/// A file of a repository's listing.
#[derive(Clone, Debug, PartialEq)]
pub struct File {
    /// With `/`, as the hub has it: not yet checked.
    pub path: String,
    pub size: u64,
    pub checksum: Checksum,
}

/// The wanted files of a revision, at the commit that it stands for now.
pub(super) fn list(client: &Client, endpoint: &str, repo: &Repo, patterns: &Patterns) -> Result<Listing> {
    let endpoint = endpoint.trim_end_matches('/');
    let api = format!("{endpoint}/api/{}/{}", repo.kind.plural(), repo.name);
    let what = format!("{} `{}` at revision `{}`", repo.kind.word(), repo.name, repo.revision);
    let is_strange = |address: &str| format!("{} does not answer as a Hugging Face hub does", shown(address));

    let address = format!("{api}/revision/{}", names::encode(&repo.revision, false));
    let (body, _) = client.document(|| address.clone(), Peer::Hub, &what)?;
    let commit = parse_revision(&body).context(|| is_strange(&address))?;

    let resolve = format!("{endpoint}/{}{}/resolve/{commit}", repo.kind.prefix(), repo.name);
    let mut files = Vec::new();
    let mut pages = HashSet::new();
    let mut page = Some(format!("{api}/tree/{commit}?recursive=true&expand=false"));
    while let Some(address) = page {
        if !pages.insert(address.clone()) {
            let message = format!("the listing of {what} continues at {}, where it has been", shown(&address));
            return Err(Error::new(message));
        }
        let (body, headers) = client.document(|| address.clone(), Peer::Hub, &what)?;
        for File { path, size, checksum } in parse_tree(&body).context(|| is_strange(&address))? {
            names::check_file(&path)?;
            if patterns.want(&path) {
                let from = Origin::Hub(format!("{resolve}/{}", names::encode(&path, true)));
                files.push(Remote { name: path, from, size: Some(size), checksum: Some(checksum), etag: None });
            }
        }
        page = match headers.get("link").and_then(|link| next_page(link.to_str().ok()?)) {
            None => None,
            // A mirror may pass on the Hub's own links: only what follows `/api/` counts.
            Some(next) => match next.split_once("/api/") {
                Some((_, rest)) => Some(format!("{endpoint}/api/{rest}")),
                None => {
                    let message =
                        format!("the listing of {what} continues at {}, which is no listing", shown(next));
                    return Err(Error::new(message));
                }
            },
        };
    }
    Ok(Listing { commit: Some(commit), files })
}

/// The commit in the answer to `/api/{models,datasets}/NAME/revision/REVISION`, in lower case.
pub fn parse_revision(body: &[u8]) -> Result<String> {
    #[derive(Deserialize)]
    struct Revision {
        sha: String,
    }
    let Revision { sha } =
        serde_json::from_slice(body).context(|| "the answer is not of the form expected".into())?;
    // SHA-1, or SHA-256 where a repository uses it.
    if !is_hash(&sha, &[40, 64]) {
        return Err(Error::new("the answer names no commit"));
    }
    Ok(sha.to_ascii_lowercase())
}

/// The files in a page of `/api/{models,datasets}/NAME/tree/COMMIT`; folders are left out.
pub fn parse_tree(body: &[u8]) -> Result<Vec<File>> {
    #[derive(Deserialize)]
    struct Entry {
        #[serde(rename = "type")]
        kind: String,
        path: String,
        size: Option<u64>,
        /// Git's name of the blob; of LFS files that of the pointer.
        oid: Option<String>,
        lfs: Option<Lfs>,
    }
    #[derive(Deserialize)]
    struct Lfs {
        /// SHA-256 of the content.
        oid: String,
        size: u64,
    }
    let entries: Vec<Entry> =
        serde_json::from_slice(body).context(|| "the listing is not of the form expected".into())?;
    let file = |Entry { path, size, oid, lfs, .. }| {
        let (hash, size) = match lfs {
            Some(Lfs { oid, size }) => (is_hash(&oid, &[64]).then_some(Checksum::Sha256(oid)), Some(size)),
            None => (oid.filter(|oid| is_hash(oid, &[40])).map(Checksum::GitBlob), size),
        };
        match (hash.map(Checksum::lowercase), size) {
            (Some(checksum), Some(size)) => Ok(File { path, size, checksum }),
            _ => Err(Error::new(format!("the listing lacks size or hash of {path:?}"))),
        }
    };
    entries.into_iter().filter(|entry| entry.kind == "file").map(file).collect()
}

/// The address with `rel="next"` in a `Link` header (RFC 8288).
pub fn next_page(link: &str) -> Option<&str> {
    link.split(',').find_map(|part| {
        let (address, parameters) = part.trim().strip_prefix('<')?.split_once('>')?;
        let next = parameters.split(';').any(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or_default();
            name.trim().eq_ignore_ascii_case("rel") && value.trim().trim_matches('"') == "next"
        });
        next.then_some(address)
    })
}

fn is_hash(text: &str, lengths: &[usize]) -> bool {
    lengths.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl Checksum {
    fn lowercase(self) -> Self {
        match self {
            Self::Sha256(hash) => Self::Sha256(hash.to_ascii_lowercase()),
            Self::GitBlob(hash) => Self::GitBlob(hash.to_ascii_lowercase()),
        }
    }
}

impl RepoType {
    fn word(self) -> &'static str {
        match self {
            RepoType::Model => "the model",
            RepoType::Dataset => "the dataset",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_a_hash_and_nothing_else() {
        let commit = "0123456789ABCDEF0123456789abcdef01234567";
        let body = format!("{{\"id\": \"a/b\", \"sha\": \"{commit}\", \"private\": false}}");
        assert_eq!(parse_revision(body.as_bytes()).unwrap(), commit.to_lowercase());
        for wrong in
            ["", "[]", "{}", "{\"sha\": \"../../x\"}", "{\"sha\": null}", "<html>", "{\"sha\": \"0123\"}", "\u{0}"]
        {
            assert!(parse_revision(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(parse_revision(b"\xff\xfe").is_err());
    }

    #[test]
    fn a_listing_has_sizes_and_hashes() {
        let (git, lfs) = ("ab".repeat(20), "CD".repeat(32));
        let body = format!(
            r#"[{{"type":"directory","oid":"x","size":0,"path":"data"}},
                {{"type":"file","oid":"{git}","size":7,"path":"data/a"}},
                {{"type":"file","oid":"{git}","size":134,"path":"b","xetHash":"x",
                  "lfs":{{"oid":"{lfs}","size":9,"pointerSize":134}}}}]"#
        );
        let a = File { path: "data/a".into(), size: 7, checksum: Checksum::GitBlob(git.clone()) };
        let b = File { path: "b".into(), size: 9, checksum: Checksum::Sha256(lfs.to_lowercase()) };
        assert_eq!(parse_tree(body.as_bytes()).unwrap(), [a, b]);
        for wrong in [
            "{}".to_owned(),
            "[{".to_owned(),
            "[".repeat(1000),
            format!(r#"[{{"type":"file","oid":"{git}","path":"a"}}]"#),
            format!(r#"[{{"type":"file","oid":"{git}","size":-1,"path":"a"}}]"#),
            format!(r#"[{{"type":"file","oid":"{git}0","size":1,"path":"a"}}]"#),
            format!(r#"[{{"type":"file","oid":"{git}","size":1,"path":"a","lfs":{{"oid":"{git}","size":1}}}}]"#),
        ] {
            assert!(parse_tree(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_next_page_is_found_in_a_link_header() {
        let next = "https://h/api?cursor=a%3D%3D&x=1";
        assert_eq!(next_page(&format!("<{next}>; rel=\"next\"")), Some(next));
        assert_eq!(next_page("<https://h/1>; rel=\"prev\", <https://h/3>; rel=next"), Some("https://h/3"));
        assert_eq!(next_page("<https://h/1>; rel=\"prev\""), None);
        assert_eq!(next_page("nonsense"), None);
    }
}
