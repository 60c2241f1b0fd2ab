//! Files from a source into a folder: in parallel, resumed where they were cut, verified before they get their names.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use ureq::http::{StatusCode, header};

use super::client::{Client, Trouble, trouble};
use super::names::shown;
use super::{Checksum, Listing, Origin, Remote};
use crate::error::{Context, Error, Result};

/// What was fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    pub files: u64,
    pub bytes: u64,
}

/// Connections at a time: a hub serves one at some 50 MB/s and minds dozens.
const CONNECTIONS: usize = 8;

/// Fetches all files of a listing into `output`. What is whole or half fetched waits in `scratch`, where a later
/// call finds it. `progress` is told of each piece's bytes.
pub fn fetch(
    client: &Client,
    listing: &Listing,
    scratch: &Path,
    output: &Path,
    progress: impl Fn(u64) + Sync,
) -> Result<Fetched> {
    check_space(listing, scratch)?;
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let failure: Mutex<Option<Error>> = Mutex::new(None);
    let bytes: Mutex<u64> = Mutex::new(0);
    let worker = || {
        while let Some(remote) = listing.files.get(next.fetch_add(1, Ordering::Relaxed)) {
            let transfer = Transfer { client, remote, scratch, output, stop: &stop, progress: &progress };
            match transfer.run() {
                Ok(size) => *bytes.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) += size,
                Err(error) => {
                    // The first failure is the one to tell; the others stop because of it.
                    if !stop.swap(true, Ordering::Relaxed) {
                        *failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(error);
                    }
                }
            }
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..CONNECTIONS.min(listing.files.len()) {
            scope.spawn(worker);
        }
    });
    if let Some(error) = failure.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
        return Err(error);
    }
    let bytes = bytes.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    Ok(Fetched { files: listing.files.len() as u64, bytes })
}

/// An error before anything is fetched if it cannot fit.
fn check_space(listing: &Listing, scratch: &Path) -> Result<()> {
    let missing: u64 = listing
        .files
        .iter()
        .map(|remote| {
            let have = [whole_path(scratch, remote), part_path(scratch, remote)]
                .iter()
                .find_map(|path| fs::metadata(path).ok())
                .map_or(0, |metadata| metadata.len());
            remote.size.unwrap_or(0).saturating_sub(have)
        })
        .sum();
    let space = rustix::fs::statvfs(scratch).context(|| format!("cannot look at {}", scratch.display()))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if missing > free {
        let message = format!("the files need {missing} bytes more, and {free} are free at {}", scratch.display());
        return Err(Error::new(message).hint("free some space; what was fetched so far is kept"));
    }
    Ok(())
}

/// Names in scratch tell a file from all others that ever bore its name.
fn key(remote: &Remote) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{:?}", (&remote.name, &remote.checksum, remote.size)).as_bytes());
    if let (Origin::Address { url, .. }, None) = (&remote.from, &remote.checksum) {
        hasher.update(url.as_bytes());
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

fn whole_path(scratch: &Path, remote: &Remote) -> PathBuf {
    scratch.join(format!("{}.whole", key(remote)))
}

fn part_path(scratch: &Path, remote: &Remote) -> PathBuf {
    scratch.join(format!("{}.part", key(remote)))
}

/// One file on its way.
struct Transfer<'a, P> {
    client: &'a Client,
    remote: &'a Remote,
    scratch: &'a Path,
    output: &'a Path,
    /// Raised when another file failed.
    stop: &'a AtomicBool,
    progress: &'a P,
}

