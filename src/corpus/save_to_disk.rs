//! Token blocks → a folder as Hugging Face `datasets`' `save_to_disk` lays it out.
//!
//! ```text
//! data-00000-of-0000N.arrow   Arrow IPC streams, a block a row, every column a list of numbers: see [`Layout`]
//! state.json                  the names of the shards, in order
//! dataset_info.json           the features
//! ```
//!
//! Features are written as `Sequence`, which all versions of `datasets` read; `List`, the newer name, only 4 and later do.
//!
//! A shard counts when it is whole, with the digest of its bytes beside it; all but the last lie on the disk then, so
//! that a power cut costs no more than a kill. Their final names they get when all are there, since those say how many
//! there are.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::types::{Int8Type, Int32Type, Int64Type, UInt16Type, UInt32Type};
use arrow_array::{ArrayRef, ArrowPrimitiveType, ListArray, PrimitiveArray, RecordBatch};
use arrow_buffer::{ArrowNativeType, Buffer, OffsetBuffer, ScalarBuffer};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use twox_hash::XxHash3_128;

use crate::error::{Context, Error, Result};
use crate::files;

/// Rows of a record batch; `datasets`' default.
const BATCH_ROWS: usize = 1000;
/// Tokens of a record batch at most, so that long blocks do not cost memory.
const BATCH_TOKENS: usize = 1 << 21;

/// Which columns token blocks are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Storage {
    /// `input_ids`, 2 bytes a token (4 for vocabularies above 65,536), and nothing that follows from them: collators make
    /// the mask and the labels.
    Compact,
    /// The published run's columns, 13 bytes a token: `input_ids` int32, `attention_mask` int8, `labels` int64.
    AsPublished,
}

/// The columns of a folder of token blocks, and the size of its shards.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub storage: Storage,
    /// Ids are below it.
    pub vocab_size: usize,
    /// Ids of a block at most.
    pub sequence_length: usize,
    /// Some blocks end in padding: a column `attention_mask` says where, whatever the storage.
    pub padded: bool,
    /// Not every token is to be predicted: a column `labels` says which, whatever the storage.
    pub labels: bool,
    /// A column `position_ids`: a token's place in its document, or in the part of it that the block holds; from 0.
    pub position_ids: bool,
    /// A column `document_ids`: which of the block's documents a token belongs to; from 0.
    pub document_ids: bool,
    /// Bytes of column data in a shard at most.
    pub max_shard_bytes: u64,
}

/// One block.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    pub ids: &'a [u32],
    /// Those before are tokens, those from here on padding.
    pub filled: usize,
    /// Where documents begin, in order.
    pub starts: &'a [usize],
    /// Whether each token is to be predicted; `None`: all are.
    pub counted: Option<&'a [bool]>,
}

/// The label of what is not to be predicted, -100, as ids are written.
const IGNORED: u32 = -100_i32 as u32;

/// Writes token blocks, shard by shard.
pub struct BlockWriter {
    folder: PathBuf,
    schema: SchemaRef,
    rows_per_shard: usize,
    rows_per_batch: usize,
    open: Option<OpenShard>,
    /// Rows that make the next record batch.
    columns: Vec<Column>,
    /// Where they end, in tokens; a 0 before them.
    ends: Vec<i32>,
    /// Of the rows behind the last whole shard.
    padding: u64,
    counted: u64,
    shards: Shards,
}

/// The numbers of one column, for all rows one behind the other.
struct Column {
    name: &'static str,
    content: Content,
    numbers: Numbers,
}

#[derive(Clone, Copy)]
enum Content {
    Ids,
    Labels,
    Mask,
    PositionIds,
    DocumentIds,
}

enum Numbers {
    U16(Vec<u16>),
    U32(Vec<u32>),
    I8(Vec<i8>),
    I32(Vec<i32>),
    I64(Vec<i64>),
}

/// The shard that is being written.
struct OpenShard {
    path: PathBuf,
    writer: StreamWriter<BufWriter<Hashed>>,
    rows: usize,
    tokens: usize,
}

