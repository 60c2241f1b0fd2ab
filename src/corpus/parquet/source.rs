//! A Parquet file as its decoder reads it, which believes no length that cannot be.
//!
//! The decoder asks for memory before it reads, and a few bytes in a footer or in the header of a page can say gigabytes.
//! Here what is asked for lies within the file, no page is larger than its codec can have made it, and a page's header
//! is there as a whole before the decoder sees its beginning.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::Compression;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use parquet::file::reader::{ChunkReader, Length};

use super::shapes::PAGE_HEADER;
use super::thrift::{I32, Thrift};

/// A file, shared by the readers of its columns.
#[derive(Clone)]
pub struct Source {
    file: Arc<File>,
    length: u64,
    /// Where the column chunks at hand lie, and how many bytes their codec makes of one at most.
    chunks: Arc<[(Range<u64>, u64)]>,
}

/// A file from some place on; in a column chunk the header of one page, and nothing behind it.
pub struct Rest {
    file: Arc<File>,
    /// Behind `ahead`.
    place: u64,
    ahead: Cursor<Vec<u8>>,
    /// As in [`Source`], if the place is in a column chunk.
    expansion: Option<u64>,
}

impl Source {
    pub fn new(file: File) -> Self {
        let length = file.len();
        Self { file: Arc::new(file), length, chunks: Arc::default() }
    }

    /// The same file, to read a row group from.
    pub fn of_group(&self, group: &RowGroupMetaData) -> Self {
        let chunk = |column: &ColumnChunkMetaData| {
            let (start, length) = column.byte_range();
            (start..start.saturating_add(length), expansion(column.compression()))
        };
        Self { chunks: group.columns().iter().map(chunk).collect(), ..self.clone() }
    }
}

impl Length for Source {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Source {
    type T = Rest;

    fn get_read(&self, start: u64) -> Result<Rest> {
        let chunks = self.chunks.iter().filter(|(range, _)| range.contains(&start));
        let expansion = chunks.map(|(_, expansion)| *expansion).min();
        Ok(Rest { file: self.file.clone(), place: start, ahead: Cursor::default(), expansion })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.length) {
            let message = format!("{length} bytes at {start} are asked for, and the file has {}", self.length);
            return Err(ParquetError::EOF(message));
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    }
}

impl Read for Rest {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let ahead = self.ahead.get_ref().len() as u64;
        if self.ahead.position() == ahead {
            if self.expansion.is_some() && ahead > 0 {
                // Not just an end: there the decoder would go over a list of texts that are not there, one by one.
                return Err(invalid("the header of a page goes on where it has ended".to_owned()));
            }
            let bytes = self.next()?;
            self.place += bytes.len() as u64;
            self.ahead = Cursor::new(bytes);
        }
        self.ahead.read(buffer)
    }
}

