//! The two files of a split as they are written, and what is moved between them at the end.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::{Counted, Ratio};
use crate::error::{Context, Result};

pub struct Sides {
    pub train: Side,
    pub dev: Side,
}

/// One of the two files as it is written.
pub struct Side {
    path: PathBuf,
    writer: BufWriter<File>,
    pub counted: Counted,
    /// The documents that go to the other side in case that one gets none.
    pub nearest: Nearest,
}

/// The documents of a side whose hash lies nearest to the other side's range.
pub struct Nearest {
    extreme: Extreme,
    key: Option<u64>,
    spans: Vec<Span>,
    /// Whether all documents have that hash.
    only: bool,
}

/// Which hash of a side lies nearest to the other's.
#[derive(Clone, Copy, PartialEq)]
enum Extreme {
    Least,
    Most,
}

/// Where a line stands in its file, `\n` included.
#[derive(Clone, Copy)]
struct Span {
    start: u64,
    end: u64,
}

impl Nearest {
    fn new(extreme: Extreme) -> Self {
        Self { extreme, key: None, spans: Vec::new(), only: true }
    }

    /// A document with this hash, whose line of `length` bytes, `\n` included, begins at `start`.
    pub fn see(&mut self, key: u64, start: u64, length: u64) {
        let span = Span { start, end: start + length };
        match self.key {
            Some(found) if found == key => return self.spans.push(span),
            Some(found) => {
                self.only = false;
                if (key < found) != (self.extreme == Extreme::Least) {
                    return;
                }
            }
            None => {}
        }
        self.key = Some(key);
        self.spans.clear();
        self.spans.push(span);
    }

    /// Takes out the documents that came nearest: all copies of one, or one of them if the side has no other.
    fn take(&mut self) -> Vec<Span> {
        let from = if self.only { self.spans.len() - 1 } else { 0 };
        self.spans.split_off(from)
    }
}

impl Side {
    fn create(path: &Path, extreme: Extreme) -> Result<Self> {
        // Large runs go past the buffer, from where they were read to.
        const BUFFER: usize = 64 << 10;
        let file = File::create(path).context(|| format!("cannot create {}", path.display()))?;
        Ok(Self {
            path: path.to_path_buf(),
            writer: BufWriter::with_capacity(BUFFER, file),
            counted: Counted::default(),
            nearest: Nearest::new(extreme),
        })
    }

    /// Writes `documents` whole lines.
    pub fn write(&mut self, lines: &[u8], documents: u64) -> Result<()> {
        self.writer.write_all(lines).context(|| format!("cannot write {}", self.path.display()))?;
        self.counted.documents += documents;
        self.counted.bytes += lines.len() as u64;
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.writer.flush().context(|| format!("cannot write {}", self.path.display()))
    }

    /// Moves the lines at `spans` (in order) to `other`. What follows them is shifted down, and the file shortened.
    fn give(&mut self, spans: &[Span], other: &mut Side) -> Result<()> {
        let cannot_move = || format!("cannot move lines of {}", self.path.display());
        let mut file = OpenOptions::new().read(true).write(true).open(&self.path).context(cannot_move)?;
        for span in spans {
            let mut line = vec![0; (span.end - span.start) as usize];
            file.seek(SeekFrom::Start(span.start)).context(cannot_move)?;
            file.read_exact(&mut line).context(cannot_move)?;
            other.write(&line, 1)?;
        }
        other.flush()?;
        let mut to = spans.first().map_or(self.counted.bytes, |span| span.start);
        let mut buffer = vec![0; 1 << 20];
        for (index, span) in spans.iter().enumerate() {
            let end = spans.get(index + 1).map_or(self.counted.bytes, |next| next.start);
            let mut from = span.end;
            while from < end {
                let length = buffer.len().min((end - from) as usize);
                file.seek(SeekFrom::Start(from)).context(cannot_move)?;
                file.read_exact(&mut buffer[..length]).context(cannot_move)?;
                file.seek(SeekFrom::Start(to)).context(cannot_move)?;
                file.write_all(&buffer[..length]).context(cannot_move)?;
                from += length as u64;
                to += length as u64;
            }
        }
        file.set_len(to).context(cannot_move)?;
        self.counted = Counted { documents: self.counted.documents - spans.len() as u64, bytes: to };
        Ok(())
    }
}

impl Sides {
    pub fn create(train: &Path, dev: &Path) -> Result<Self> {
        Ok(Self { train: Side::create(train, Extreme::Least)?, dev: Side::create(dev, Extreme::Most)? })
    }

    pub fn side(&mut self, for_dev: bool) -> &mut Side {
        if for_dev { &mut self.dev } else { &mut self.train }
    }

    pub fn flush(&mut self) -> Result<()> {
        self.train.flush()?;
        self.dev.flush()
    }

    /// A small corpus may have no document whose hash falls on one of the sides; the document that came nearest to
    /// it goes there then, with its copies unless that would empty the other. Of a single document, dev gets none.
    pub fn leave_none_empty(&mut self) -> Result<()> {
        let (train, dev) = (&mut self.train, &mut self.dev);
        if dev.counted.documents == 0 && train.counted.documents >= 2 {
            let spans = train.nearest.take();
            train.give(&spans, dev)?;
        }
        if train.counted.documents == 0 {
            let spans = dev.nearest.take();
            dev.give(&spans, train)?;
        }
        Ok(())
    }

    /// Everything is in train: the lines from ⌊n · train / (train + dev)⌋ on, but never all, go to dev. `marks` are
    /// some of the file's line counts and offsets, in order.
    pub fn cut_tail(&mut self, ratio: Ratio, marks: &[Counted]) -> Result<()> {
        let train = &mut self.train;
        let cannot_read = || format!("cannot read {}", train.path.display());
        let all = train.counted;
        let kept = u128::from(all.documents) * u128::from(ratio.train) / u128::from(ratio.train + ratio.dev);
        let kept = (kept as u64).max(1);
        let mark = marks[marks.partition_point(|mark| mark.documents <= kept) - 1];
        let mut file = File::open(&train.path).context(cannot_read)?;
        file.seek(SeekFrom::Start(mark.bytes)).context(cannot_read)?;
        let (mut line, mut offset) = (mark.documents, mark.bytes);
        let mut buffer = vec![0; 1 << 20];
        'search: while line < kept {
            let read = file.read(&mut buffer).context(cannot_read)?;
            if read == 0 {
                break;
            }
            for newline in memchr::memchr_iter(b'\n', &buffer[..read]) {
                line += 1;
                if line == kept {
                    offset += newline as u64 + 1;
                    break 'search;
                }
            }
            offset += read as u64;
        }
        file.seek(SeekFrom::Start(offset)).context(cannot_read)?;
        let dev = &mut self.dev;
        std::io::copy(&mut file, dev.writer.get_mut())
            .context(|| format!("cannot write {}", dev.path.display()))?;
        dev.counted = Counted { documents: all.documents - kept, bytes: all.bytes - offset };
        OpenOptions::new()
            .write(true)
            .open(&train.path)
            .and_then(|file| file.set_len(offset))
            .context(|| format!("cannot shorten {}", train.path.display()))?;
        train.counted = Counted { documents: kept, bytes: offset };
        Ok(())
    }
}
