//! Parquet files → JSON lines, row groups side by side.

mod footer;
mod pages;
mod shapes;
mod source;
mod thrift;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_schema::DataType;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader};
use parquet::arrow::{ProjectionMask, parquet_to_arrow_field_levels};

use super::columns::{Fault, cell, members};
use crate::error::{Context, Error, Result, nearest};
use crate::guard::guarded;
use source::Source;

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
const BATCH_ROWS: usize = 256;
/// Bytes that a batch should not pass on average, for rows so long that even few of them are much; the text of a batch
/// in one column has to stay below 2 GiB.
const BATCH_BYTES: u64 = 64 << 20;

/// Lines handed over at a time, in bytes; a longer line is handed over alone.
const CHUNK: usize = 1 << 20;
/// Chunks that all threads together may be ahead of the writer.
const CHUNKS_AHEAD: usize = 128;

/// A Parquet file, the JSONL file that is made of it, and how many row groups it has.
struct Conversion<'a> {
    from: &'a Path,
    to: &'a Path,
    groups: usize,
}

/// Buffers that were written and can be filled again, which spares the kernel making and zeroing new pages.
#[derive(Default)]
struct Spares(Mutex<Vec<Vec<u8>>>);

impl Spares {
    fn take(&self) -> Vec<u8> {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.unwrap_or_else(|| Vec::with_capacity(CHUNK + CHUNK / 4))
    }

    fn give(&self, mut buffer: Vec<u8>) {
        // Those of very long lines are not kept.
        if buffer.capacity() <= 2 * CHUNK {
            buffer.clear();
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        }
    }
}

/// Why a file cannot be decoded.
type Fatal = Box<dyn std::error::Error + Send + Sync>;

/// Lines of a row group, and how many they are; or why there are none.
type Lines = Result<(Vec<u8>, u64)>;

/// Files (Parquet, JSONL) to convert: each row of the first becomes a JSON object on a line of the second. Row groups
/// are converted side by side on `threads` threads and written in order, so the bytes do not depend on `threads`, nor
/// does the error, which is that of the first row group that has one. Memory is bounded by a row group's pages and
/// [`CHUNKS_AHEAD`], not by the files. `step` is called with numbers of rows that were written; its error ends the
/// work.
pub fn to_jsonl(
    files: &[(PathBuf, PathBuf)],
    options: &Options,
    threads: usize,
    step: impl Fn(u64) -> Result<()>,
) -> Result<Counted> {
    let mut conversions = Vec::with_capacity(files.len());
    for (from, to) in files {
        let table = Table::open(from)?;
        table.wanted(options)?;
        conversions.push(Conversion { from, to, groups: table.metadata.metadata().num_row_groups() });
    }
    let units = conversions.iter().flat_map(|file| (0..file.groups).map(move |group| (file, group)));
    let threads = threads.max(1);
    let ahead = (CHUNKS_AHEAD / threads).clamp(8, 64);
    let (announce, announced) = sync_channel(threads.saturating_sub(1).max(1));
    let tasks = Mutex::new((units, announce));
    let stopped = AtomicBool::new(false);
    let spares = Spares::default();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut table = None;
                while !stopped.load(Ordering::Relaxed)
                    && let Some((file, group, lines)) = next_task(&tasks, ahead)
                {
                    convert(file, group, options, &spares, &mut table, &lines);
                }
            });
        }
        let counted = write(&conversions, &announced, &spares, &step);
        // Ends the threads, which wait for nothing but to hand over what they have.
        stopped.store(true, Ordering::Relaxed);
        drop(announced);
        counted
    })
}

/// Takes the next row group and announces where its lines will come from, in the order of row groups.
fn next_task<'a>(
    tasks: &Mutex<(impl Iterator<Item = (&'a Conversion<'a>, usize)>, SyncSender<Receiver<Lines>>)>,
    ahead: usize,
) -> Option<(&'a Conversion<'a>, usize, SyncSender<Lines>)> {
    let mut tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner);
    let (file, group) = tasks.0.next()?;
    let (lines, receiver) = sync_channel(ahead);
    tasks.1.send(receiver).ok()?;
    Some((file, group, lines))
}

