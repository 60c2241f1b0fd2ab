//! Token blocks in a `save_to_disk` folder, memory-mapped: ours, the published run's, or `datasets`' own.

use std::fs::File;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, UInt16Type, UInt32Type};
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType};
use arrow_buffer::Buffer;
use arrow_ipc::reader::StreamDecoder;
use arrow_schema::DataType;
use memmap2::Mmap;
use serde::Deserialize;

use crate::error::{Context, Error, Result};

/// The `input_ids` of a folder of token blocks. Opening reads the headers of its record batches; a row's ids are
/// read from disk when it is asked for.
pub struct Blocks {
    /// The `input_ids` of each record batch that has rows.
    columns: Vec<ArrayRef>,
    /// Rows before each of them, and at the end all.
    starts: Vec<usize>,
}

/// `state.json`, as far as it matters.
#[derive(Deserialize)]
struct State {
    _data_files: Vec<DataFile>,
}

#[derive(Deserialize)]
struct DataFile {
    filename: String,
}

impl Blocks {
    /// Opens a folder that `save_to_disk` wrote: `state.json` and Arrow streams with a column `input_ids` of lists
    /// of int32, int64, uint16 or uint32.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("state.json");
        let not_a_dataset = || format!("{} is no folder of token blocks: cannot read state.json", folder.display());
        let state = std::fs::read(&path).context(not_a_dataset)?;
        let state: State = serde_json::from_slice(&state).context(not_a_dataset)?;
        let mut blocks = Self { columns: Vec::new(), starts: vec![0] };
        for DataFile { filename } in &state._data_files {
            blocks.append(&folder.join(filename))?;
        }
        Ok(blocks)
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ids in the first row; 0 if there is none.
    pub fn sequence_length(&self) -> usize {
        self.columns.first().map_or(0, |column| item(column, 0).map_or(0, |ids| ids.len()))
    }

    /// The ids of a row.
    pub fn row(&self, index: usize) -> Result<Vec<u32>> {
        if index >= self.len() {
            return Err(Error::new(format!("block {index} was asked for, but there are only {}", self.len())));
        }
        let batch = self.starts.partition_point(|&start| start <= index) - 1;
        item(&self.columns[batch], index - self.starts[batch])
            .and_then(|ids| to_u32(&ids))
            .ok_or_else(|| Error::new(format!("block {index} holds no token ids")))
    }

    fn append(&mut self, path: &Path) -> Result<()> {
        let cannot_read = || format!("cannot read {} as an Arrow stream", path.display());
        let mut buffer = map(path).context(cannot_read)?;
        let mut decoder = StreamDecoder::new();
        while let Some(batch) = decoder.decode(&mut buffer).context(cannot_read)? {
            let Some(column) = batch.column_by_name("input_ids") else {
                return Err(Error::new(format!("{} has no column `input_ids`", path.display())));
            };
            if !is_list_of_ids(column.data_type()) {
                let message =
                    format!("`input_ids` of {} is {}, not lists of ids", path.display(), column.data_type());
                return Err(Error::new(message));
            }
            if batch.num_rows() > 0 {
                self.starts.push(self.len() + batch.num_rows());
                self.columns.push(column.clone());
            }
        }
        decoder.finish().context(cannot_read)
    }
}

/// The whole file as an Arrow buffer over its mapping.
fn map(path: &Path) -> std::io::Result<Buffer> {
    let file = File::open(path)?;
    // SAFETY: the bytes must not change while they are mapped. Token blocks are artifacts, which are read-only, or
    // a user's finished dataset; `datasets` maps the same files on the same condition.
    let map = Arc::new(unsafe { Mmap::map(&file)? });
    let Some(start) = NonNull::new(map.as_ptr().cast_mut()) else { return Ok(Buffer::from_vec(Vec::<u8>::new())) };
    // SAFETY: `start` is valid for `map.len()` bytes for as long as `map` lives, and the buffer owns a share of it.
    Ok(unsafe { Buffer::from_custom_allocation(start, map.len(), map.clone()) })
}

fn is_list_of_ids(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            matches!(field.data_type(), DataType::Int32 | DataType::Int64 | DataType::UInt16 | DataType::UInt32)
        }
        _ => false,
    }
}

fn item(column: &ArrayRef, row: usize) -> Option<ArrayRef> {
    if column.is_null(row) {
        return None;
    }
    match column.data_type() {
        DataType::List(_) => Some(column.as_list::<i32>().value(row)),
        DataType::LargeList(_) => Some(column.as_list::<i64>().value(row)),
        DataType::FixedSizeList(_, _) => Some(column.as_fixed_size_list().value(row)),
        _ => None,
    }
}

/// `None` for a negative id or a null among them.
fn to_u32(ids: &ArrayRef) -> Option<Vec<u32>> {
    fn convert<T: ArrowPrimitiveType>(ids: &ArrayRef) -> Option<Vec<u32>>
    where
        T::Native: TryInto<u32>,
    {
        ids.as_primitive::<T>().values().iter().map(|&id| id.try_into().ok()).collect()
    }
    if ids.null_count() > 0 {
        return None;
    }
    match ids.data_type() {
        DataType::Int32 => convert::<Int32Type>(ids),
        DataType::Int64 => convert::<Int64Type>(ids),
        DataType::UInt16 => convert::<UInt16Type>(ids),
        DataType::UInt32 => convert::<UInt32Type>(ids),
        _ => None,
    }
}