/// A file, and length and digest of what was written to it.
struct Hashed {
    file: File,
    hasher: XxHash3_128,
    bytes: u64,
}

/// The whole shards of a folder, and with them what is needed to write on behind them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Shards {
    whole: Vec<Shard>,
    written: Written,
}

/// A file's length and XXH3-128 digest, which tells what a crash left half of; the store has its own of what is done.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Shard {
    bytes: u64,
    digest: String,
}

/// What a folder of blocks holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    pub rows: u64,
    /// Without padding.
    pub tokens: u64,
    pub padding: u64,
    /// Tokens that are to be predicted.
    pub counted: u64,
}

impl Layout {
    /// `datasets`' own size of shards.
    pub const MAX_SHARD_BYTES: u64 = 500_000_000;

    /// Ids alone, as narrow as they can be.
    pub fn compact(vocab_size: usize, sequence_length: usize) -> Self {
        Self {
            storage: Storage::Compact,
            vocab_size,
            sequence_length,
            padded: false,
            labels: false,
            position_ids: false,
            document_ids: false,
            max_shard_bytes: Self::MAX_SHARD_BYTES,
        }
    }

    fn columns(&self) -> Vec<Column> {
        let column = |name, content, numbers| Column { name, content, numbers };
        let mut columns = match self.storage {
            Storage::Compact => vec![column("input_ids", Content::Ids, Numbers::below(self.vocab_size))],
            Storage::AsPublished => vec![column("input_ids", Content::Ids, Numbers::I32(Vec::new()))],
        };
        let published = self.storage == Storage::AsPublished;
        let labels = if published { Numbers::I64(Vec::new()) } else { Numbers::I32(Vec::new()) };
        let optional = [
            ("attention_mask", Content::Mask, published || self.padded, Numbers::I8(Vec::new())),
            ("labels", Content::Labels, published || self.labels, labels),
            ("position_ids", Content::PositionIds, self.position_ids, Numbers::below(self.sequence_length)),
            ("document_ids", Content::DocumentIds, self.document_ids, Numbers::below(self.sequence_length)),
        ];
        let wanted = optional.into_iter().filter(|(_, _, wanted, _)| *wanted);
        columns.extend(wanted.map(|(name, content, _, numbers)| column(name, content, numbers)));
        columns
    }
}

impl Column {
    fn push(&mut self, row: &Row) {
        let numbers = &mut self.numbers;
        let Row { ids, filled, counted, .. } = *row;
        match self.content {
            Content::Ids => numbers.extend(ids.iter().copied()),
            Content::Mask => {
                numbers.extend((0..ids.len()).map(|at| u32::from(at < filled)));
            }
            Content::Labels => {
                let counts = |at: usize| at < filled && counted.is_none_or(|counted| counted[at]);
                numbers.extend(ids.iter().enumerate().map(|(at, &id)| if counts(at) { id } else { IGNORED }));
            }
            Content::PositionIds => {
                row.parts().for_each(|part| numbers.extend(0..part.len() as u32));
            }
            Content::DocumentIds => {
                for (document, part) in (0..).zip(row.parts()) {
                    numbers.extend(std::iter::repeat_n(document, part.len()));
                }
            }
        }
    }

    fn item(&self) -> FieldRef {
        Arc::new(Field::new("item", self.numbers.data_type(), true))
    }
}

impl<'a> Row<'a> {
    /// Without padding, every token to be predicted.
    pub fn full(ids: &'a [u32], starts: &'a [usize]) -> Self {
        Self { ids, filled: ids.len(), starts, counted: None }
    }

    /// The parts of documents, and last the padding, if there is any: as if it were one more document.
    fn parts(&self) -> impl Iterator<Item = Range<usize>> {
        let padding = (self.filled < self.ids.len()).then_some(self.filled);
        let inner = move || self.starts.iter().copied().filter(|&start| start > 0).chain(padding);
        std::iter::once(0).chain(inner()).zip(inner().chain([self.ids.len()])).map(|(start, end)| start..end)
    }
}

