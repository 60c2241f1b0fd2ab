//! A Hugging Face hub on loopback, as far as clients that read need one, with faults to order; an object store beside
//! it. That it is faithful is proved by Hugging Face's own client (`tests/parity/hub_emulator.py`).
#![allow(dead_code, reason = "each test file uses its part")]

pub mod client;
mod http;
pub mod s3;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use http::{Answer, Request, Server};
pub use http::{Fault, hex};

/// The first commit of every hub.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

type Files = BTreeMap<String, Vec<u8>>;

#[derive(Default)]
pub struct Repo {
    /// Oldest first; the branch `main` is the last.
    pub commits: Vec<(String, Files)>,
    /// Names in the listing with what it says of them instead of the truth.
    pub lies: BTreeMap<String, Value>,
    /// Names that are in LFS; all others are plain blobs.
    pub lfs: Vec<String>,
    pub faults: BTreeMap<String, VecDeque<Fault>>,
    /// Faults of requests to the API.
    pub api_faults: VecDeque<Fault>,
    /// If given, every request to the hub must carry it.
    pub token: Option<String>,
    pub page_size: usize,
    /// Where every page of the listing says that the next one is, instead of the truth.
    pub next_page: Option<String>,
    /// The time that 32 KiB of a file take.
    pub pace: Duration,
    /// Path and interesting headers of every request.
    pub log: Vec<String>,
}

/// Serves the dataset and the model `org/corpus` until it is dropped.
pub struct Hub {
    pub address: String,
    pub repo: Arc<Mutex<Repo>>,
    server: Server,
}

impl Hub {
    pub fn start(files: &[(&str, &[u8])]) -> Self {
        let commits = vec![(COMMIT.to_owned(), owned(files))];
        let repo = Arc::new(Mutex::new(Repo { commits, page_size: 1000, ..Repo::default() }));
        let shared = repo.clone();
        let server = Server::start(move |request, answer, address| respond(&shared, request, answer, address));
        Self { address: server.address.clone(), repo, server }
    }

    pub fn repo(&self) -> MutexGuard<'_, Repo> {
        self.repo.lock().unwrap()
    }

    /// A new commit on `main`; its name.
    pub fn commit(&self, files: &[(&str, &[u8])]) -> String {
        let mut repo = self.repo();
        let name = hex(&Sha1::digest(format!("{:?} {}", files, repo.commits.len())));
        repo.commits.push((name.clone(), owned(files)));
        name
    }

    pub fn fault(&self, name: &str, fault: Fault) {
        self.repo().faults.entry(name.to_owned()).or_default().push_back(fault);
    }

    pub fn log(&self) -> Vec<String> {
        self.repo().log.clone()
    }

    /// Requests for files, in order of arrival: the names.
    pub fn fetched(&self) -> Vec<String> {
        let name = |line: &String| {
            let path = line.split(" range=").next()?;
            let name =
                path.split_once("/resolve/").map(|(_, rest)| rest.split_once('/').map(|(_, name)| name))??;
            Some(name.to_owned())
        };
        self.repo().log.iter().filter_map(name).collect()
    }

    /// Bytes of files that were sent.
    pub fn served(&self) -> u64 {
        self.server.served()
    }
}

fn owned(files: &[(&str, &[u8])]) -> Files {
    files.iter().map(|(name, content)| ((*name).to_owned(), content.to_vec())).collect()
}

fn respond(repo: &Mutex<Repo>, request: &Request, answer: Answer, address: &str) -> Option<()> {
    let mut repo = repo.lock().unwrap();
    let path = request.path.as_str();
    let (range, authorization) = (request.header("range"), request.header("authorization"));
    repo.log.push(format!("{path} range={range} authorization={authorization}"));
    if !path.starts_with("/storage/")
        && let Some(token) = &repo.token
        && authorization != format!("Bearer {token}")
    {
        return answer.refuse(401, None);
    }
    if let Some(api) = path.strip_prefix("/api/") {
        return match repo.api_faults.pop_front() {
            Some(fault) => {
                let body = repo.api(request, api, address).map_or_else(|_| Vec::new(), |(body, _)| body);
                answer.content(request, &[], &body, Some(fault), Duration::ZERO)
            }
            None => match repo.api(request, api, address) {
                Ok((body, headers)) => answer.reply(200, &headers, &body),
                Err((status, code)) => answer.reply(status, &[("X-Error-Code", code.to_owned())], b""),
            },
        };
    }
    let (commit, name, is_resolved) = match path.split_once("/resolve/").and_then(|(_, rest)| rest.split_once('/'))
    {
        Some((revision, name)) => (revision.to_owned(), name.to_owned(), true),
        None => {
            let name = path.trim_start_matches("/storage/").trim_start_matches('/').to_owned();
            (request.parameter("commit").unwrap_or_else(|| "main".to_owned()), name, false)
        }
    };
    let Some((commit, files)) = repo.revision(&commit) else { return answer.refuse(404, None) };
    let (commit, content) = (commit.to_owned(), files.get(&name).cloned());
    let Some(content) = content else {
        return answer.reply(404, &[("X-Error-Code", "EntryNotFound".to_owned())], b"");
    };
    let hash = if repo.lfs.contains(&name) { hex(&Sha256::digest(&content)) } else { blob(&content) };
    let mut headers = vec![("ETag", format!("\"{hash}\"")), ("Accept-Ranges", "bytes".to_owned())];
    if is_resolved {
        headers.push(("X-Repo-Commit", commit.clone()));
        if repo.lfs.contains(&name) {
            // LFS content lies elsewhere: another host name, as in production, so that no token may go there.
            let storage = address.replace("127.0.0.1", "localhost");
            let place = request.raw_path.split_once("/resolve/")?.1.split_once('/')?.1;
            headers.push(("Location", format!("{storage}/storage/{place}?commit={commit}")));
            headers.push(("X-Linked-Size", content.len().to_string()));
            headers.push(("X-Linked-Etag", format!("\"{hash}\"")));
            return answer.reply(302, &headers, b"");
        }
    }
    let fault = repo.faults.get_mut(&name).and_then(VecDeque::pop_front);
    let pace = repo.pace;
    drop(repo);
    answer.content(request, &headers, &content, fault, pace)
}