/// Sends a row group's lines; a receiver that went away ends the work. `open` is the thread's file of before.
fn convert<'a>(
    file: &Conversion<'a>,
    group: usize,
    options: &Options,
    spares: &Spares,
    open: &mut Option<(Table<'a>, Vec<Column>)>,
    lines: &SyncSender<Lines>,
) {
    let result = (|| {
        let (table, columns) = match open.take().filter(|(table, _)| table.path == file.from) {
            Some(kept) => open.insert(kept),
            None => {
                let table = Table::open(file.from)?;
                let columns = table.wanted(options)?;
                open.insert((table, columns))
            }
        };
        table.lines(group, columns, options.binary, spares, |text, rows| lines.send(Ok((text, rows))).is_ok())
    })();
    if let Err(error) = result {
        // Nobody listens any more if this fails.
        let _ = lines.send(Err(error));
    }
}

/// Writes what the row groups of all files become, one behind the other.
fn write(
    files: &[Conversion],
    announced: &Receiver<Receiver<Lines>>,
    spares: &Spares,
    step: impl Fn(u64) -> Result<()>,
) -> Result<Counted> {
    let mut counted = Counted::default();
    for file in files {
        let cannot_write = || format!("cannot write {}", file.to.display());
        let mut out = File::create(file.to).context(cannot_write)?;
        step(0)?;
        for group in 0..file.groups {
            let lines = announced.recv().map_err(|_| {
                Error::new(format!("{}, row group {group}: its thread ended early", file.from.display()))
            })?;
            for chunk in lines {
                let (text, rows) = chunk?;
                out.write_all(&text).context(cannot_write)?;
                counted.documents += rows;
                counted.bytes += text.len() as u64;
                spares.give(text);
                step(rows)?;
            }
        }
    }
    Ok(counted)
}

/// Hands the strings of a top-level column to `each`, row by row, as long as it wants more.
pub fn each_text(path: &Path, column: &str, mut each: impl FnMut(&str) -> Result<bool>) -> Result<()> {
    let table = Table::open(path)?;
    let columns = [column.to_owned()];
    let options = Options { columns: Some(&columns), rename: &BTreeMap::new(), binary: Binary::Utf8 };
    let index = table.wanted(&options)?[0].index;
    let kind = table.metadata.schema().field(index).data_type();
    if *kind != DataType::Utf8 {
        return Err(Error::invalid(format!("{}, column `{column}`: {kind}, not a string", path.display())));
    }
    let mut wanted = true;
    for group in 0..table.metadata.metadata().num_row_groups() {
        let mut row = 0;
        table.read(group, &[index], |batch| {
            for text in batch.column(0).as_string::<i32>() {
                let text = text.ok_or_else(|| {
                    let path = path.display();
                    Error::invalid(format!(
                        "{path}, column `{column}`, row group {group}, row {row}: null, not a string"
                    ))
                })?;
                wanted = each(text)?;
                row += 1;
                if !wanted {
                    break;
                }
            }
            Ok(wanted)
        })?;
        if !wanted {
            break;
        }
    }
    Ok(())
}

/// How many rows a file has, from its footer.
pub fn rows(path: &Path) -> Result<u64> {
    let rows = Table::open(path)?.metadata.metadata().file_metadata().num_rows();
    Ok(rows.max(0) as u64)
}

