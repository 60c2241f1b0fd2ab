//! Documents → a train and a dev file, in one pass.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;

use rayon::prelude::*;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::document::{Fault, text_of};
use super::{Batch, Batches, Line, bad_line};
use crate::error::{Context, Error, Result};

/// Shares of train and dev, `999:1`; both above 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ratio {
    pub train: u64,
    pub dev: u64,
}

/// How documents are chosen for dev.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// By a seeded hash of the text. The choice depends on nothing else: not on the order of documents, not on how
    /// they are cut into files, not on what is added later; dev is spread evenly over the corpus, and copies of one
    /// document never end up on both sides, where they would flatter the validation loss.
    Hash,
    /// The last documents, as `cat *.jsonl | split -l` gives them: the bytes of the published run. Dev is whatever
    /// the last shard ends with.
    Tail,
}

/// How a corpus is split.
pub struct Options {
    pub ratio: Ratio,
    pub method: Method,
    pub seed: u64,
    /// Keep only the first of documents with the same text. Takes about 32 bytes of memory per document.
    pub deduplicate: bool,
    pub text_field: String,
}

/// What one side got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub documents: u64,
    /// Of the file, line ends included.
    pub bytes: u64,
}

/// What became of a corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    pub train: Counted,
    pub dev: Counted,
    /// Dropped as copies.
    pub duplicates: u64,
}

impl TryFrom<String> for Ratio {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        let share = |text: &str| text.parse::<u32>().ok().filter(|share| *share > 0).map(u64::from);
        let shares = text.split_once(':').and_then(|(train, dev)| Some((share(train)?, share(dev)?)));
        let (train, dev) = shares.ok_or_else(|| {
            Error::invalid(format!("the ratio `{text}` is not made of two whole numbers above 0"))
                .hint("write train:dev, for example \"999:1\"")
        })?;
        Ok(Self { train, dev })
    }
}

impl From<Ratio> for String {
    fn from(ratio: Ratio) -> Self {
        format!("{}:{}", ratio.train, ratio.dev)
    }
}

impl JsonSchema for Ratio {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Ratio".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^[1-9][0-9]{0,8}:[1-9][0-9]{0,8}$",
            "examples": ["999:1"],
        })
    }
}

/// Bytes read at a time: large enough that threads find work, small enough to stay in their caches.
const BATCH: usize = 4 << 20;

/// Splits `files` into `train` and `dev`, which are created. Every line must be a JSON object with a string
/// `text_field` and is written as it stands, ended by `\n`. A corpus of one document is all train; one of two or more
/// gives at least one document to each side. `step` is called with the bytes of each batch; its error ends the work.
pub fn split(
    files: &[PathBuf],
    train: &Path,
    dev: &Path,
    options: &Options,
    step: impl Fn(u64) -> Result<()>,
) -> Result<Summary> {
    let sides = Sides { train: Side::create(train, Extreme::Least)?, dev: Side::create(dev, Extreme::Most)? };
    let mut dealt = Dealt { sides, seen: HashSet::new(), duplicates: 0, marks: vec![Counted::default()] };
    // One batch is written while the next is read and hashed.
    let (sender, receiver) = sync_channel::<(Batch, Vec<Result<u128, Fault>>)>(1);
    let dealt: Result<Dealt> = std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for (batch, hashes) in receiver {
                dealt.add(files, &batch, hashes, options)?;
            }
            Ok(dealt)
        });
        let read = (|| -> Result<()> {
            for batch in Batches::new(files, BATCH) {
                let batch = batch?;
                let hashes = batch.lines().par_iter().map(|line| hash(&batch, line, options)).collect();
                let bytes = batch.len() as u64 + batch.lines().len() as u64;
                if sender.send((batch, hashes)).is_err() {
                    break;
                }
                step(bytes)?;
            }
            Ok(())
        })();
        drop(sender);
        let dealt: Result<Dealt> = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let dealt = dealt?;
        read.map(|()| dealt)
    });
    let Dealt { mut sides, duplicates, marks, .. } = dealt?;
    if sides.train.counted.documents + sides.dev.counted.documents == 0 {
        return Err(Error::invalid("the corpus is empty: its files hold no line"));
    }
    sides.train.flush()?;
    sides.dev.flush()?;
    match options.method {
        Method::Hash => sides.leave_none_empty()?,
        Method::Tail => sides.cut_tail(options.ratio, &marks)?,
    }
    let finish = |side: Side| side.flushed().map(|side| side.counted);
    Ok(Summary { train: finish(sides.train)?, dev: finish(sides.dev)?, duplicates })
}

/// What has been written so far.
struct Dealt {
    sides: Sides,
    seen: HashSet<u128>,
    duplicates: u64,
    /// Offsets of some lines, so that the tail is found without reading the file again.
    marks: Vec<Counted>,
}

impl Dealt {
    /// Writes a batch, neighbours that go to one side in one piece.
    fn add(
        &mut self,
        files: &[PathBuf],
        batch: &Batch,
        hashes: Vec<Result<u128, Fault>>,
        options: &Options,
    ) -> Result<()> {
        let mut run: Option<(bool, Range<usize>)> = None;
        for (line, hash) in batch.lines().iter().zip(hashes) {
            let hash = hash.map_err(|fault| bad_line(&files[line.file], line.number, &fault))?;
            if options.deduplicate && !self.seen.insert(hash) {
                self.duplicates += 1;
                continue;
            }
            let key = (hash >> 64) as u64;
            let for_dev = options.method == Method::Hash && options.ratio.takes_for_dev(key);
            let span = batch.span_of(line);
            self.side(for_dev).count(span.len(), key);
            run = match run {
                // With the `\n` between them, which a file's last line may lack.
                Some((side, run)) if side == for_dev && run.end + 1 == span.start => {
                    Some((side, run.start..span.end))
                }
                before => {
                    self.write(batch, before)?;
                    Some((for_dev, span))
                }
            };
        }
        self.write(batch, run)?;
        self.marks.push(self.sides.train.counted);
        Ok(())
    }

