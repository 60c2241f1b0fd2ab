//! A Parquet file → JSON lines, row group by row group.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use arrow_array::RecordBatch;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};

use super::columns::{Fault, cell, members};
use crate::error::{Context, Error, Result, nearest};

pub use super::columns::Binary;

/// Which columns are written, and how.
pub struct Options<'a> {
    /// Top-level columns, in the order wanted; all, in the file's order, when absent.
    pub columns: Option<&'a [String]>,
    /// Name in the file → name in the JSON.
    pub rename: &'a BTreeMap<String, String>,
    pub binary: Binary,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub documents: u64,
    pub bytes: u64,
}

/// Rows decoded at a time: enough to amortise the decoder's work, little enough that long documents stay few.
const BATCH_ROWS: usize = 1024;

/// Writes each row of `from` as a JSON object on a line of `to`. Memory is bounded by a row group's pages, not by
/// the file. `step` is called after each batch with the number of its rows; its error ends the work.
pub fn to_jsonl(from: &Path, to: &Path, options: &Options, step: impl Fn(u64) -> Result<()>) -> Result<Counted> {
    let table = Table::open(from)?;
    let columns = table.wanted(options)?;
    let cannot_write = || format!("cannot write {}", to.display());
    let mut out = BufWriter::with_capacity(1 << 20, File::create(to).context(cannot_write)?);
    let mut counted = Counted::default();
    let mut lines = Vec::new();
    for group in 0..table.metadata.metadata().num_row_groups() {
        let mut rows_before = 0;
        table.read(group, &columns.iter().map(|column| column.index).collect::<Vec<_>>(), |batch| {
            lines.clear();
            table.write(&batch, &columns, options.binary, &mut lines).map_err(|(column, row, fault)| {
                let row = row + rows_before;
                let error = Error::invalid(format!(
                    "{}, column `{column}`, row group {group}, row {row}: {fault}",
                    from.display()
                ));
                match fault {
                    Fault::NotUtf8 => {
                        error.hint("set `binary = \"base64\"`, or name the columns wanted in `columns`")
                    }
                    Fault::Type(_) => error.hint("name the columns wanted in `columns`"),
                }
            })?;
            out.write_all(&lines).context(cannot_write)?;
            rows_before += batch.num_rows();
            counted.documents += batch.num_rows() as u64;
            counted.bytes += lines.len() as u64;
            step(batch.num_rows() as u64)
        })?;
    }
    out.into_inner().map_err(std::io::IntoInnerError::into_error).context(cannot_write)?;
    Ok(counted)
}

/// How many rows a file has, from its footer.
pub fn rows(path: &Path) -> Result<u64> {
    let rows = Table::open(path)?.metadata.metadata().file_metadata().num_rows();
    Ok(rows.max(0) as u64)
}

struct Table<'a> {
    path: &'a Path,
    file: File,
    metadata: ArrowReaderMetadata,
}

/// A top-level column of the file and the name it gets.
struct Column {
    index: usize,
    name: String,
}

