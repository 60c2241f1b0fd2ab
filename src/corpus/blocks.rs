//! Token blocks in a `save_to_disk` folder, memory-mapped: ours, the published run's, or `datasets`' own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int8Type, Int32Type, Int64Type, UInt16Type, UInt32Type};
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType};
use arrow_buffer::Buffer;
use arrow_ipc::reader::StreamDecoder;
use arrow_schema::DataType;
use memmap2::Mmap;
use serde::Deserialize;

use crate::error::{Context, Error, Result};

/// A folder of token blocks. Opening reads the headers of its record batches; a row is read from disk when it is asked
/// for.
pub struct Blocks {
    /// Of each record batch that has rows.
    columns: Vec<Columns>,
    /// Rows before each of them, and at the end all.
    starts: Vec<usize>,
}

/// The columns of a record batch that a training looks at.
struct Columns {
    input_ids: ArrayRef,
    attention_mask: Option<ArrayRef>,
    labels: Option<ArrayRef>,
    /// `document_ids`, or else `position_ids`.
    borders: Option<(Borders, ArrayRef)>,
}

/// What says where documents begin.
#[derive(Clone, Copy)]
enum Borders {
    /// Another number is another document.
    DocumentIds,
    /// A position that does not follow the one before it begins a document, as for transformers' flash attention.
    PositionIds,
}

/// A row without its padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    pub ids: Vec<u32>,
    /// What is to be predicted where each id stands (from what is before it); [`IGNORED`] for nothing.
    pub labels: Vec<i64>,
    /// Where each id's document begins; `None` if the block does not say where documents begin.
    pub documents: Option<Vec<u32>>,
    /// Ids of the row, padding included.
    pub length: usize,
}

