//! Token blocks → a folder as Hugging Face `datasets`' `save_to_disk` lays it out.
//!
//! ```text
//! data-00000-of-0000N.arrow   Arrow IPC streams: input_ids list<int32>, attention_mask list<int8>, labels list<int64>
//! state.json                  the names of the shards, in order
//! dataset_info.json           the features
//! ```
//!
//! Features are written as `Sequence`, which all versions of `datasets` read; `List`, the newer name, only 4 and later do.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{Int8Array, Int32Array, Int64Array, ListArray, RecordBatch};
use arrow_buffer::{OffsetBuffer, ScalarBuffer};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{Context, Error, Result};

/// Largest shard, in bytes of column data; `datasets`' default.
pub const SHARD_BYTES: usize = 500_000_000;
/// Rows of a record batch; `datasets`' default.
const BATCH_ROWS: usize = 1000;
/// Tokens of a record batch at most, so that long blocks do not cost memory.
const BATCH_TOKENS: usize = 1 << 21;

/// Writes token blocks of up to `sequence_length` ids, shard by shard.
pub struct BlockWriter {
    folder: PathBuf,
    schema: SchemaRef,
    rows_per_shard: usize,
    rows_per_batch: usize,
    open: Option<OpenShard>,
    /// Rows that make the next record batch.
    ids: Vec<i32>,
    offsets: Vec<i32>,
    shards: Shards,
}

/// The shard that is being written.
struct OpenShard {
    path: PathBuf,
    writer: StreamWriter<BufWriter<File>>,
    rows: usize,
    tokens: usize,
    /// Over ids and row lengths.
    hasher: blake3::Hasher,
}

/// The whole shards of a folder, and with them what is needed to write on behind them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Shards {
    whole: Vec<Shard>,
    written: Written,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Shard {
    /// Of the file.
    bytes: u64,
    /// Of its ids and row lengths.
    digest: String,
}

/// What a folder of blocks holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    pub rows: u64,
    pub tokens: u64,
}

impl BlockWriter {
    /// `folder` is created; it must not exist.
    pub fn create(folder: &Path, sequence_length: usize) -> Result<Self> {
        Self::with_shards_of(SHARD_BYTES, folder, sequence_length)
    }

    fn with_shards_of(shard_bytes: usize, folder: &Path, sequence_length: usize) -> Result<Self> {
        std::fs::create_dir(folder).context(|| format!("cannot create {}", folder.display()))?;
        Ok(Self::over(shard_bytes, folder, sequence_length, Shards::default()))
    }

    /// Writes on in a `folder` that holds `shards`, as an earlier writer reported them from [`Self::push`]; what else
    /// it holds is lost. `shard_bytes`: see [`SHARD_BYTES`].
    pub fn resume(shard_bytes: usize, folder: &Path, sequence_length: usize, shards: Shards) -> Self {
        Self::over(shard_bytes, folder, sequence_length, shards)
    }

    fn over(shard_bytes: usize, folder: &Path, sequence_length: usize, shards: Shards) -> Self {
        // 4 + 1 + 8 bytes a token, and an offset in each of the three lists.
        let row_bytes = 13 * sequence_length.max(1) + 12;
        Self {
            folder: folder.to_path_buf(),
            schema: schema(),
            rows_per_shard: (shard_bytes / row_bytes).max(1),
            rows_per_batch: (BATCH_TOKENS / sequence_length.max(1)).clamp(1, BATCH_ROWS),
            open: None,
            ids: Vec::new(),
            offsets: vec![0],
            shards,
        }
    }

    /// Appends a row. If that ended a shard, the answer is what [`Self::resume`] needs to go on from there.
    pub fn push(&mut self, ids: &[u32]) -> Result<Option<Shards>> {
        if let Some(id) = ids.iter().find(|&&id| i32::try_from(id).is_err()) {
            return Err(Error::new(format!("the token id {id} does not fit int32")));
        }
        self.ids.extend(ids.iter().map(|&id| id as i32));
        // A batch stays far below 2^31 ids.
        self.offsets.push(self.ids.len() as i32);
        let rows = self.offsets.len() - 1;
        let in_shard = self.open.as_ref().map_or(0, |shard| shard.rows) + rows;
        if rows == self.rows_per_batch || in_shard == self.rows_per_shard {
            self.write_batch()?;
        }
        if in_shard < self.rows_per_shard {
            return Ok(None);
        }
        self.close_shard()?;
        Ok(Some(self.shards.clone()))
    }

    /// Writes what is left. The shards are whole then, but have no final names yet: [`Shards::publish`].
    pub fn close(mut self) -> Result<Shards> {
        if self.offsets.len() > 1 {
            self.write_batch()?;
        }
        if self.open.is_none() && self.shards.whole.is_empty() {
            self.open = Some(self.open_shard()?);
        }
        self.close_shard()?;
        Ok(self.shards)
    }

    /// Writes what is left, gives the shards their final names, and describes them.
    pub fn finish(self) -> Result<Written> {
        let folder = self.folder.clone();
        let shards = self.close()?;
        shards.publish(&folder, &folder)?;
        Ok(shards.written)
    }