/// A body and its headers, or a status and the code that explains it.
type Api = Result<(Vec<u8>, Vec<(&'static str, String)>), (u16, &'static str)>;

impl Repo {
    /// A branch or a commit: its commit and files.
    fn revision(&self, revision: &str) -> Option<(&str, &Files)> {
        let commit = match revision {
            "main" => self.commits.last(),
            commit => self.commits.iter().find(|(name, _)| name == commit),
        };
        commit.map(|(name, files)| (name.as_str(), files))
    }

    /// `KIND/org/corpus`, `KIND/org/corpus/revision/REVISION`, `KIND/org/corpus/tree/REVISION`.
    fn api(&self, request: &Request, path: &str, address: &str) -> Api {
        let rest = ["datasets/org/corpus", "models/org/corpus"].iter().find_map(|repo| path.strip_prefix(repo));
        // The Hub does not tell strangers what exists.
        let unknown = if request.header("authorization").is_empty() { 401 } else { 404 };
        let rest = rest.filter(|rest| rest.is_empty() || rest.starts_with('/')).ok_or((unknown, "RepoNotFound"))?;
        let mut parts = rest.trim_start_matches('/').splitn(2, '/');
        let (what, revision) = (parts.next().unwrap_or_default(), parts.next().unwrap_or("main"));
        let (commit, files) = self.revision(revision).ok_or((404, "RevisionNotFound"))?;
        match what {
            "" | "revision" => {
                let siblings: Vec<Value> = files.keys().map(|name| json!({"rfilename": name})).collect();
                let body = json!({
                    "_id": "0", "id": "org/corpus", "modelId": "org/corpus", "author": "org", "sha": commit,
                    "lastModified": "2026-01-01T00:00:00.000Z", "createdAt": "2026-01-01T00:00:00.000Z",
                    "private": false, "gated": false, "disabled": false, "downloads": 0, "likes": 0, "tags": [],
                    "siblings": siblings, "cardData": {}, "usedStorage": 0,
                });
                Ok((body.to_string().into_bytes(), Vec::new()))
            }
            "tree" => {
                let recursive =
                    request.parameter("recursive").is_some_and(|value| value.eq_ignore_ascii_case("true"));
                let entries = self.entries(files, recursive);
                let first: usize = request.parameter("cursor").map_or(0, |cursor| cursor.parse().unwrap());
                let page: Vec<Value> = entries.iter().skip(first).take(self.page_size).cloned().collect();
                let after = first + page.len();
                let next = match &self.next_page {
                    Some(next) => Some(next.replace("ADDRESS", address)),
                    None => (after < entries.len())
                        .then(|| format!("{address}{}?recursive={recursive}&cursor={after}", request.raw_path)),
                };
                let headers = next.map(|next| ("Link", format!("<{next}>; rel=\"next\""))).into_iter().collect();
                Ok((Value::Array(page).to_string().into_bytes(), headers))
            }
            _ => Err((404, "EntryNotFound")),
        }
    }

    fn entries(&self, files: &Files, recursive: bool) -> Vec<Value> {
        let folders: BTreeSet<&str> =
            files.keys().flat_map(|name| name.match_indices('/').map(|(end, _)| &name[..end])).collect();
        let is_listed = |name: &str| recursive || !name.contains('/');
        let mut entries: Vec<Value> = folders
            .into_iter()
            .filter(|folder| is_listed(folder))
            .map(|folder| json!({"type": "directory", "path": folder, "oid": "0".repeat(40), "size": 0}))
            .collect();
        for (name, content) in files.iter().filter(|(name, _)| is_listed(name)) {
            let mut entry = json!({"type": "file", "path": name, "size": content.len(), "oid": blob(content)});
            if self.lfs.contains(name) {
                let oid = hex(&Sha256::digest(content));
                entry["lfs"] = json!({"oid": oid, "size": content.len(), "pointerSize": 134});
            }
            if let Some(lie) = self.lies.get(name) {
                for (key, value) in lie.as_object().unwrap() {
                    entry[key] = value.clone();
                }
            }
            entries.push(entry);
        }
        entries
    }
}

/// Git's name of a blob.
fn blob(content: &[u8]) -> String {
    let mut hasher = Sha1::new_with_prefix(format!("blob {}\0", content.len()));
    hasher.update(content);
    hex(&hasher.finalize())
}