/// The label of what is not to be predicted, as everywhere.
pub const IGNORED: i64 = -100;

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
    /// of int32, int64, uint16 or uint32 (or int8, as masks have it).
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

    /// Opens a folder and the further passes over its corpus, if it holds any: the same documents, with other merges
    /// of their tokenizer left out.
    pub fn open_passes(folder: &Path) -> Result<Vec<Self>> {
        let mut passes = vec![Self::open(folder)?];
        loop {
            let next = Self::pass_folder(folder, passes.len() as u64);
            if !next.is_dir() {
                return Ok(passes);
            }
            passes.push(Self::open(&next)?);
        }
    }

    /// Where pass number `pass`, from 0, over a corpus lies: the first is the folder itself.
    pub fn pass_folder(folder: &Path, pass: u64) -> PathBuf {
        if pass == 0 { folder.to_path_buf() } else { folder.join(format!("pass-{}", pass + 1)) }
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
        self.columns.first().map_or(0, |columns| item(&columns.input_ids, 0).map_or(0, |ids| ids.len()))
    }

    /// The ids of a row, padding included.
    pub fn row(&self, index: usize) -> Result<Vec<u32>> {
        let (columns, row) = self.place(index)?;
        numbers(&columns.input_ids, row).ok_or_else(|| Error::new(format!("block {index} holds no token ids")))
    }

    /// A row as it is trained on: what `attention_mask` has as padding is left away, `labels` say what is to be
    /// predicted (all, where there is no such column), and `document_ids`, or else `position_ids`, where documents
    /// begin.
    pub fn block(&self, index: usize) -> Result<Block> {
        let ids = self.row(index)?;
        let (columns, row) = self.place(index)?;
        let length = ids.len();
        let column = |name: &str, column: &ArrayRef| {
            let values: Vec<i64> = numbers(column, row)
                .ok_or_else(|| Error::new(format!("`{name}` of block {index} holds no numbers")))?;
            if values.len() == length {
                return Ok(values);
            }
            let found = values.len();
            Err(Error::new(format!("block {index} has {length} `input_ids` and {found} `{name}`")))
        };
        let labels = match &columns.labels {
            Some(labels) => column("labels", labels)?,
            None => ids.iter().map(|&id| id.into()).collect(),
        };
        // The number of each id's document in the row.
        let numbered = match &columns.borders {
            None => None,
            Some((borders, values)) => {
                let (name, goes_on): (_, fn(i64, i64) -> bool) = match borders {
                    Borders::DocumentIds => ("document_ids", |before, here| here == before),
                    Borders::PositionIds => ("position_ids", |before, here| here == before + 1),
                };
                let values = column(name, values)?;
                let mut number = 0;
                Some(
                    (0..length)
                        .map(|at| {
                            number += u32::from(at > 0 && !goes_on(values[at - 1], values[at]));
                            number
                        })
                        .collect::<Vec<u32>>(),
                )
            }
        };
        let kept: Vec<usize> = match &columns.attention_mask {
            Some(mask) => {
                let mask = column("attention_mask", mask)?;
                (0..length).filter(|&at| mask[at] != 0).collect()
            }
            None => (0..length).collect(),
        };
        let mut first = 0;
        let documents = numbered.map(|numbers| {
            let start = |at: usize| {
                if at > 0 && numbers[kept[at]] != numbers[kept[at - 1]] {
                    first = at as u32;
                }
                first
            };
            (0..kept.len()).map(start).collect()
        });
        Ok(Block {
            ids: kept.iter().map(|&at| ids[at]).collect(),
            labels: kept.iter().map(|&at| labels[at]).collect(),
            documents,
            length,
        })
    }

    /// The record batch with a row, and the row's number in it.
    fn place(&self, index: usize) -> Result<(&Columns, usize)> {
        if index >= self.len() {
            return Err(Error::new(format!("block {index} was asked for, but there are only {}", self.len())));
        }
        let batch = self.starts.partition_point(|&start| start <= index) - 1;
        Ok((&self.columns[batch], index - self.starts[batch]))
    }

    fn append(&mut self, path: &Path) -> Result<()> {
        let cannot_read = || format!("cannot read {} as an Arrow stream", path.display());
        let mut buffer = map(path).context(cannot_read)?;
        let mut decoder = StreamDecoder::new();
        while let Some(batch) = decoder.decode(&mut buffer).context(cannot_read)? {
            let Some(column) = batch.column_by_name("input_ids") else {
                return Err(Error::new(format!("{} has no column `input_ids`", path.display())));
            };
            let input_ids = lists(path, "input_ids", column)?;
            if batch.num_rows() > 0 {
                self.starts.push(self.len() + batch.num_rows());
                let other = |name: &str| match batch.column_by_name(name) {
                    Some(column) => lists(path, name, column).map(Some),
                    None => Ok(None),
                };
                let borders = match other("document_ids")? {
                    Some(documents) => Some((Borders::DocumentIds, documents)),
                    None => other("position_ids")?.map(|positions| (Borders::PositionIds, positions)),
                };
                self.columns.push(Columns {
                    input_ids,
                    attention_mask: other("attention_mask")?,
                    labels: other("labels")?,
                    borders,
                });
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

/// The column `name`, if it is made of lists of numbers.
fn lists(path: &Path, name: &str, column: &ArrayRef) -> Result<ArrayRef> {
    if is_list_of_numbers(column.data_type()) {
        return Ok(column.clone());
    }
    let what = if name == "input_ids" { "ids" } else { "numbers" };
    let message = format!("`{name}` of {} is {}, not lists of {what}", path.display(), column.data_type());
    Err(Error::new(message))
}

fn is_list_of_numbers(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            matches!(
                field.data_type(),
                DataType::Int8 | DataType::Int32 | DataType::Int64 | DataType::UInt16 | DataType::UInt32
            )
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

/// The numbers of a row; `None` for one that does not fit, or a null among them.
fn numbers<N: TryFrom<i64>>(column: &ArrayRef, row: usize) -> Option<Vec<N>> {
    fn convert<T: ArrowPrimitiveType, N: TryFrom<i64>>(numbers: &ArrayRef) -> Option<Vec<N>>
    where
        T::Native: Into<i64>,
    {
        numbers.as_primitive::<T>().values().iter().map(|&number| N::try_from(number.into()).ok()).collect()
    }
    let numbers = item(column, row)?;
    if numbers.null_count() > 0 {
        return None;
    }
    match numbers.data_type() {
        DataType::Int8 => convert::<Int8Type, N>(&numbers),
        DataType::Int32 => convert::<Int32Type, N>(&numbers),
        DataType::Int64 => convert::<Int64Type, N>(&numbers),
        DataType::UInt16 => convert::<UInt16Type, N>(&numbers),
        DataType::UInt32 => convert::<UInt32Type, N>(&numbers),
        _ => None,
    }
}
