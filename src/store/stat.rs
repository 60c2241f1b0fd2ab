//! What a file system says of a file without reading it, and when that may be believed.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

/// Longer than the tick of any file system clock in use (10 ms at 100 Hz): a file whose ctime is younger may be
/// changed once more without its stat changing.
const TICK: Duration = Duration::from_millis(20);

/// Identity and age of a file. ctime is what makes a size and an mtime put back by hand visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stat {
    device: u64,
    inode: u64,
    pub size: u64,
    mtime: i128,
    ctime: i128,
}

impl Stat {
    pub fn of(metadata: &Metadata) -> Self {
        let time = |seconds: i64, nanoseconds: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            mtime: time(metadata.mtime(), metadata.mtime_nsec()),
            ctime: time(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// What of it a further link to the file leaves as it is: all but the ctime.
    pub fn but_for_links(self) -> Self {
        Self { ctime: 0, ..self }
    }

    /// Fixed-width bytes: the key in the database of digests.
    pub fn key(&self) -> [u8; 56] {
        let mut key = [0; 56];
        key[..8].copy_from_slice(&self.device.to_le_bytes());
        key[8..16].copy_from_slice(&self.inode.to_le_bytes());
        key[16..24].copy_from_slice(&self.size.to_le_bytes());
        key[24..40].copy_from_slice(&self.mtime.to_le_bytes());
        key[40..].copy_from_slice(&self.ctime.to_le_bytes());
        key
    }

    /// How long to wait until a later change is bound to show in the stat; zero for all but files just written.
    pub fn unsettled(&self) -> Duration {
        let Ok(now) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) else { return TICK };
        let age = now.as_nanos() as i128 - self.ctime;
        if age < 0 {
            // A clock ahead of ours (network file systems): its stamps can't be told from the future.
            return TICK;
        }
        TICK.saturating_sub(Duration::from_nanos(u64::try_from(age).unwrap_or(u64::MAX)))
    }
}
