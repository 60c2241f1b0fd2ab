//! Rows of CSV files and values of JSONL files, with the line they stand on.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Context, Error, Result};

/// A row of a table or a line of JSONL, and the line of the file on which it begins (from 1).
#[derive(Clone, Debug, PartialEq)]
pub struct At<T> {
    pub line: u64,
    pub value: T,
}

/// The text of a file, without a byte order mark; invalid UTF-8 is an error that names the line.
fn text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).context(|| format!("cannot read {}", path.display()))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|&&byte| byte == b'\n').count();
        Error::invalid(format!("{}:{line}: invalid UTF-8", path.display()))
    })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// All rows of a CSV file: fields may be quoted and hold line breaks, which are kept as they are; rows end with CRLF
/// or LF, mixed at will; empty lines are no rows. Rows may differ in length.
pub fn csv(path: &Path) -> Result<Vec<At<Vec<String>>>> {
    let text = text(path)?;
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    let mut rows = Vec::new();
    let mut record = csv::StringRecord::new();
    loop {
        match reader.read_record(&mut record) {
            Ok(false) => return Ok(rows),
            Ok(true) => {
                let line = record.position().map_or(0, csv::Position::line);
                rows.push(At { line, value: record.iter().map(str::to_owned).collect() });
            }
            Err(error) => {
                let line = error.position().map_or(0, csv::Position::line);
                return Err(Error::invalid(format!("{}:{line}: not a CSV row", path.display())).caused_by(error));
            }
        }
    }
}

/// The objects of a JSONL file. A line ends at `\n` only; empty lines are passed over.
pub fn jsonl(path: &Path) -> Result<Vec<At<Map<String, Value>>>> {
    let text = text(path)?;
    let mut objects = Vec::new();
    for (line, content) in (1..).zip(text.split('\n')) {
        if content.trim_ascii().is_empty() {
            continue;
        }
        let value: Value =
            serde_json::from_str(content).map_err(|error| invalid(path, line, "invalid JSON").caused_by(error))?;
        match value {
            Value::Object(value) => objects.push(At { line, value }),
            _ => return Err(invalid(path, line, "not a JSON object")),
        }
    }
    Ok(objects)
}

/// `PATH:LINE: MESSAGE`.
pub fn invalid(path: &Path, line: u64, message: impl std::fmt::Display) -> Error {
    Error::invalid(format!("{}:{line}: {message}", path.display()))
}

/// A string field of an object.
pub fn string<'a>(path: &Path, at: &'a At<Map<String, Value>>, key: &str) -> Result<&'a str> {
    at.value
        .get(key)
        .and_then(Value::as_str)
        .ok_or_else(|| invalid(path, at.line, format_args!("{key:?} is missing or not a string")))
}

/// A field that is a list of at least two strings.
pub fn strings<'a>(path: &Path, at: &'a At<Map<String, Value>>, key: &str) -> Result<Vec<&'a str>> {
    at.value
        .get(key)
        .and_then(Value::as_array)
        .and_then(|values| values.iter().map(Value::as_str).collect::<Option<Vec<_>>>())
        .filter(|values| values.len() > 1)
        .ok_or_else(|| invalid(path, at.line, format_args!("{key:?} is not a list of two strings or more")))
}

/// A field that is an index below `count`: a number, or a string of digits.
pub fn index(path: &Path, at: &At<Map<String, Value>>, key: &str, count: usize) -> Result<usize> {
    let value = at.value.get(key);
    let number = value.and_then(Value::as_u64).or_else(|| value.and_then(Value::as_str)?.parse().ok());
    number.and_then(|number| usize::try_from(number).ok()).filter(|&number| number < count).ok_or_else(|| {
        invalid(path, at.line, format_args!("{key:?} is not the index of one of the {count} choices"))
    })
}

/// The files of a folder with the ending `ending`, in name order.
pub fn files(folder: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).context(|| format!("cannot list {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.context(|| format!("cannot list {}", folder.display()))?.path();
        if path.extension().is_some_and(|extension| extension == ending) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
