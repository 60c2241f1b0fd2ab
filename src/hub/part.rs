//! What is there of a file so far: on disk, and as a digest that goes on with it.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::{Checksum, Remote};
use crate::error::{Context, Error, Result};
use crate::files::sync_folder;

/// An unfinished file, locked against all others who want it until this is dropped or the process dies.
pub(super) struct Part {
    path: PathBuf,
    file: File,
    length: u64,
    fresh: Digest,
    digest: Digest,
}

/// A digest under way, of the kind that the source states.
#[derive(Clone)]
enum Digest {
    /// The source states none.
    Nothing,
    Sha256(Sha256),
    GitBlob(Sha1),
}

impl Part {
    /// Opens or creates the unfinished file at `path` and reads, once, what an earlier attempt left there. `None`
    /// while somebody else has it.
    pub fn open(path: &Path, remote: &Remote) -> Result<Option<Self>> {
        let cannot_open = || format!("cannot open {}", path.display());
        let mut options = File::options();
        let file = options.create(true).truncate(false).read(true).write(true).open(path).context(cannot_open)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        // Who had it before may have finished it between our open and our lock.
        let inode = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        if fs::metadata(path).ok().map(inode) != file.metadata().ok().map(inode) {
            return Ok(None);
        }
        let mut digest = Digest::new(remote);
        let fresh = digest.clone();
        let length = digest.read(&file).context(|| format!("cannot read {}", path.display()))?;
        Ok(Some(Self { path: path.to_owned(), file, length, fresh, digest }))
    }

    pub fn length(&self) -> u64 {
        self.length
    }

    /// Forgets what is there.
    pub fn restart(&mut self) -> Result<()> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.context(|| format!("cannot empty {}", self.path.display()))?;
        self.length = 0;
        self.digest = self.fresh.clone();
        Ok(())
    }

    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).context(|| format!("cannot write {}", self.path.display()))?;
        self.length += bytes.len() as u64;
        self.digest.update(bytes);
        Ok(())
    }

    /// Holds what is there against size and checksum.
    pub fn verify(&self, remote: &Remote) -> Result<()> {
        self.digest.clone().verify(remote, self.length)
    }

    /// The file is whole: gives it its name, durably.
    pub fn finish(self, whole: &Path) -> Result<()> {
        self.file
            .sync_all()
            .and_then(|()| fs::rename(&self.path, whole))
            .and_then(|()| whole.parent().map_or(Ok(()), sync_folder))
            .context(|| format!("cannot keep {}", whole.display()))
    }

    /// Nobody needs the unfinished file.
    pub fn discard(self) -> Result<()> {
        fs::remove_file(&self.path).context(|| format!("cannot remove {}", self.path.display()))
    }
}

/// Reads a file that should be whole, and holds it against size and checksum.
pub(super) fn verify(path: &Path, remote: &Remote) -> Result<()> {
    let cannot_read = || format!("cannot read {}", path.display());
    let file = File::open(path).context(cannot_read)?;
    let mut digest = Digest::new(remote);
    let length = match digest {
        Digest::Nothing => file.metadata().context(cannot_read)?.len(),
        _ => digest.read(&file).context(cannot_read)?,
    };
    digest.verify(remote, length)
}

impl Digest {
    fn new(remote: &Remote) -> Self {
        match &remote.checksum {
            None => Self::Nothing,
            Some(Checksum::Sha256(_)) => Self::Sha256(Sha256::new()),
            Some(Checksum::GitBlob(_)) => {
                Self::GitBlob(Sha1::new_with_prefix(format!("blob {}\0", remote.size.unwrap_or_default())))
            }
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Nothing => {}
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::GitBlob(hasher) => hasher.update(bytes),
        }
    }

    /// Takes in all that is left of a file; its length. What need not be digested is not read.
    fn read(&mut self, mut file: &File) -> io::Result<u64> {
        if let Self::Nothing = self {
            return file.seek(SeekFrom::End(0));
        }
        let mut buffer = vec![0; 256 << 10];
        let mut length = 0;
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(length),
                Ok(read) => {
                    self.update(&buffer[..read]);
                    length += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn verify(self, remote: &Remote, length: u64) -> Result<()> {
        let name = &remote.name;
        if let Some(expected) = remote.size
            && length != expected
        {
            return Err(Error::new(format!("`{name}` has {length} bytes, and the source announced {expected}")));
        }
        let hexadecimal = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let (kind, found) = match self {
            Self::Nothing => return Ok(()),
            Self::Sha256(hasher) => ("SHA-256", hexadecimal(&hasher.finalize())),
            Self::GitBlob(hasher) => ("git blob SHA-1", hexadecimal(&hasher.finalize())),
        };
        match &remote.checksum {
            Some(Checksum::Sha256(expected) | Checksum::GitBlob(expected)) if found != *expected => {
                let message = format!("`{name}` has the {kind} {found}, and the hub announced {expected}");
                Err(Error::new(message)
                    .hint("it was fetched twice; the hub, a mirror or a proxy serves another file than it lists"))
            }
            _ => Ok(()),
        }
    }
}
