//! A Hugging Face hub on loopback, as far as a download needs one, with faults to order.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What goes wrong with the next request for a file.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// An answer without a body; with `Retry-After` seconds.
    Status(u16, Option<u32>),
    /// The range asked for is ignored: the whole file comes, with 200.
    WholeFile,
    /// More bytes than announced by the listing.
    Longer,
}

#[derive(Default)]
pub struct Repo {
    pub files: BTreeMap<String, Vec<u8>>,
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
    /// Method, path and interesting headers of every request.
    pub log: Vec<String>,
}

/// Serves `datasets/org/corpus` and the model `org/corpus` until the test ends.
#[derive(Clone)]
pub struct Hub {
    pub address: String,
    pub repo: Arc<Mutex<Repo>>,
}

impl Hub {
    pub fn start(files: &[(&str, &[u8])]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let files = files.iter().map(|(name, content)| ((*name).to_owned(), content.to_vec())).collect();
        let repo = Arc::new(Mutex::new(Repo { files, page_size: 1000, ..Repo::default() }));
        let hub = Self { address, repo };
        let server = hub.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                std::thread::spawn(move || server.answer(stream));
            }
        });
        hub
    }

    pub fn fault(&self, name: &str, fault: Fault) {
        self.repo.lock().unwrap().faults.entry(name.to_owned()).or_default().push_back(fault);
    }

    pub fn log(&self) -> Vec<String> {
        self.repo.lock().unwrap().log.clone()
    }

    /// One request per connection.
    fn answer(&self, mut stream: TcpStream) -> Option<()> {
        let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
        let request = lines.next()?.ok()?;
        let mut headers = BTreeMap::new();
        for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':')?;
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
        let target = request.split(' ').nth(1)?.to_owned();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let mut repo = self.repo.lock().unwrap();
        let range = headers.get("range").cloned().unwrap_or_default();
        let authorization = headers.get("authorization").cloned().unwrap_or_default();
        repo.log.push(format!("{path} range={range} authorization={authorization}"));
        let on_storage = path.starts_with("/storage/");
        if !on_storage
            && let Some(token) = &repo.token
            && authorization != format!("Bearer {token}")
        {
            return reply(&mut stream, 401, &[], b"");
        }
        if path.starts_with("/api/") {
            if let Some(Fault::Status(status, after)) = repo.api_faults.pop_front() {
                return refuse(&mut stream, status, after);
            }
            if path.ends_with("/revision/main") {
                return reply(&mut stream, 200, &[], json!({"sha": COMMIT}).to_string().as_bytes());
            }
            if path.ends_with(&format!("/tree/{COMMIT}")) {
                let first = query.split('&').find_map(|part| part.strip_prefix("cursor=")).unwrap_or("0");
                let first: usize = first.parse().ok()?;
                let entries = repo.entries();
                let page = entries.iter().skip(first).take(repo.page_size).cloned().collect::<Vec<_>>();
                let mut headers = Vec::new();
                let after = first + page.len();
                if after < entries.len() {
                    let next = format!("<{}{path}?recursive=true&cursor={after}>; rel=\"next\"", self.address);
                    headers.push(("Link", next));
                }
                return reply(&mut stream, 200, &headers, Value::Array(page).to_string().as_bytes());
            }
            return reply(&mut stream, 404, &[], b"");
        }
        let name = match path.split_once(&format!("/resolve/{COMMIT}/")) {
            Some((_, name)) if repo.lfs.iter().any(|lfs| lfs == name) => {
                // LFS content lies elsewhere: another host name, as in production, so that no token may go there.
                let storage = self.address.replace("127.0.0.1", "localhost");
                return reply(&mut stream, 302, &[("Location", format!("{storage}/storage/{name}"))], b"");
            }
            Some((_, name)) => name.to_owned(),
            None => path.trim_start_matches("/storage/").trim_start_matches('/').to_owned(),
        };
        let name = name.replace("%20", " ");
        let Some(content) = repo.files.get(&name).cloned() else { return reply(&mut stream, 404, &[], b"") };
        let fault = repo.faults.get_mut(&name).and_then(VecDeque::pop_front);
        drop(repo);
        let asked = range.strip_prefix("bytes=").and_then(|range| range.trim_end_matches('-').parse().ok());
        let mut from: usize = asked.unwrap_or(0).min(content.len());
        let mut cut = usize::MAX;
        let mut content = content;
        match fault {
            Some(Fault::Status(status, after)) => return refuse(&mut stream, status, after),
            Some(Fault::Cut(bytes)) => cut = bytes,
            Some(Fault::WholeFile) => from = 0,
            Some(Fault::Longer) => content.extend_from_slice(b"and more"),
            None => {}
        }
        let rest = &content[from..];
        let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
        let mut head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nETag: \"v1\"\r\n", rest.len());
        if from > 0 {
            head += &format!("Content-Range: bytes {from}-{}/{}\r\n", content.len() - 1, content.len());
        }
        write!(stream, "{head}Connection: close\r\n\r\n").ok()?;
        stream.write_all(&rest[..cut.min(rest.len())]).ok()
    }
}

impl Repo {
    fn entries(&self) -> Vec<Value> {
        let mut entries = vec![json!({"type": "directory", "path": "data", "oid": "0", "size": 0})];
        for (name, content) in &self.files {
            let mut blob = Sha1::new_with_prefix(format!("blob {}\0", content.len()));
            blob.update(content);
            let mut entry =
                json!({"type": "file", "path": name, "size": content.len(), "oid": hex(&blob.finalize())});
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

fn refuse(stream: &mut TcpStream, status: u16, after: Option<u32>) -> Option<()> {
    let headers: Vec<_> = after.map(|seconds| ("Retry-After", seconds.to_string())).into_iter().collect();
    reply(stream, status, &headers, b"")
}

fn reply(stream: &mut TcpStream, status: u16, headers: &[(&str, String)], body: &[u8]) -> Option<()> {
    write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n", body.len()).ok()?;
    for (name, value) in headers {
        write!(stream, "{name}: {value}\r\n").ok()?;
    }
    stream.write_all(b"\r\n").ok()?;
    stream.write_all(body).ok()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
