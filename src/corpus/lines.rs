//! The lines of many files, in order, in batches of bounded size that other threads can share out.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Context, Result};

/// Whole lines, one behind the other in one buffer, each ended by `\n`.
#[derive(Default)]
pub struct Batch {
    bytes: Vec<u8>,
    lines: Vec<Line>,
}

/// Where a line stands: in its batch, and in the files it was read from.
#[derive(Clone, Debug)]
pub struct Line {
    span: Range<usize>,
    /// Index of the file.
    pub file: usize,
    /// Counted from 1.
    pub number: u64,
}

/// Between two lines of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Bytes before it.
    pub offset: u64,
    /// Lines before it.
    pub lines: u64,
}

impl Place {
    /// Behind a line of `length` bytes without its `\n`.
    pub fn after(self, length: usize) -> Self {
        Self { offset: self.offset + length as u64 + 1, lines: self.lines + 1 }
    }
}

impl Batch {
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The bytes of a line of this batch, without its `\n`.
    pub fn bytes_of(&self, line: &Line) -> &[u8] {
        &self.bytes[line.span.clone()]
    }

    /// All lines, line ends included. One that a file lacked at its end is there too.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where a line stands in [`Self::bytes`], without its `\n`.
    pub fn span_of(&self, line: &Line) -> Range<usize> {
        line.span.clone()
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

/// Reads files line by line. A line ends at `\n` and nothing else (U+2028 and `\r` do not end one); the last line of
/// a file may lack it.
pub struct Batches<'a> {
    files: &'a [PathBuf],
    /// The file to open next.
    next: usize,
    open: Option<(File, u64)>,
    size: usize,
    /// The beginning of a line whose end was not read yet.
    carry: Vec<u8>,
}

impl<'a> Batches<'a> {
    /// Batches of about `size` bytes; a longer line makes a longer batch.
    pub fn new(files: &'a [PathBuf], size: usize) -> Self {
        Self { files, next: 0, open: None, size, carry: Vec::new() }
    }

    /// The lines of the first file from `place` on, then those of the others.
    pub fn from(files: &'a [PathBuf], size: usize, place: Place) -> Result<Self> {
        let mut batches = Self::new(files, size);
        if let (Some(path), true) = (files.first(), place != Place::default()) {
            let mut file = File::open(path).context(|| format!("cannot open {}", path.display()))?;
            file.seek(SeekFrom::Start(place.offset)).context(|| format!("cannot read {}", path.display()))?;
            batches.open = Some((file, place.lines));
            batches.next = 1;
        }
        Ok(batches)
    }

    /// Reads the next lines into `batch`, whose memory is used again; `false` when there are none left.
    pub fn read_into(&mut self, batch: &mut Batch) -> Result<bool> {
        const LEAST: usize = 64 << 10;
        let Batch { bytes, lines } = batch;
        bytes.clear();
        lines.clear();
        bytes.append(&mut self.carry);
        let mut start = 0;
        loop {
            if self.open.is_none() {
                let Some(path) = self.files.get(self.next) else { break };
                let file = File::open(path).context(|| format!("cannot open {}", path.display()))?;
                self.open = Some((file, 0));
                self.next += 1;
            }
            let index = self.next - 1;
            let Some((file, number)) = &mut self.open else { break };
            let wanted = self.size.saturating_sub(bytes.len()).max(LEAST);
            let searched = bytes.len();
            bytes.reserve(wanted);
            let read = file
                .take(wanted as u64)
                .read_to_end(bytes)
                .context(|| format!("cannot read {}", self.files[index].display()))?;
            let ended = read < wanted;
            if ended && bytes.len() > start && bytes.last() != Some(&b'\n') {
                bytes.push(b'\n');
            }
            for newline in memchr::memchr_iter(b'\n', &bytes[searched..]) {
                *number += 1;
                lines.push(Line { span: start..searched + newline, file: index, number: *number });
                start = searched + newline + 1;
            }
            if ended {
                self.open = None;
            }
            if bytes.len() >= self.size && !lines.is_empty() {
                break;
            }
        }
        self.carry.extend_from_slice(&bytes[start..]);
        bytes.truncate(start);
        Ok(!lines.is_empty())
    }
}

impl Iterator for Batches<'_> {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut batch = Batch::default();
        self.read_into(&mut batch).map(|found| found.then_some(batch)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines come out the same whatever the batch size, across files, with and without a last `\n`.
    #[test]
    fn batch_size_does_not_matter() {
        let folder = tempfile::tempdir().unwrap();
        let contents = ["a\n\u{2028}b\r\n\nlong line without end", "", "\n", "x\ny\n"];
        let mut files = Vec::new();
        for (index, content) in contents.iter().enumerate() {
            files.push(folder.path().join(index.to_string()));
            std::fs::write(&files[index], content).unwrap();
        }
        for size in [1, 7, 1 << 20] {
            let mut found = Vec::new();
            for batch in Batches::new(&files, size) {
                let batch = batch.unwrap();
                for line in batch.lines() {
                    let text = String::from_utf8(batch.bytes_of(line).to_vec()).unwrap();
                    found.push((line.file, line.number, text));
                }
            }
            let expected = [
                (0, 1, "a"),
                (0, 2, "\u{2028}b\r"),
                (0, 3, ""),
                (0, 4, "long line without end"),
                (2, 1, ""),
                (3, 1, "x"),
                (3, 2, "y"),
            ];
            let mut rest = Vec::new();
            let place = Place::default().after(1).after(5);
            for batch in Batches::from(&files, size, place).unwrap() {
                let batch = batch.unwrap();
                rest.extend(batch.lines().iter().map(|line| (line.file, line.number, batch.bytes_of(line).len())));
            }
            assert_eq!(rest, expected.map(|(file, number, text)| (file, number, text.len()))[2..]);
            assert_eq!(found, expected.map(|(file, number, text)| (file, number, text.to_owned())));
        }
    }
}