struct Table<'a> {
    path: &'a Path,
    source: Source,
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
        let source = Source::new(file);
        // Types as Parquet itself has them: the Arrow schema that some writers add changes no value, only the
        // layout in memory.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let load = || {
            footer::check_schema(&source)?;
            ArrowReaderMetadata::load(&source, options)
        };
        let metadata = guarded(load)
            .map_err(Fatal::from)
            .and_then(|loaded| loaded.map_err(Fatal::from))
            .map_err(|error| Error::invalid(cannot_read()).caused_by(error))?;
        Ok(Self { path, source, metadata })
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

    /// Hands the lines of a row group to `each`, chunk by chunk with their number, as long as it wants more.
    fn lines(
        &self,
        group: usize,
        columns: &[Column],
        binary: Binary,
        spares: &Spares,
        mut each: impl FnMut(Vec<u8>, u64) -> bool,
    ) -> Result<()> {
        let roots: Vec<usize> = columns.iter().map(|column| column.index).collect();
        let mut lines = spares.take();
        let (mut rows, mut rows_before) = (0, 0);
        let mut wanted = true;
        self.read(group, &roots, |batch| {
            let each_row = |lines: &mut Vec<u8>| {
                rows += 1;
                if lines.len() >= CHUNK {
                    wanted = each(std::mem::replace(lines, spares.take()), std::mem::take(&mut rows));
                }
                wanted
            };
            self.write(&batch, columns, binary, &mut lines, each_row).map_err(|(column, row, fault)| {
                let row = row + rows_before;
                let path = self.path.display();
                let error =
                    Error::invalid(format!("{path}, column `{column}`, row group {group}, row {row}: {fault}"));
                match fault {
                    Fault::NotUtf8 => {
                        error.hint("set `binary = \"base64\"`, or name the columns wanted in `columns`")
                    }
                    Fault::Type(_) => error.hint("name the columns wanted in `columns`"),
                }
            })?;
            rows_before += batch.num_rows();
            Ok(wanted)
        })?;
        if wanted && rows > 0 {
            each(lines, rows);
        }
        Ok(())
    }

    /// Hands the rows of a row group to `each`, batch by batch as long as it wants more; only the top-level
    /// columns `roots` are read.
    fn read(&self, group: usize, roots: &[usize], mut each: impl FnMut(RecordBatch) -> Result<bool>) -> Result<()> {
        let batches = self.batches(group, roots).map_err(|error| self.broken(group, roots, error))?;
        for batch in batches {
            if !each(batch.map_err(|error| self.broken(group, roots, error))?)? {
                break;
            }
        }
        Ok(())
    }

    /// The rows of a row group; nothing is to be asked for behind an error. The decoder asserts some of what a file
    /// should hold where it ought to check it, so it is guarded.
    fn batches(
        &self,
        group: usize,
        roots: &[usize],
    ) -> Result<impl Iterator<Item = Result<RecordBatch, Fatal>> + use<>, Fatal> {
        let mut batches = guarded(|| {
            let metadata = self.metadata.metadata().clone();
            let rows = metadata.row_group(group);
            let (count, bytes) = (rows.num_rows().max(1) as u64, rows.total_byte_size().max(1) as u64);
            let batch_rows = (BATCH_BYTES.saturating_mul(count) / bytes).clamp(1, BATCH_ROWS as u64) as usize;
            let mask = ProjectionMask::roots(self.metadata.parquet_schema(), roots.iter().copied());
            let levels = parquet_to_arrow_field_levels(self.metadata.parquet_schema(), mask, None)?;
            let source = Arc::new(self.source.of_group(rows));
            let pages = pages::Group { source, metadata, index: group };
            ParquetRecordBatchReader::try_new_with_row_groups(&levels, &pages, batch_rows, None)
        })??;
        Ok(std::iter::from_fn(move || match guarded(|| batches.next()) {
            Ok(batch) => batch.map(|batch| batch.map_err(Fatal::from)),
            Err(gave_up) => Some(Err(gave_up.into())),
        }))
    }

    /// The error for a row group that cannot be decoded. Which column is at fault is found by reading each alone.
    fn broken(&self, group: usize, roots: &[usize], error: Fatal) -> Error {
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

    /// Appends one line per row and calls `each_row` behind it, as long as that wants more; on failure the column and
    /// the row of the batch.
    fn write(
        &self,
        batch: &RecordBatch,
        columns: &[Column],
        binary: Binary,
        lines: &mut Vec<u8>,
        mut each_row: impl FnMut(&mut Vec<u8>) -> bool,
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
            if !each_row(lines) {
                break;
            }
        }
        Ok(())
    }
}