impl Numbers {
    /// The narrowest that holds what is below `bound`.
    fn below(bound: usize) -> Self {
        if bound <= 1 << 16 { Self::U16(Vec::new()) } else { Self::U32(Vec::new()) }
    }

    fn data_type(&self) -> DataType {
        match self {
            Self::U16(_) => DataType::UInt16,
            Self::U32(_) => DataType::UInt32,
            Self::I8(_) => DataType::Int8,
            Self::I32(_) => DataType::Int32,
            Self::I64(_) => DataType::Int64,
        }
    }

    /// Bytes of a number.
    fn width(&self) -> usize {
        match self {
            Self::U16(_) => 2,
            Self::U32(_) | Self::I32(_) => 4,
            Self::I8(_) => 1,
            Self::I64(_) => 8,
        }
    }

    fn largest(&self) -> u32 {
        match self {
            Self::U16(_) => u16::MAX.into(),
            Self::I8(_) => i8::MAX as u32,
            Self::I32(_) | Self::I64(_) => i32::MAX as u32,
            Self::U32(_) => u32::MAX,
        }
    }

    /// None may be above [`Self::largest`], but for [`IGNORED`] in the signed ones of labels.
    fn extend(&mut self, values: impl Iterator<Item = u32>) {
        match self {
            Self::U16(numbers) => numbers.extend(values.map(|value| value as u16)),
            Self::U32(numbers) => numbers.extend(values),
            Self::I8(numbers) => numbers.extend(values.map(|value| value as i8)),
            Self::I32(numbers) => numbers.extend(values.map(|value| value as i32)),
            Self::I64(numbers) => numbers.extend(values.map(|value| i64::from(value as i32))),
        }
    }

    /// The numbers as an array, and the memory under it, which [`Self::take_back`] wants when the array is gone.
    fn lend(&mut self) -> (ArrayRef, Buffer) {
        match self {
            Self::U16(numbers) => lend::<UInt16Type>(numbers),
            Self::U32(numbers) => lend::<UInt32Type>(numbers),
            Self::I8(numbers) => lend::<Int8Type>(numbers),
            Self::I32(numbers) => lend::<Int32Type>(numbers),
            Self::I64(numbers) => lend::<Int64Type>(numbers),
        }
    }

    fn take_back(&mut self, buffer: Buffer) {
        match self {
            Self::U16(numbers) => take_back(numbers, buffer),
            Self::U32(numbers) => take_back(numbers, buffer),
            Self::I8(numbers) => take_back(numbers, buffer),
            Self::I32(numbers) => take_back(numbers, buffer),
            Self::I64(numbers) => take_back(numbers, buffer),
        }
    }
}

fn lend<T: ArrowPrimitiveType>(numbers: &mut Vec<T::Native>) -> (ArrayRef, Buffer) {
    let buffer = Buffer::from_vec(std::mem::take(numbers));
    (Arc::new(PrimitiveArray::<T>::new(ScalarBuffer::from(buffer.clone()), None)), buffer)
}

