//! Files from a source into a folder: in parallel, resumed where they were cut, verified before they get their names.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ureq::http::{HeaderMap, HeaderValue, StatusCode, header};

use super::client::{Client, Peer, Trouble, broken};
use super::names::shown;
use super::part::{self, Part};
use super::{Checksum, Listing, Origin, Remote, s3};
use crate::error::{Context, Error, Result};

/// Where a download works.
#[derive(Clone, Copy, Debug)]
pub struct Folders<'a> {
    /// Files that a source names by their hash, whole or unfinished: shared with other downloads, at any time.
    pub pool: &'a Path,
    /// All other files until they are whole: this download's alone, and there again when it is tried again.
    pub scratch: &'a Path,
    /// What is wanted, complete at the end.
    pub output: &'a Path,
}

/// What was fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    pub files: u64,
    pub bytes: u64,
    /// Files of these that were there already.
    pub reused: u64,
}

/// Connections at a time: a hub serves one at some 50 MB/s and minds dozens.
const CONNECTIONS: usize = 8;

/// Fetches all files of a listing. `progress` is told of each piece's bytes.
pub fn fetch(
    client: &Client,
    listing: &Listing,
    folders: &Folders,
    progress: impl Fn(u64) + Sync,
) -> Result<Fetched> {
    fs::create_dir_all(folders.pool).context(|| format!("cannot create {}", folders.pool.display()))?;
    check_space(listing, folders)?;
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let failure: Mutex<Option<Error>> = Mutex::new(None);
    let fetched: Mutex<Fetched> = Mutex::new(Fetched::default());
    let worker = || {
        while let Some(remote) = listing.files.get(next.fetch_add(1, Ordering::Relaxed)) {
            let transfer = Transfer { client, remote, folders, stop: &stop, progress: &progress };
            match transfer.run() {
                Ok(one) => {
                    let mut sum = fetched.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    sum.files += 1;
                    sum.bytes += one.bytes;
                    sum.reused += u64::from(one.reused);
                }
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
    Ok(fetched.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

/// An error before anything is fetched if it cannot fit.
fn check_space(listing: &Listing, folders: &Folders) -> Result<()> {
    let missing = listing.files.iter().fold(0_u64, |sum, remote| {
        let place = Place::of(remote, folders);
        let have = [&place.whole, &place.part].iter().find_map(|path| fs::metadata(path).ok());
        let have = have.map_or(0, |metadata| metadata.len());
        sum.saturating_add(remote.size.unwrap_or(0).saturating_sub(have))
    });
    let space =
        rustix::fs::statvfs(folders.pool).context(|| format!("cannot look at {}", folders.pool.display()))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if missing > free {
        let message =
            format!("the files need {missing} bytes more, and {free} are free at {}", folders.pool.display());
        return Err(Error::new(message).hint("free some space; what was fetched so far is kept"));
    }
    Ok(())
}

/// Where a file lies before it gets its name.
struct Place {
    whole: PathBuf,
    part: PathBuf,
    /// By what a server tells versions of the file apart, where the listing does not.
    validator: PathBuf,
}

impl Place {
    /// Its name here tells a file from all others that ever bore its name.
    fn of(remote: &Remote, folders: &Folders) -> Self {
        let (folder, name) = match &remote.checksum {
            Some(Checksum::Sha256(hash)) => (folders.pool, format!("sha256-{hash}")),
            Some(Checksum::GitBlob(hash)) => (folders.pool, format!("git-{hash}")),
            None => {
                let mut hasher = blake3::Hasher::new();
                let origin = match &remote.from {
                    Origin::Hub(url) | Origin::Plain(url) => url.clone(),
                    Origin::Object { bucket, key } => format!("{} {key}", bucket.base_url()),
                    Origin::File(path) => path.display().to_string(),
                };
                hasher.update(format!("{:?}", (&remote.name, origin, remote.size, &remote.etag)).as_bytes());
                (folders.scratch, hasher.finalize().to_hex()[..32].to_owned())
            }
        };
        let beside = |extension| folder.join(format!("{name}.{extension}"));
        Self { whole: folder.join(&name), part: beside("part"), validator: beside("validator") }
    }
}

/// One file on its way.
struct Transfer<'a, P> {
    client: &'a Client,
    remote: &'a Remote,
    folders: &'a Folders<'a>,
    /// Raised when another file failed.
    stop: &'a AtomicBool,
    progress: &'a P,
}

/// One file that has arrived.
struct Arrived {
    bytes: u64,
    reused: bool,
}

impl<P: Fn(u64)> Transfer<'_, P> {
    /// Fetches the file and gives it its name.
    fn run(&self) -> Result<Arrived> {
        let to = self.folders.output.join(&self.remote.name);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).context(|| format!("cannot create {}", parent.display()))?;
        }
        if let Origin::File(path) = &self.remote.from {
            return self.copy(path, &to);
        }
        let place = Place::of(self.remote, self.folders);
        loop {
            self.check()?;
            if self.take(&place.whole, &to)? {
                let bytes = length(&to);
                (self.progress)(bytes);
                return Ok(Arrived { bytes, reused: true });
            }
            let Some(part) = Part::open(&place.part, self.remote)? else {
                // Another stage fetches this very file: it need not come twice.
                self.client.sleep(Duration::from_millis(50))?;
                continue;
            };
            if place.whole.exists() {
                part.discard()?;
                continue;
            }
            let part = self.download(part, &place)?;
            // Its own name first: the pool may be rid of what nobody uses at any time.
            link(&place.part, &to)?;
            part.finish(&place.whole)?;
            return Ok(Arrived { bytes: length(&to), reused: false });
        }
    }

    /// A local file is copied anew in each attempt: it may have changed in between.
    fn copy(&self, from: &Path, to: &Path) -> Result<Arrived> {
        self.check()?;
        let mut source = File::open(from).context(|| format!("cannot open {}", from.display()))?;
        let copied = File::create(to).and_then(|mut target| io::copy(&mut source, &mut target));
        let bytes = copied.context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
        if self.remote.size.is_some_and(|size| size != bytes) {
            let message = format!("{} was changed while it was copied", from.display());
            return Err(Error::new(message).hint("run again when nobody writes to it"));
        }
        (self.progress)(bytes);
        Ok(Arrived { bytes, reused: false })
    }

    /// Gives a file that is whole its name; false if there is none. One that others could touch is read again first.
    fn take(&self, whole: &Path, to: &Path) -> Result<bool> {
        match link(whole, to) {
            Err(_) if !whole.exists() => return Ok(false),
            linked => linked?,
        }
        if part::verify(to, self.remote).is_ok() {
            return Ok(true);
        }
        for path in [to, whole] {
            remove(path)?;
        }
        Ok(false)
    }

    /// Completes and verifies a part.
    fn download(&self, mut part: Part, place: &Place) -> Result<Part> {
        /// So much progress in an attempt makes up for its failure.
        const WORTH_IT: u64 = 1 << 20;
        (self.progress)(part.length());
        let mut second_chance = true;
        loop {
            let complete = self.client.persist(|| {
                let before = part.length();
                match self.attempt(&mut part, place) {
                    Ok(()) => Ok(true),
                    // Out of this round of attempts, into a new one.
                    Err(trouble) if trouble.is_passing() && part.length() >= before + WORTH_IT => Ok(false),
                    Err(trouble) => Err(trouble),
                }
            })?;
            if !complete {
                continue;
            }
            match part.verify(self.remote) {
                Ok(()) => break,
                // What came may have been damaged on the way, or put together from two versions.
                Err(_) if second_chance => {
                    second_chance = false;
                    part.restart()?;
                }
                Err(error) => {
                    part.discard()?;
                    return Err(error);
                }
            }
        }
        remove(&place.validator)?;
        Ok(part)
    }

    /// One request for what the part still lacks.
    fn attempt(&self, part: &mut Part, place: &Place) -> Result<(), Trouble> {
        let name = &self.remote.name;
        let is_pinned = self.remote.checksum.is_some() || self.remote.etag.is_some();
        let validator = fs::read_to_string(&place.validator).ok();
        // Where the listing says nothing of the content, a part may only be completed if the server can tell that it
        // is of the same file.
        if self.remote.size.is_some_and(|size| part.length() > size) || (!is_pinned && validator.is_none()) {
            part.restart().map_err(Trouble::lasting)?;
        }
        let have = part.length();
        if have > 0 && self.remote.size == Some(have) {
            return Ok(());
        }
        let mut headers = Vec::new();
        if let Some(etag) = &self.remote.etag {
            headers.push(("if-match", etag.clone()));
        }
        if have > 0 {
            headers.push(("range", format!("bytes={have}-")));
            if let (false, Some(validator)) = (is_pinned, validator) {
                headers.push(("if-range", validator));
            }
        }
        let (address, peer) = match &self.remote.from {
            Origin::Hub(url) => (url.clone(), Peer::Hub),
            Origin::Plain(url) => (url.clone(), Peer::Plain),
            Origin::Object { bucket, key } => (s3::address(self.client, bucket, key), Peer::ObjectStore),
            Origin::File(path) => (path.display().to_string(), Peer::Plain),
        };
        let response = self.client.get(&address, peer, &headers, &format!("`{name}`"))?;
        let host = shown(&address);
        // Whatever is wrong with an answer, what it was to complete is not used with the next one.
        let mut astray = |message: String| match part.restart() {
            Ok(()) => Trouble::passing(Error::new(message)),
            Err(error) => Trouble::lasting(error),
        };
        let range = ContentRange::of(response.headers());
        let total = range.as_ref().and_then(|range| range.total);
        let status = response.status();
        if status == StatusCode::RANGE_NOT_SATISFIABLE {
            // Nothing is after the end: of a file whose size nobody told, that is how its end is known.
            return if total == Some(have) && self.remote.size.is_none() {
                Ok(())
            } else {
                Err(astray(format!("{host} has no part of `{name}` after {have} bytes")))
            };
        }
        if let Some(encoding) =
            response.headers().get(header::CONTENT_ENCODING).filter(|value| *value != "identity")
        {
            let message = format!("{host} sends `{name}` encoded ({encoding:?}), which was not asked for");
            return Err(Trouble::lasting(Error::new(message)));
        }
        let resumed = status == StatusCode::PARTIAL_CONTENT;
        let announced = if resumed {
            if range.and_then(|range| range.first) != Some(have) {
                let message = format!("{host} answered with another part of `{name}` than was asked for");
                return Err(astray(message));
            }
            total.or(response.body().content_length().and_then(|rest| rest.checked_add(have)))
        } else {
            response.body().content_length()
        };
        if let (Some(announced), Some(size)) = (announced, self.remote.size)
            && announced != size
        {
            let message = format!("{host} has {announced} bytes of `{name}`, and the listing says {size}");
            return Err(astray(message));
        }
        if !resumed {
            part.restart().map_err(Trouble::lasting)?;
            if !is_pinned {
                keep_validator(&place.validator, response.headers()).map_err(Trouble::lasting)?;
            }
        }
        let expected = self.remote.size.or(announced);
        let mut body = self.client.steady(response);
        let mut buffer = vec![0; 256 << 10];
        loop {
            self.check().map_err(Trouble::lasting)?;
            let read = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(broken(ureq::Error::from(error), &address)),
            };
            if expected.is_some_and(|expected| part.length() + read as u64 > expected) {
                part.restart().map_err(Trouble::lasting)?;
                let message = format!("{host} sends more of `{name}` than it announced");
                return Err(Trouble::lasting(Error::new(message)));
            }
            part.append(&buffer[..read]).map_err(Trouble::lasting)?;
            (self.progress)(read as u64);
        }
        match expected {
            Some(expected) if part.length() < expected => {
                let message = format!("{host} broke off after {} of {expected} bytes of `{name}`", part.length());
                Err(Trouble::passing(Error::new(message)))
            }
            _ => Ok(()),
        }
    }

    /// An interruption if one was asked for, or if another file failed.
    fn check(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::interrupted()) } else { self.client.check() }
    }
}

/// Remembers by what a server tells versions of a file apart: a strong ETag, else the date of the last change.
fn keep_validator(path: &Path, headers: &HeaderMap) -> Result<()> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let validator = text(header::ETAG).filter(|etag| !etag.starts_with("W/")).or(text(header::LAST_MODIFIED));
    match validator {
        Some(validator) => fs::write(path, validator).context(|| format!("cannot write {}", path.display())),
        None => remove(path),
    }
}

/// `Content-Range: bytes 5-9/10`, and of nothing, `bytes */10`.
#[derive(Debug, PartialEq)]
struct ContentRange {
    first: Option<u64>,
    total: Option<u64>,
}

impl ContentRange {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let range = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
        let (range, total) = range.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
        let first = range.split('-').next()?.trim().parse().ok();
        Some(Self { first, total: total.trim().parse().ok() })
    }
}

/// A second name for a file of ours, so that it is there again should this attempt end before its stage does.
fn link(from: &Path, to: &Path) -> Result<()> {
    fs::hard_link(from, to)
        .or_else(|_| reflink_copy::reflink_or_copy(from, to).map(drop))
        .context(|| format!("cannot create {}", to.display()))
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
