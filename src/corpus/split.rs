//! Documents → a train and a dev file, in one pass.

mod sides;

use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

use super::dialogue::{dialogue_of, told};
use super::document::{check, text_in, text_of};
use super::in_order::in_order;
use super::{Batch, Batches, bad_line};
use crate::error::{Error, Result};
use sides::Sides;

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
    pub field: Field,
}

/// The field of a line that holds its document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    Text(String),
    /// A list of messages; dialogues are the same if their messages are.
    Messages(String),
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

/// Bytes read at a time: they are looked at four times, and should stay in a core's own cache between.
const BATCH: usize = 256 << 10;

/// Splits `files` into `train` and `dev`, which are created. Every line must be a JSON object with a document in `field`
/// and is written as it stands, ended by `\n`. A corpus of one document is all train; one of two or more
/// gives at least one document to each side. `step` is called with the bytes of each batch; its error ends the work.
pub fn split(
    files: &[PathBuf],
    train: &Path,
    dev: &Path,
    options: &Options,
    mut step: impl FnMut(u64) -> Result<()> + Send,
) -> Result<Summary> {
    let mut batches = Batches::new(files, BATCH);
    let mut dealt = Dealt {
        sides: Sides::create(train, dev)?,
        seen: HashSet::default(),
        duplicates: 0,
        marks: vec![Counted::default()],
    };
    in_order(
        rayon::current_num_threads(),
        |piece: &mut Piece| batches.read_into(&mut piece.batch),
        |piece| piece.examine(files, options),
        |piece| {
            dealt.add(piece, options)?;
            step(piece.batch.bytes().len() as u64)
        },
    )?;
    let Dealt { mut sides, duplicates, marks, .. } = dealt;
    if sides.train.counted.documents + sides.dev.counted.documents == 0 {
        return Err(Error::invalid("the corpus is empty: its files hold no line"));
    }
    sides.flush()?;
    match options.method {
        Method::Hash => sides.leave_none_empty()?,
        Method::Tail => sides.cut_tail(options.ratio, &marks)?,
    }
    Ok(Summary { train: sides.train.counted, dev: sides.dev.counted, duplicates })
}

/// Lines, and what is known of them before it is their turn to be written.
#[derive(Default)]
struct Piece {
    batch: Batch,
    /// Of each line; none where no hash is needed.
    hashes: Vec<u128>,
    /// Memory for a text with escapes.
    unescaped: String,
}

impl Piece {
    /// Checks the lines, and hashes their texts if that is needed.
    fn examine(&mut self, files: &[PathBuf], options: &Options) -> Result<()> {
        let Self { batch, hashes, unescaped } = self;
        let Options { method, seed, deduplicate, field, .. } = options;
        let hashed = *method == Method::Hash || *deduplicate;
        hashes.clear();
        let whole = simdutf8::basic::from_utf8(batch.bytes()).ok();
        let field = match field {
            Field::Text(field) => field,
            Field::Messages(field) => {
                for line in batch.lines() {
                    let messages = dialogue_of(batch.bytes_of(line), field)
                        .map_err(|fault| bad_line(&files[line.file], line.number, &fault))?;
                    if hashed {
                        hashes.push(XxHash3_128::oneshot_with_seed(*seed, told(&messages).as_bytes()));
                    }
                }
                return Ok(());
            }
        };
        for line in batch.lines() {
            let text = match whole {
                Some(whole) if hashed => text_in(&whole[batch.span_of(line)], field, unescaped).map(Some),
                Some(whole) => check(&whole[batch.span_of(line)], field).map(|()| None),
                // One of the lines is not UTF-8, and will be named.
                None => text_of(batch.bytes_of(line), field, unescaped).map(|_| None),
            };
            let text = text.map_err(|fault| bad_line(&files[line.file], line.number, &fault))?;
            hashes.extend(text.map(|text| XxHash3_128::oneshot_with_seed(*seed, text.as_bytes())));
        }
        Ok(())
    }
}

/// What has been written so far.
struct Dealt {
    sides: Sides,
    seen: HashSet<u128, BuildHasherDefault<Low>>,
    duplicates: u64,
    /// Offsets of some lines, so that the tail is found without reading the file again.
    marks: Vec<Counted>,
}

impl Dealt {
    /// Writes lines, neighbours that go to one side in one piece.
    fn add(&mut self, piece: &Piece, options: &Options) -> Result<()> {
        let Piece { batch, hashes, .. } = piece;
        if hashes.is_empty() {
            self.sides.train.write(batch.bytes(), batch.lines().len() as u64)?;
            self.marks.push(self.sides.train.counted);
            return Ok(());
        }
        let mut run = Run { for_dev: false, lines: 0, span: 0..0 };
        for (line, hash) in batch.lines().iter().zip(hashes) {
            let span = batch.span_of(line);
            let span = span.start..span.end + 1;
            if options.deduplicate && !self.seen.insert(*hash) {
                self.duplicates += 1;
                continue;
            }
            let key = (hash >> 64) as u64;
            let for_dev = options.method == Method::Hash && options.ratio.takes_for_dev(key);
            if for_dev != run.for_dev || span.start != run.span.end {
                self.write(batch, run)?;
                run = Run { for_dev, lines: 0, span: span.start..span.start };
            }
            if options.method == Method::Hash {
                let side = self.sides.side(for_dev);
                side.nearest.see(key, side.counted.bytes + (span.start - run.span.start) as u64, span.len() as u64);
            }
            run.lines += 1;
            run.span.end = span.end;
        }
        self.write(batch, run)?;
        self.marks.push(self.sides.train.counted);
        Ok(())
    }

    fn write(&mut self, batch: &Batch, run: Run) -> Result<()> {
        self.sides.side(run.for_dev).write(&batch.bytes()[run.span], run.lines)
    }
}

/// Lines that stand together and go to one side.
struct Run {
    for_dev: bool,
    lines: u64,
    span: Range<usize>,
}

/// The hash of what is a hash already: its low half. The high half decides on the side.
#[derive(Default)]
struct Low(u64);

impl Hasher for Low {
    fn write_u128(&mut self, hash: u128) {
        self.0 = hash as u64;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Ratio {
    /// Whether a hash lies below dev's part of its range, computed exactly.
    fn takes_for_dev(self, key: u64) -> bool {
        (u128::from(key) * u128::from(self.train + self.dev)) >> 64 < u128::from(self.dev)
    }
}