impl Rest {
    /// The next bytes of the file, or the whole header if a page is to begin here.
    fn next(&self) -> io::Result<Vec<u8>> {
        /// Most headers take some fifty bytes. Minima and maxima of long texts are in some.
        const USUAL: usize = 1 << 10;
        const LONGEST: usize = 16 << 20;
        let mut bytes = Vec::new();
        let mut wanted = USUAL;
        loop {
            let have = bytes.len();
            bytes.resize(wanted, 0);
            let read = read_at(&self.file, &mut bytes[have..], self.place.saturating_add(have as u64))?;
            bytes.truncate(have + read);
            let Some(expansion) = self.expansion else { return Ok(bytes) };
            if let Some(header) = Header::of(&bytes) {
                header.check(expansion)?;
                bytes.truncate(header.length);
                return Ok(bytes);
            }
            if bytes.len() < wanted || wanted == LONGEST {
                return Err(invalid("what should be the header of a page is none".to_owned()));
            }
            wanted = (wanted * 16).min(LONGEST);
        }
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Reads until the buffer is full or the file ends.
fn read_at(file: &File, buffer: &mut [u8], place: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], place.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// How many bytes a codec makes of one at most.
fn expansion(codec: Compression) -> u64 {
    match codec {
        // What is said about the size of such a page is not used.
        Compression::UNCOMPRESSED => u64::MAX,
        // A copy of 64 bytes takes three.
        Compression::SNAPPY => 22,
        // Each further byte of a length stands for 255.
        Compression::LZ4 | Compression::LZ4_RAW | Compression::LZO => 256,
        // A copy of 258 bytes takes two bits.
        Compression::GZIP(_) => 1032,
        // A block of 128 KiB takes a header of three bytes and the one byte that it repeats.
        Compression::ZSTD(_) => 1 << 15,
        // A meta-block has up to 16 MiB.
        Compression::BROTLI(_) => 1 << 24,
    }
}

/// What is looked at of a `PageHeader`, in bytes.
#[derive(Debug, PartialEq)]
struct Header {
    /// Of the page before compression (field 2) and after it (field 3).
    plain: u64,
    compressed: u64,
    /// Of the header itself.
    length: usize,
}

impl Header {
    /// `bytes` begin with the whole header.
    fn of(bytes: &[u8]) -> Option<Self> {
        let mut thrift = Thrift { rest: bytes };
        let (mut plain, mut compressed) = (None, None);
        let mut field = 0;
        loop {
            match (thrift.field(&mut field)?, field) {
                (0, _) => break,
                (I32, 2) => plain = Some(thrift.count()?),
                (I32, 3) => compressed = Some(thrift.count()?),
                (kind, _) => thrift.skip(field, kind, &PAGE_HEADER)?,
            }
        }
        Some(Self { plain: plain?, compressed: compressed?, length: bytes.len() - thrift.rest.len() })
    }

    fn check(&self, expansion: u64) -> io::Result<()> {
        /// Codecs have frames, and the levels of a page need not be compressed with its values.
        const BESIDE: u64 = 128 << 10;
        let Self { plain, compressed, .. } = self;
        if *plain > compressed.saturating_mul(expansion).saturating_add(BESIDE) {
            let message = format!("a page of {compressed} bytes is said to expand to {plain}, which it cannot");
            return Err(invalid(message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_no_larger_than_its_codec_can_have_made_it() {
        // Kind 0; 200 000 000 bytes before and 300 bytes after compression; a struct of one number.
        let header = b"\x15\x00\x15\x80\x88\xde\xbe\x01\x15\xd8\x04\x2c\x15\x02\x00\x00";
        let found = Header::of(&[header, &b"page"[..]].concat()).unwrap();
        assert_eq!(found, Header { plain: 200_000_000, compressed: 300, length: header.len() });
        for length in 0..header.len() {
            assert_eq!(Header::of(&header[..length]), None);
        }
        assert!(found.check(1_000_000).is_ok());
        let error = found.check(1000).unwrap_err();
        assert_eq!(error.to_string(), "a page of 300 bytes is said to expand to 200000000, which it cannot");
    }

    /// Headers as long as the statistics of long texts make them.
    #[test]
    fn a_header_is_read_as_a_whole() {
        for length in [10, 1 << 10, 100_000] {
            // Kind, sizes, a text in field 9, the end; then the page.
            let mut header = vec![0x15, 0, 0x15, 8, 0x15, 8, 0x68];
            let mut number = length;
            while number > 0x7f {
                header.push(number as u8 | 0x80);
                number >>= 7;
            }
            header.push(number as u8);
            header.resize(header.len() + length, b'x');
            header.extend([0, b'p', b'a', b'g', b'e']);
            let mut file = tempfile::tempfile().unwrap();
            io::Write::write_all(&mut file, &header).unwrap();
            let chunks = Arc::from([(0..header.len() as u64, 1)]);
            let source = Source { chunks, ..Source::new(file) };
            let mut read = vec![0; header.len() - 4];
            let mut reader = source.get_read(0).unwrap();
            reader.read_exact(&mut read).unwrap();
            assert_eq!(read, header[..header.len() - 4]);
            assert!(reader.read_exact(&mut [0]).is_err());
            let error = source.get_read(1).unwrap().read_exact(&mut read).unwrap_err();
            assert_eq!(error.to_string(), "what should be the header of a page is none");
        }
    }

    #[test]
    fn nothing_is_read_beyond_the_end() {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, b"0123456789").unwrap();
        let source = Source::new(file);
        assert_eq!(&source.get_bytes(2, 8).unwrap()[..], b"23456789");
        for (start, length) in [(2, 9), (11, 0), (0, usize::MAX), (u64::MAX, 1)] {
            assert!(source.get_bytes(start, length).is_err(), "{start} {length}");
        }
        let mut rest = String::new();
        source.get_read(7).unwrap().read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "789");
        rest.clear();
        source.get_read(11).unwrap().read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
    }
}