impl<'a> Table<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let cannot_read = || format!("cannot read {} as Parquet", path.display());
        let file = File::open(path).context(|| format!("cannot open {}", path.display()))?;
        // Types as Parquet itself has them: the Arrow schema that some writers add changes no value, only the
        // layout in memory.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let metadata = ArrowReaderMetadata::load(&file, options)
            .map_err(|error| Error::invalid(cannot_read()).caused_by(error))?;
        Ok(Self { path, file, metadata })
    }

    /// The columns asked for, in the order in which they are written.
    fn wanted(&self, options: &Options) -> Result<Vec<Column>> {
        let fields = self.metadata.schema().fields();
        let names = || fields.iter().map(|field| field.name().as_str());
        let find = |name: &str| {
            names().position(|found| found == name).ok_or_else(|| {
                let error = Error::invalid(format!("{} has no column `{name}`", self.path.display()));
                match nearest(name, names()) {
                    Some(near) => error.hint(format!("did you mean `{near}`?")),
                    None => error.hint(format!("its columns are: {}", names().collect::<Vec<_>>().join(", "))),
                }
            })
        };
        let indices: Vec<usize> = match options.columns {
            Some(columns) => columns.iter().map(|name| find(name)).collect::<Result<_>>()?,
            None => (0..fields.len()).collect(),
        };
        for name in options.rename.keys() {
            if !indices.contains(&find(name)?) {
                let message = format!("`rename` names the column `{name}`, which `columns` leaves out");
                return Err(Error::invalid(message));
            }
        }
        let mut columns: Vec<Column> = Vec::new();
        for index in indices {
            let name = fields[index].name();
            let name = options.rename.get(name).unwrap_or(name);
            if columns.iter().any(|column| column.name == *name) {
                let message = format!("{}: two columns would be named `{name}`", self.path.display());
                return Err(Error::invalid(message).hint("choose among them with `columns` and `rename`"));
            }
            columns.push(Column { index, name: name.clone() });
        }
        Ok(columns)
    }

    /// Hands the rows of a row group to `each`, batch by batch; only the top-level columns `roots` are read.
    fn read(&self, group: usize, roots: &[usize], mut each: impl FnMut(RecordBatch) -> Result<()>) -> Result<()> {
        let broken = |error: Box<dyn std::error::Error + Send + Sync>| self.broken(group, roots, error);
        for batch in self.batches(group, roots).map_err(|error| broken(error.into()))? {
            each(batch.map_err(|error| broken(error.into()))?)?;
        }
        Ok(())
    }

    fn batches(
        &self,
        group: usize,
        roots: &[usize],
    ) -> parquet::errors::Result<impl Iterator<Item = Result<RecordBatch, arrow_schema::ArrowError>> + use<>> {
        let mask = ProjectionMask::roots(self.metadata.parquet_schema(), roots.iter().copied());
        ParquetRecordBatchReaderBuilder::new_with_metadata(self.file.try_clone()?, self.metadata.clone())
            .with_row_groups(vec![group])
            .with_projection(mask)
            .with_batch_size(BATCH_ROWS)
            .build()
    }

    /// The error for a row group that cannot be decoded. Which column is at fault is found by reading each alone.
    fn broken(&self, group: usize, roots: &[usize], error: Box<dyn std::error::Error + Send + Sync>) -> Error {
        let readable = |root: &&usize| match self.batches(group, &[**root]) {
            Ok(mut batches) => batches.all(|batch| batch.is_ok()),
            Err(_) => false,
        };
        let place = match roots.iter().find(|root| !readable(root)) {
            Some(root) => format!("column `{}`, row group {group}", self.metadata.schema().field(*root).name()),
            None => format!("row group {group}"),
        };
        Error::invalid(format!("{}, {place}: cannot be decoded", self.path.display())).caused_by(error)
    }

    /// Appends one line per row; on failure the column and the row of the batch.
    fn write(
        &self,
        batch: &RecordBatch,
        columns: &[Column],
        binary: Binary,
        lines: &mut Vec<u8>,
    ) -> Result<(), (String, usize, Fault)> {
        // A projected batch has its columns in the file's order.
        let mut order: Vec<usize> = columns.iter().map(|column| column.index).collect();
        order.sort_unstable();
        let mut cells = Vec::with_capacity(columns.len());
        for column in columns {
            let array = batch.column(order.partition_point(|&index| index < column.index));
            cells.push(cell(array, binary).map_err(|fault| (column.name.clone(), 0, fault))?);
        }
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        let members = members(&names, cells);
        for row in 0..batch.num_rows() {
            lines.push(b'{');
            for ((before, member), name) in members.iter().zip(&names) {
                lines.extend_from_slice(before);
                member(row, lines).map_err(|fault| ((*name).to_owned(), row, fault))?;
            }
            lines.extend_from_slice(b"}\n");
        }
        Ok(())
    }
}