    fn side(&mut self, for_dev: bool) -> &mut Side {
        if for_dev { &mut self.sides.dev } else { &mut self.sides.train }
    }

    fn write(&mut self, batch: &Batch, run: Option<(bool, Range<usize>)>) -> Result<()> {
        match run {
            Some((for_dev, span)) => self.side(for_dev).write(batch.bytes_at(span)),
            None => Ok(()),
        }
    }
}

/// 128 bits of BLAKE3 over the seed and the text; 0 where no hash is needed.
fn hash(batch: &Batch, line: &Line, options: &Options) -> Result<u128, Fault> {
    let mut unescaped = String::new();
    let text = text_of(batch.bytes_of(line), &options.text_field, &mut unescaped)?;
    if options.method == Method::Tail && !options.deduplicate {
        return Ok(0);
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&options.seed.to_le_bytes());
    hasher.update(text.as_bytes());
    let mut first = [0; 16];
    hasher.finalize_xof().fill(&mut first);
    Ok(u128::from_le_bytes(first))
}

impl Ratio {
    /// Whether a hash lies below dev's part of its range, computed exactly.
    fn takes_for_dev(self, key: u64) -> bool {
        (u128::from(key) * u128::from(self.train + self.dev)) >> 64 < u128::from(self.dev)
    }
}

struct Sides {
    train: Side,
    dev: Side,
}

/// One of the two files as it is written.
struct Side {
    path: PathBuf,
    writer: BufWriter<File>,
    counted: Counted,
    /// The documents with the hash that lies nearest to the other side's range, in case that side gets none.
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

impl Side {
    fn create(path: &Path, extreme: Extreme) -> Result<Self> {
        let file = File::create(path).context(|| format!("cannot create {}", path.display()))?;
        let writer = BufWriter::with_capacity(1 << 20, file);
        let counted = Counted::default();
        Ok(Self { path: path.to_path_buf(), writer, counted, extreme, key: None, spans: Vec::new(), only: true })
    }

    fn push(&mut self, line: &[u8], key: u64) -> Result<()> {
        self.count(line.len(), key);
        self.write(line)
    }

    /// Writes lines that were counted, and the last `\n`.
    fn write(&mut self, lines: &[u8]) -> Result<()> {
        let cannot_write = || format!("cannot write {}", self.path.display());
        self.writer.write_all(lines).context(cannot_write)?;
        self.writer.write_all(b"\n").context(cannot_write)
    }

    /// Counts a line of `length` bytes without its `\n`.
    fn count(&mut self, length: usize, key: u64) {
        let span = Span { start: self.counted.bytes, end: self.counted.bytes + length as u64 + 1 };
        self.counted = Counted { documents: self.counted.documents + 1, bytes: span.end };
        match self.key {
            Some(found) if found == key => self.spans.push(span),
            Some(found) => {
                self.only = false;
                if (key < found) == (self.extreme == Extreme::Least) {
                    self.key = Some(key);
                    self.spans = vec![span];
                }
            }
            None => {
                self.key = Some(key);
                self.spans = vec![span];
            }
        }
    }

    fn flush(&mut self) -> Result<()> {
        self.writer.flush().context(|| format!("cannot write {}", self.path.display()))
    }

    fn flushed(mut self) -> Result<Self> {
        self.flush()?;
        Ok(self)
    }

    /// Moves the lines at `spans` (in order) to `other`. What follows them is shifted down, and the file shortened.
    fn give(&mut self, spans: &[Span], other: &mut Side) -> Result<()> {
        let cannot_move = || format!("cannot move lines of {}", self.path.display());
        let mut file = OpenOptions::new().read(true).write(true).open(&self.path).context(cannot_move)?;
        for span in spans {
            let mut line = vec![0; (span.end - span.start) as usize];
            file.seek(SeekFrom::Start(span.start)).context(cannot_move)?;
            file.read_exact(&mut line).context(cannot_move)?;
            other.push(&line[..line.len() - 1], 0)?;
        }
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
    /// A small corpus may have no document whose hash falls on one of the sides; the document that came nearest to
    /// it goes there then, with its copies unless that would empty the other.
    fn leave_none_empty(&mut self) -> Result<()> {
        let (train, dev) = (&mut self.train, &mut self.dev);
        if dev.counted.documents == 0 && train.counted.documents >= 2 {
            let from = if train.only { train.spans.len() - 1 } else { 0 };
            let spans = train.spans.split_off(from);
            train.give(&spans, dev)?;
        }
        if train.counted.documents == 0 {
            // With a single document, dev is what stays empty.
            let from = if dev.only { dev.spans.len() - 1 } else { 0 };
            let spans = dev.spans.split_off(from);
            dev.give(&spans, train)?;
        }
        Ok(())
    }

    /// Everything is in train: the lines from ⌊n · train / (train + dev)⌋ on, but never all, go to dev. `marks` are
    /// some of the file's line counts and offsets, in order.
    fn cut_tail(&mut self, ratio: Ratio, marks: &[Counted]) -> Result<()> {
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
        std::io::copy(&mut file, &mut dev.writer).context(|| format!("cannot write {}", dev.path.display()))?;
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