    fn open_shard(&self) -> Result<OpenShard> {
        let path = unnamed(&self.folder, self.shards.whole.len());
        let cannot_create = || format!("cannot create {}", path.display());
        let file = BufWriter::with_capacity(1 << 20, File::create(&path).context(cannot_create)?);
        let writer = StreamWriter::try_new(file, &self.schema).context(cannot_create)?;
        Ok(OpenShard { path, writer, rows: 0, tokens: 0, hasher: blake3::Hasher::new() })
    }

    fn write_batch(&mut self) -> Result<()> {
        let mut shard = match self.open.take() {
            Some(shard) => shard,
            None => self.open_shard()?,
        };
        let ids = std::mem::take(&mut self.ids);
        let offsets = std::mem::replace(&mut self.offsets, vec![0]);
        let (rows, tokens) = (offsets.len() - 1, ids.len());
        let labels: Int64Array = ids.iter().map(|&id| i64::from(id)).collect::<Vec<_>>().into();
        let mask: Int8Array = vec![1; tokens].into();
        let (ids, offsets) = (ScalarBuffer::from(ids), ScalarBuffer::from(offsets));
        for numbers in [&ids, &offsets] {
            shard.hasher.update(numbers.inner().as_slice());
        }
        let offsets = OffsetBuffer::new(offsets);
        let list = |data_type, values| {
            ListArray::try_new(Arc::new(Field::new("item", data_type, true)), offsets.clone(), values, None)
        };
        let batch = (|| {
            let ids = list(DataType::Int32, Arc::new(Int32Array::new(ids, None)))?;
            let mask = list(DataType::Int8, Arc::new(mask))?;
            let labels = list(DataType::Int64, Arc::new(labels))?;
            RecordBatch::try_new(self.schema.clone(), vec![Arc::new(ids), Arc::new(mask), Arc::new(labels)])
        })()
        .context(|| "cannot make a record batch".to_owned())?;
        shard.writer.write(&batch).context(|| format!("cannot write {}", shard.path.display()))?;
        shard.rows += rows;
        shard.tokens += tokens;
        self.open = Some(shard);
        Ok(())
    }

    fn close_shard(&mut self) -> Result<()> {
        let Some(OpenShard { path, writer, rows, tokens, hasher }) = self.open.take() else { return Ok(()) };
        let cannot_write = || format!("cannot write {}", path.display());
        let file = writer.into_inner().context(cannot_write)?;
        let file = file.into_inner().map_err(std::io::IntoInnerError::into_error).context(cannot_write)?;
        let bytes = file.metadata().context(cannot_write)?.len();
        self.shards.whole.push(Shard { bytes, digest: hasher.finalize().to_hex().to_string() });
        self.shards.written.rows += rows as u64;
        self.shards.written.tokens += tokens as u64;
        Ok(())
    }
}

impl Shards {
    pub fn written(&self) -> Written {
        self.written
    }

    /// Whether `folder` still holds all of them at their full length.
    pub fn are_in(&self, folder: &Path) -> bool {
        self.whole.iter().enumerate().all(|(index, shard)| {
            std::fs::metadata(unnamed(folder, index)).is_ok_and(|metadata| metadata.len() == shard.bytes)
        })
    }

    /// Moves the shards of `from` to their final names in `to`, on the same file system, and describes them there.
    pub fn publish(&self, from: &Path, to: &Path) -> Result<()> {
        let mut files = Vec::new();
        let mut hasher = blake3::Hasher::new();
        for (index, shard) in self.whole.iter().enumerate() {
            let name = format!("data-{index:05}-of-{:05}.arrow", self.whole.len());
            let path = to.join(&name);
            std::fs::rename(unnamed(from, index), &path).context(|| format!("cannot name {}", path.display()))?;
            files.push(json!({ "filename": name }));
            hasher.update(shard.digest.as_bytes());
        }
        let state = json!({
            "_data_files": files,
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
            "citation": "", "description": "", "features": features(), "homepage": "", "license": "",
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

fn features() -> Value {
    let list = |dtype: &str| json!({"feature": {"dtype": dtype, "_type": "Value"}, "_type": "Sequence"});
    json!({"input_ids": list("int32"), "attention_mask": list("int8"), "labels": list("int64")})
}

fn schema() -> SchemaRef {
    let list = |name: &str, data_type| {
        Field::new(name, DataType::List(Arc::new(Field::new("item", data_type, true))), true)
    };
    let fields = vec![
        list("input_ids", DataType::Int32),
        list("attention_mask", DataType::Int8),
        list("labels", DataType::Int64),
    ];
    let info = json!({"info": {"features": features()}}).to_string();
    Arc::new(Schema::new_with_metadata(fields, HashMap::from([("huggingface".to_owned(), info)])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::Blocks;

    #[test]
    fn shards_follow_one_another() {
        for rows in [0, 1, 99, 100, 101, 250] {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path().join("blocks");
            // A hundred rows of four ids.
            let mut writer = BlockWriter::with_shards_of(100 * (4 * 13 + 12), &folder, 4).unwrap();
            for row in 0..rows {
                writer.push(&[row, 1, 2, 3]).unwrap();
            }
            assert_eq!(writer.finish().unwrap(), Written { rows: rows.into(), tokens: 4 * u64::from(rows) });
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

    #[test]
    fn an_id_beyond_int32_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = BlockWriter::create(&folder.path().join("blocks"), 4).unwrap();
        let error = writer.push(&[1 << 31]).unwrap_err();
        assert_eq!(error.message(), "the token id 2147483648 does not fit int32");
    }
}