impl<P: Fn(u64)> Transfer<'_, P> {
    /// Fetches the file and gives it its name; its size.
    fn run(&self) -> Result<u64> {
        let to = self.output.join(&self.remote.name);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).context(|| format!("cannot create {}", parent.display()))?;
        }
        match &self.remote.from {
            Origin::File(path) => self.copy(path, &to),
            Origin::Address { url, authorized } => {
                let whole = whole_path(self.scratch, self.remote);
                if whole.is_file() {
                    (self.progress)(self.remote.size.unwrap_or(0));
                } else {
                    self.download(url, *authorized, &whole)?;
                }
                // A link, so that the file is still in scratch should the attempt end before the stage does.
                fs::hard_link(&whole, &to)
                    .or_else(|_| fs::rename(&whole, &to))
                    .context(|| format!("cannot create {}", to.display()))?;
                Ok(fs::metadata(&to).context(|| format!("cannot read {}", to.display()))?.len())
            }
        }
    }

    /// A local file is copied anew in each attempt: it may have changed in between.
    fn copy(&self, from: &Path, to: &Path) -> Result<u64> {
        self.client.check()?;
        let mut source = File::open(from).context(|| format!("cannot open {}", from.display()))?;
        let copied = File::create(to).and_then(|mut target| io::copy(&mut source, &mut target));
        let size = copied.context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
        (self.progress)(size);
        Ok(size)
    }

    fn download(&self, url: &str, authorized: bool, whole: &Path) -> Result<()> {
        /// So much progress in an attempt makes up for its failure.
        const WORTH_IT: u64 = 1 << 20;
        let part = part_path(self.scratch, self.remote);
        (self.progress)(length(&part));
        let mut second_chance = true;
        loop {
            let complete = self.client.persist(|| {
                let before = length(&part);
                match self.attempt(url, authorized, &part) {
                    Ok(()) => Ok(true),
                    // Out of this round of attempts, into a new one.
                    Err(trouble) if trouble.is_passing() && length(&part) >= before + WORTH_IT => Ok(false),
                    Err(trouble) => Err(trouble),
                }
            })?;
            if !complete {
                continue;
            }
            match self.verify(&part) {
                Ok(()) => break,
                // What came may have been damaged on the way, or put together from two versions.
                Err(_) if second_chance => {
                    second_chance = false;
                    remove(&part)?;
                }
                Err(error) => {
                    remove(&part)?;
                    return Err(error);
                }
            }
        }
        remove(&self.validator_path())?;
        File::open(&part)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&part, whole))
            .context(|| format!("cannot keep {}", self.remote.name))
    }

    /// One request for what `part` still lacks.
    fn attempt(&self, url: &str, authorized: bool, part: &Path) -> Result<(), Trouble> {
        let name = &self.remote.name;
        let cannot_write = || format!("cannot write {}", part.display());
        let mut have = length(part);
        let validator = self.validator();
        // Without a checksum, a part may only be completed if the server can tell that it is of the same file.
        if self.remote.size.is_some_and(|size| have > size)
            || (self.remote.checksum.is_none() && validator.is_none())
        {
            remove(part).map_err(Trouble::lasting)?;
            have = 0;
        }
        if have > 0 && self.remote.size == Some(have) {
            return Ok(());
        }
        let mut headers = Vec::new();
        if have > 0 {
            headers.push(("range", format!("bytes={have}-")));
            if let (None, Some(validator)) = (&self.remote.checksum, validator) {
                headers.push(("if-range", validator));
            }
        }
        let response = match self.client.get(url, authorized, &headers, &format!("`{name}`")) {
            Ok(response) => response,
            Err(trouble) => {
                if trouble.status == Some(StatusCode::RANGE_NOT_SATISFIABLE) {
                    remove(part).map_err(Trouble::lasting)?;
                }
                return Err(trouble);
            }
        };
        let resumed = response.status() == StatusCode::PARTIAL_CONTENT;
        if resumed && range_start(response.headers()) != Some(have) {
            remove(part).map_err(Trouble::lasting)?;
            let message = format!("{} answered with another part of `{name}` than was asked for", shown(url));
            return Err(Trouble::passing(Error::new(message)));
        }
        if !resumed {
            self.keep_validator(response.headers()).map_err(Trouble::lasting)?;
            have = 0;
        }
        let expected = self.remote.size.or(response.body().content_length().map(|rest| have + rest));
        let opened = OpenOptions::new().create(true).write(true).append(resumed).truncate(!resumed).open(part);
        let mut file = opened.context(cannot_write).map_err(Trouble::lasting)?;
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 256 << 10];
        loop {
            self.client.check().map_err(Trouble::lasting)?;
            if self.stop.load(Ordering::Relaxed) {
                return Err(Trouble::lasting(Error::interrupted()));
            }
            let read = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(trouble(ureq::Error::Io(error), url)),
            };
            have += read as u64;
            if expected.is_some_and(|expected| have > expected) {
                remove(part).map_err(Trouble::lasting)?;
                let message = format!("{} sends more of `{name}` than it announced", shown(url));
                return Err(Trouble::lasting(Error::new(message)));
            }
            file.write_all(&buffer[..read]).context(cannot_write).map_err(Trouble::lasting)?;
            (self.progress)(read as u64);
        }
        match expected {
            Some(expected) if have < expected => {
                let message = format!("{} broke off after {have} of {expected} bytes of `{name}`", shown(url));
                Err(Trouble::passing(Error::new(message)))
            }
            _ => Ok(()),
        }
    }

    /// Holds the whole file against size and checksum.
    fn verify(&self, part: &Path) -> Result<()> {
        let name = &self.remote.name;
        let size = length(part);
        if let Some(expected) = self.remote.size
            && size != expected
        {
            return Err(Error::new(format!("`{name}` has {size} bytes, and the hub announced {expected}")));
        }
        let (kind, expected, found) = match &self.remote.checksum {
            None => return Ok(()),
            Some(Checksum::Sha256(expected)) => ("SHA-256", expected, digest(Sha256::new(), part)?),
            Some(Checksum::GitBlob(expected)) => {
                let hasher = Sha1::new_with_prefix(format!("blob {size}\0"));
                ("git blob SHA-1", expected, digest(hasher, part)?)
            }
        };
        if found == *expected {
            return Ok(());
        }
        Err(Error::new(format!("`{name}` has the {kind} {found}, and the hub announced {expected}"))
            .hint("it was fetched twice; the hub, a mirror or a proxy serves another file than it lists"))
    }

    fn validator_path(&self) -> PathBuf {
        self.scratch.join(format!("{}.validator", key(self.remote)))
    }

    fn validator(&self) -> Option<String> {
        fs::read_to_string(self.validator_path()).ok()
    }

    /// Remembers by what a server tells versions of a file apart: a strong ETag, else the date of the last change.
    fn keep_validator(&self, headers: &ureq::http::HeaderMap) -> Result<()> {
        let text = |name| headers.get(name).and_then(|value: &ureq::http::HeaderValue| value.to_str().ok());
        let validator = text(header::ETAG).filter(|etag| !etag.starts_with("W/")).or(text(header::LAST_MODIFIED));
        let path = self.validator_path();
        match validator {
            Some(validator) if self.remote.checksum.is_none() => {
                fs::write(&path, validator).context(|| format!("cannot write {}", path.display()))
            }
            _ => remove(&path),
        }
    }
}

/// The first byte of a `Content-Range: bytes 5-9/10`.
fn range_start(headers: &ureq::http::HeaderMap) -> Option<u64> {
    let range = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    range.trim().strip_prefix("bytes")?.trim_start().split('-').next()?.parse().ok()
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The digest of a file that continues what `hasher` has seen, in hexadecimal.
fn digest<H: sha2::Digest>(mut hasher: H, path: &Path) -> Result<String> {
    let cannot_read = || format!("cannot read {}", path.display());
    let mut file = File::open(path).context(cannot_read)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).context(cannot_read)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