fn take_back<T: ArrowNativeType>(numbers: &mut Vec<T>, buffer: Buffer) {
    if let Ok(memory) = buffer.into_vec() {
        *numbers = memory;
        numbers.clear();
    }
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.write(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl BlockWriter {
    /// `folder` is created; it must not exist.
    pub fn create(folder: &Path, layout: &Layout) -> Result<Self> {
        std::fs::create_dir(folder).context(|| format!("cannot create {}", folder.display()))?;
        Ok(Self::resume(folder, layout, Shards::default()))
    }

    /// Writes on in a `folder` that holds `shards`, as an earlier writer of the same layout reported them from
    /// [`Self::push`]; what else it holds is lost.
    pub fn resume(folder: &Path, layout: &Layout, shards: Shards) -> Self {
        let columns = layout.columns();
        let length = layout.sequence_length.max(1);
        // And an offset in every list.
        let row_bytes = columns.iter().map(|column| column.numbers.width() * length + 4).sum::<usize>();
        Self {
            folder: folder.to_path_buf(),
            schema: schema(&columns),
            rows_per_shard: usize::try_from(layout.max_shard_bytes / row_bytes as u64).unwrap_or(usize::MAX).max(1),
            rows_per_batch: (BATCH_TOKENS / length).clamp(1, BATCH_ROWS),
            open: None,
            columns,
            ends: vec![0],
            padding: 0,
            counted: 0,
            shards,
        }
    }

    /// Appends a row. If it ended a shard, the answer is what [`Self::resume`] needs to go on from there.
    pub fn push(&mut self, row: &Row) -> Result<Option<Shards>> {
        let largest = row.ids.iter().copied().max().unwrap_or(0);
        self.padding += (row.ids.len() - row.filled) as u64;
        self.counted += match row.counted {
            None => row.filled,
            Some(counted) => counted.iter().filter(|counts| **counts).count(),
        } as u64;
        for column in &mut self.columns {
            if matches!(column.content, Content::Ids | Content::Labels) && largest > column.numbers.largest() {
                let data_type = column.dtype();
                return Err(Error::new(format!("the token id {largest} does not fit {data_type}")));
            }
            column.push(row);
        }
        // A batch stays far below 2^31 ids.
        let end = self.ends.last().copied().unwrap_or(0) + row.ids.len() as i32;
        self.ends.push(end);
        let rows = self.ends.len() - 1;
        let in_shard = self.open.as_ref().map_or(0, |shard| shard.rows) + rows;
        if rows == self.rows_per_batch || in_shard == self.rows_per_shard {
            self.write_batch()?;
        }
        if in_shard < self.rows_per_shard {
            return Ok(None);
        }
        self.close_shard(true)?;
        Ok(Some(self.shards.clone()))
    }

    /// Writes what is left. The shards are whole then, but have no final names yet: [`Shards::publish`].
    pub fn close(mut self) -> Result<Shards> {
        if self.ends.len() > 1 {
            self.write_batch()?;
        }
        if self.open.is_none() && self.shards.whole.is_empty() {
            self.open = Some(self.open_shard()?);
        }
        self.close_shard(false)?;
        Ok(self.shards)
    }

    /// Writes what is left, gives the shards their final names, and describes them.
    pub fn finish(self, layout: &Layout) -> Result<Written> {
        let folder = self.folder.clone();
        let shards = self.close()?;
        shards.publish(layout, &folder, &folder)?;
        for shard in 0..shards.whole.len() {
            let path = unnamed(&folder, shard);
            std::fs::remove_file(&path).context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(shards.written)
    }

    fn open_shard(&self) -> Result<OpenShard> {
        let path = unnamed(&self.folder, self.shards.whole.len());
        let cannot_create = || format!("cannot create {}", path.display());
        let file =
            Hashed { file: File::create(&path).context(cannot_create)?, hasher: XxHash3_128::new(), bytes: 0 };
        let writer = StreamWriter::try_new(BufWriter::new(file), &self.schema).context(cannot_create)?;
        Ok(OpenShard { path, writer, rows: 0, tokens: 0 })
    }

    fn write_batch(&mut self) -> Result<()> {
        let mut shard = match self.open.take() {
            Some(shard) => shard,
            None => self.open_shard()?,
        };
        shard.rows += self.ends.len() - 1;
        shard.tokens += self.ends.last().copied().unwrap_or(0) as usize;
        // Arrow takes the memory over for as long as the batch lives, and copies none of it.
        let ends = Buffer::from_vec(std::mem::take(&mut self.ends));
        let offsets = OffsetBuffer::new(ScalarBuffer::from(ends.clone()));
        let (numbers, memory): (Vec<ArrayRef>, Vec<Buffer>) =
            self.columns.iter_mut().map(|column| column.numbers.lend()).unzip();
        let lists = self.columns.iter().zip(numbers).map(|(column, numbers)| {
            ListArray::try_new(column.item(), offsets.clone(), numbers, None).map(|list| Arc::new(list) as ArrayRef)
        });
        let batch = lists
            .collect::<Result<Vec<_>, _>>()
            .and_then(|lists| RecordBatch::try_new(self.schema.clone(), lists))
            .context(|| "cannot make a record batch".to_owned())?;
        shard.writer.write(&batch).context(|| format!("cannot write {}", shard.path.display()))?;
        drop((batch, offsets));
        for (column, memory) in self.columns.iter_mut().zip(memory) {
            column.numbers.take_back(memory);
        }
        take_back(&mut self.ends, ends);
        self.ends.push(0);
        self.open = Some(shard);
        Ok(())
    }

    /// Whole now, and so not to be written again after a kill; if it is to outlive a power cut, `lasting`.
    fn close_shard(&mut self, lasting: bool) -> Result<()> {
        let Some(OpenShard { path, writer, rows, tokens }) = self.open.take() else { return Ok(()) };
        let cannot_write = || format!("cannot write {}", path.display());
        let buffered = writer.into_inner().context(cannot_write)?;
        let Hashed { file, hasher, bytes } =
            buffered.into_inner().map_err(io::IntoInnerError::into_error).context(cannot_write)?;
        if lasting {
            file.sync_all().and_then(|()| files::sync_folder(&self.folder)).context(cannot_write)?;
        }
        self.shards.whole.push(Shard { bytes, digest: format!("{:032x}", hasher.finish_128()) });
        self.shards.written.rows += rows as u64;
        let padding = std::mem::take(&mut self.padding);
        self.shards.written.tokens += tokens as u64 - padding;
        self.shards.written.padding += padding;
        self.shards.written.counted += std::mem::take(&mut self.counted);
        Ok(())
    }
}

fn digest_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let (mut hasher, mut buffer) = (XxHash3_128::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(format!("{:032x}", hasher.finish_128())),
            read => hasher.write(&buffer[..read]),
        }
    }
}

impl Shards {
    pub fn written(&self) -> Written {
        self.written
    }

    /// Whether `folder` still holds all of them, to the byte.
    pub fn are_in(&self, folder: &Path) -> bool {
        self.whole.iter().enumerate().all(|(index, shard)| {
            let path = unnamed(folder, index);
            std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() == shard.bytes)
                && digest_of(&path).is_ok_and(|digest| digest == shard.digest)
        })
    }

    /// Gives the shards of `from` their final names in `to`, on the same file system, and describes them there. They
    /// stay in `from` too, as links to the same bytes, so that this can be done again.
    pub fn publish(&self, layout: &Layout, from: &Path, to: &Path) -> Result<()> {
        let mut names = Vec::new();
        let mut hasher = blake3::Hasher::new();
        for (index, shard) in self.whole.iter().enumerate() {
            let name = format!("data-{index:05}-of-{:05}.arrow", self.whole.len());
            let path = to.join(&name);
            files::link_or_copy(&unnamed(from, index), &path)
                .context(|| format!("cannot name {}", path.display()))?;
            names.push(json!({ "filename": name }));
            hasher.update(shard.digest.as_bytes());
        }
        let state = json!({
            "_data_files": names,
            "_fingerprint": &hasher.finalize().to_hex()[..16],
            "_format_columns": null,
            "_format_kwargs": {},
            "_format_type": null,
            "_output_all_columns": false,
            // What `load_dataset("json", …)` calls its only split, whichever split it is.
            "_split": "train",
        });
        write_json(&to.join("state.json"), &state)?;
        let info = json!({
            "citation": "", "description": "", "features": features(&layout.columns()), "homepage": "", "license": "",
        });
        write_json(&to.join("dataset_info.json"), &info)
    }
}

