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
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{Int8Array, Int32Array, Int64Array, ListArray, RecordBatch};
use arrow_buffer::{OffsetBuffer, ScalarBuffer};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use serde_json::{Value, json};

use crate::error::{Context, Error, Result};

/// Largest shard, in bytes of column data; `datasets`' default.
const SHARD_BYTES: usize = 500_000_000;
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
    /// The shard being written and the rows it has, buffered ones included.
    shard: Option<(StreamWriter<BufWriter<File>>, usize)>,
    shards: usize,
    /// Rows that make the next record batch.
    ids: Vec<i32>,
    offsets: Vec<i32>,
    written: Written,
    hasher: blake3::Hasher,
}

/// What a folder of blocks holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
        // 4 + 1 + 8 bytes a token, and an offset in each of the three lists.
        let row_bytes = 13 * sequence_length.max(1) + 12;
        Ok(Self {
            folder: folder.to_path_buf(),
            schema: schema(),
            rows_per_shard: (shard_bytes / row_bytes).max(1),
            rows_per_batch: (BATCH_TOKENS / sequence_length.max(1)).clamp(1, BATCH_ROWS),
            shard: None,
            shards: 0,
            ids: Vec::new(),
            offsets: vec![0],
            written: Written::default(),
            hasher: blake3::Hasher::new(),
        })
    }

    /// Appends a row.
    pub fn push(&mut self, ids: &[u32]) -> Result<()> {
        for &id in ids {
            let id = i32::try_from(id).map_err(|_| Error::new(format!("the token id {id} does not fit int32")))?;
            self.ids.push(id);
        }
        // A batch stays far below 2^31 ids.
        self.offsets.push(self.ids.len() as i32);
        self.written.rows += 1;
        self.written.tokens += ids.len() as u64;
        let rows = self.offsets.len() - 1;
        let in_shard = self.shard.as_ref().map_or(0, |(_, rows)| *rows) + rows;
        if rows == self.rows_per_batch || in_shard == self.rows_per_shard {
            self.write_batch()?;
        }
        if in_shard == self.rows_per_shard {
            self.close_shard()?;
        }
        Ok(())
    }

    /// Writes what is left, gives the shards their final names, and describes them.
    pub fn finish(mut self) -> Result<Written> {
        if self.offsets.len() > 1 {
            self.write_batch()?;
        }
        if self.shards == 0 && self.shard.is_none() {
            self.open_shard()?;
        }
        self.close_shard()?;
        let mut files = Vec::new();
        for shard in 0..self.shards {
            let name = format!("data-{shard:05}-of-{:05}.arrow", self.shards);
            let (from, to) = (self.unnamed(shard), self.folder.join(&name));
            std::fs::rename(from, &to).context(|| format!("cannot name {}", to.display()))?;
            files.push(json!({ "filename": name }));
        }
        self.write_json(
            "state.json",
            &json!({
                "_data_files": files,
                "_fingerprint": &self.hasher.finalize().to_hex()[..16],
                "_format_columns": null,
                "_format_kwargs": {},
                "_format_type": null,
                "_output_all_columns": false,
                // What `load_dataset("json", …)` calls its only split, whichever split it is.
                "_split": "train",
            }),
        )?;
        let info = json!({
            "citation": "", "description": "", "features": features(), "homepage": "", "license": "",
        });
        self.write_json("dataset_info.json", &info)?;
        Ok(self.written)
    }

    /// How many shards there will be is known only at the end.
    fn unnamed(&self, shard: usize) -> PathBuf {
        self.folder.join(format!("data-{shard:05}.arrow"))
    }

    fn open_shard(&mut self) -> Result<&mut (StreamWriter<BufWriter<File>>, usize)> {
        let path = self.unnamed(self.shards);
        let cannot_create = || format!("cannot create {}", path.display());
        let file = BufWriter::with_capacity(1 << 20, File::create(&path).context(cannot_create)?);
        let writer = StreamWriter::try_new(file, &self.schema).context(cannot_create)?;
        self.shards += 1;
        Ok(self.shard.insert((writer, 0)))
    }

    fn write_batch(&mut self) -> Result<()> {
        let ids = std::mem::take(&mut self.ids);
        let offsets = std::mem::replace(&mut self.offsets, vec![0]);
        let rows = offsets.len() - 1;
        // The hash covers ids and row lengths.
        for numbers in [&ids, &offsets] {
            self.hasher.update(&numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>());
        }
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        let labels: Int64Array = ids.iter().map(|&id| i64::from(id)).collect::<Vec<_>>().into();
        let mask: Int8Array = vec![1; ids.len()].into();
        let list = |data_type, values| {
            ListArray::try_new(Arc::new(Field::new("item", data_type, true)), offsets.clone(), values, None)
        };
        let batch = (|| {
            let ids = list(DataType::Int32, Arc::new(Int32Array::from(ids)))?;
            let mask = list(DataType::Int8, Arc::new(mask))?;
            let labels = list(DataType::Int64, Arc::new(labels))?;
            RecordBatch::try_new(self.schema.clone(), vec![Arc::new(ids), Arc::new(mask), Arc::new(labels)])
        })()
        .context(|| "cannot make a record batch".to_owned())?;
        if self.shard.is_none() {
            self.open_shard()?;
        }
        if let Some((writer, in_shard)) = &mut self.shard {
            let folder = &self.folder;
            writer.write(&batch).context(|| format!("cannot write to {}", folder.display()))?;
            *in_shard += rows;
        }
        Ok(())
    }

    fn close_shard(&mut self) -> Result<()> {
        let Some((writer, _)) = self.shard.take() else { return Ok(()) };
        let cannot_write = || format!("cannot write to {}", self.folder.display());
        let mut file = writer.into_inner().context(cannot_write)?;
        file.flush().context(cannot_write)
    }

    /// As Python's `json.dump(…, indent=2, sort_keys=True)`; the callers' keys are sorted.
    fn write_json(&self, name: &str, value: &Value) -> Result<()> {
        let path = self.folder.join(name);
        let cannot_write = || format!("cannot write {}", path.display());
        let text = serde_json::to_vec_pretty(value).context(cannot_write)?;
        std::fs::write(&path, text).context(cannot_write)
    }
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