/// Where a shard lies until it is known how many there are.
fn unnamed(folder: &Path, shard: usize) -> PathBuf {
    folder.join(format!("data-{shard:05}.arrow"))
}

/// As Python's `json.dump(…, indent=2, sort_keys=True)`; the callers' keys are sorted.
fn write_json(path: &Path, value: &Value) -> Result<()> {
    let cannot_write = || format!("cannot write {}", path.display());
    let text = serde_json::to_vec_pretty(value).context(cannot_write)?;
    std::fs::write(path, text).context(cannot_write)
}

impl Column {
    /// The type of its numbers as `datasets` names it.
    fn dtype(&self) -> String {
        self.numbers.data_type().to_string().to_lowercase()
    }
}

fn features(columns: &[Column]) -> Value {
    let feature = |column: &Column| {
        let list = json!({"feature": {"dtype": column.dtype(), "_type": "Value"}, "_type": "Sequence"});
        (column.name.to_owned(), list)
    };
    columns.iter().map(feature).collect::<Map<_, _>>().into()
}

fn schema(columns: &[Column]) -> SchemaRef {
    let list = |column: &Column| Field::new(column.name, DataType::List(column.item()), true);
    let info = json!({"info": {"features": features(columns)}}).to_string();
    let fields: Vec<Field> = columns.iter().map(list).collect();
    Arc::new(Schema::new_with_metadata(fields, HashMap::from([("huggingface".to_owned(), info)])))
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_ipc::reader::StreamReader;

    use super::*;
    use crate::corpus::Blocks;

    #[test]
    fn shards_follow_one_another() {
        for (storage, row_bytes) in [(Storage::Compact, 4 * 2 + 4), (Storage::AsPublished, 4 * 13 + 12)] {
            for rows in [0, 1, 99, 100, 101, 250] {
                let folder = tempfile::tempdir().unwrap();
                let folder = folder.path().join("blocks");
                let layout = Layout { storage, max_shard_bytes: 100 * row_bytes, ..Layout::compact(300, 4) };
                let mut writer = BlockWriter::create(&folder, &layout).unwrap();
                for row in 0..rows {
                    writer.push(&Row::full(&[row, 1, 2, 3], &[])).unwrap();
                }
                let tokens = 4 * u64::from(rows);
                let written = Written { rows: rows.into(), tokens, padding: 0, counted: tokens };
                assert_eq!(writer.finish(&layout).unwrap(), written);
                let shards = rows.div_ceil(100).max(1);
                let last = format!("data-{:05}-of-{shards:05}.arrow", shards - 1);
                assert!(folder.join(last).is_file());
                assert_eq!(std::fs::read_dir(&folder).unwrap().count() as u32, shards + 2);
                let blocks = Blocks::open(&folder).unwrap();
                assert_eq!(blocks.len() as u32, rows);
                for row in 0..rows {
                    assert_eq!(blocks.row(row as usize).unwrap(), [row, 1, 2, 3]);
                }
            }
        }
    }

    #[test]
    fn documents_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("blocks");
        let layout = Layout { position_ids: true, document_ids: true, ..Layout::compact(70_000, 5) };
        let mut writer = BlockWriter::create(&folder, &layout).unwrap();
        writer.push(&Row::full(&[65_536, 7, 8, 9, 7], &[0, 1, 4])).unwrap();
        writer.push(&Row::full(&[8, 9, 7, 8, 9], &[2])).unwrap();
        writer.push(&Row::full(&[1], &[])).unwrap();
        writer.finish(&layout).unwrap();
        let file = File::open(folder.join("data-00000-of-00001.arrow")).unwrap();
        let batch = StreamReader::try_new(file, None).unwrap().next().unwrap().unwrap();
        let lists = |name: &str| batch[name].as_list::<i32>().clone();
        let ids = lists("input_ids");
        assert_eq!(ids.values().as_primitive::<UInt32Type>().values()[..5], [65_536, 7, 8, 9, 7]);
        let numbers = |name: &str| lists(name).values().as_primitive::<UInt16Type>().values().to_vec();
        assert_eq!(numbers("position_ids"), [0, 0, 1, 2, 0, 0, 1, 0, 1, 2, 0]);
        assert_eq!(numbers("document_ids"), [0, 1, 1, 1, 2, 0, 0, 1, 1, 1, 0]);
    }

    #[test]
    fn padding_and_what_is_not_predicted_are_marked() {
        for (storage, ids, labels) in
            [(Storage::Compact, "uint16", "int32"), (Storage::AsPublished, "int32", "int64")]
        {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path().join("blocks");
            let layout =
                Layout { storage, padded: true, labels: true, document_ids: true, ..Layout::compact(300, 5) };
            let mut writer = BlockWriter::create(&folder, &layout).unwrap();
            let counted = Some(&[false, true, true][..]);
            writer.push(&Row { ids: &[1, 7, 8, 2, 2], filled: 3, starts: &[0, 2], counted }).unwrap();
            writer.push(&Row { ids: &[1, 9, 2, 2, 2], filled: 2, starts: &[0], counted: None }).unwrap();
            let written = Written { rows: 2, tokens: 5, padding: 5, counted: 4 };
            assert_eq!(writer.finish(&layout).unwrap(), written);
            let file = File::open(folder.join("data-00000-of-00001.arrow")).unwrap();
            let batch = StreamReader::try_new(file, None).unwrap().next().unwrap().unwrap();
            let column = |name: &str| {
                let numbers = numbers_of(batch[name].as_list::<i32>().values());
                (batch[name].as_list::<i32>().values().data_type().to_string().to_lowercase(), numbers)
            };
            assert_eq!(column("input_ids"), (ids.to_owned(), vec![1, 7, 8, 2, 2, 1, 9, 2, 2, 2]));
            assert_eq!(column("attention_mask"), ("int8".to_owned(), vec![1, 1, 1, 0, 0, 1, 1, 0, 0, 0]));
            let expected = vec![-100, 7, 8, -100, -100, 1, 9, -100, -100, -100];
            assert_eq!(column("labels"), (labels.to_owned(), expected));
            assert_eq!(column("document_ids"), ("uint16".to_owned(), vec![0, 0, 1, 2, 2, 0, 0, 1, 1, 1]));
        }
    }

    fn numbers_of(numbers: &ArrayRef) -> Vec<i64> {
        match numbers.data_type() {
            DataType::UInt16 => numbers.as_primitive::<UInt16Type>().values().iter().map(|&n| n.into()).collect(),
            DataType::Int8 => numbers.as_primitive::<Int8Type>().values().iter().map(|&n| n.into()).collect(),
            DataType::Int32 => numbers.as_primitive::<Int32Type>().values().iter().map(|&n| n.into()).collect(),
            DataType::Int64 => numbers.as_primitive::<Int64Type>().values().to_vec(),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_shard_with_a_changed_byte_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("blocks");
        let mut writer = BlockWriter::create(&folder, &Layout::compact(300, 4)).unwrap();
        writer.push(&Row::full(&[1, 2, 3, 4], &[0])).unwrap();
        let shards = writer.close().unwrap();
        assert!(shards.are_in(&folder));
        let path = unnamed(&folder, 0);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(!shards.are_in(&folder));
        std::fs::remove_file(&path).unwrap();
        assert!(!shards.are_in(&folder));
    }

    #[test]
    fn an_id_that_does_not_fit_is_an_error() {
        for (storage, id, data_type) in
            [(Storage::Compact, 1 << 16, "uint16"), (Storage::AsPublished, 1 << 31, "int32")]
        {
            let folder = tempfile::tempdir().unwrap();
            let layout = Layout { storage, ..Layout::compact(300, 4) };
            let mut writer = BlockWriter::create(&folder.path().join("blocks"), &layout).unwrap();
            let error = writer.push(&Row::full(&[1, id], &[])).unwrap_err();
            assert_eq!(error.message(), format!("the token id {id} does not fit {data_type}"));
        }
    }
}
