//! The pages of one row group, looked into before their values are decoded.
//!
//! The decoder reserves memory for as many values as a dictionary's header says it has: no more than it has bytes. In the
//! delta encodings of texts a page says itself how many lengths it has, and memory is reserved for all of them, twice. What
//! it says is held against the number of values in the page's header, which has a limit here.

use std::sync::Arc;

use bytes::Bytes;
use parquet::arrow::arrow_reader::RowGroups;
use parquet::basic::Encoding;
use parquet::column::page::{Page, PageIterator, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::serialized_reader::SerializedPageReader;

use super::source::Source;
use super::thrift::Thrift;

/// Values of a page: writers end one after some tens of thousands, or at a megabyte.
const MOST_VALUES: u32 = 1 << 26;

/// A row group, as the decoder asks for it.
pub struct Group {
    pub source: Arc<Source>,
    pub metadata: Arc<ParquetMetaData>,
    pub index: usize,
}

/// The one column chunk of a row group, for a decoder that could read several.
struct Chunks(Option<Box<dyn PageReader>>);

/// The pages of a column chunk.
struct Pages {
    pages: SerializedPageReader<Source>,
    /// The highest levels of the column.
    repetition: i16,
    definition: i16,
}

impl RowGroups for Group {
    fn num_rows(&self) -> usize {
        usize::try_from(self.metadata.row_group(self.index).num_rows()).unwrap_or(0)
    }

    fn column_chunks(&self, column: usize) -> Result<Box<dyn PageIterator>> {
        let chunk = self.metadata.row_group(self.index).column(column);
        let pages = SerializedPageReader::new(self.source.clone(), chunk, self.num_rows(), None)?;
        let described = chunk.column_descr();
        let (repetition, definition) = (described.max_rep_level(), described.max_def_level());
        Ok(Box::new(Chunks(Some(Box::new(Pages { pages, repetition, definition })))))
    }

    fn row_groups(&self) -> Box<dyn Iterator<Item = &RowGroupMetaData> + '_> {
        Box::new(std::iter::once(self.metadata.row_group(self.index)))
    }

    fn metadata(&self) -> &ParquetMetaData {
        &self.metadata
    }
}

impl Iterator for Chunks {
    type Item = Result<Box<dyn PageReader>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.take().map(Ok)
    }
}

impl PageIterator for Chunks {}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Result<Page>> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.pages.get_next_page()?;
        page.iter().try_for_each(|page| self.check(page))?;
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }

    fn supports_deferred_dictionary(&self) -> bool {
        self.pages.supports_deferred_dictionary()
    }

    fn take_deferred_dictionary(&mut self) -> Result<Option<Page>> {
        let page = self.pages.take_deferred_dictionary()?;
        page.iter().try_for_each(|page| self.check(page))?;
        Ok(page)
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.pages.at_record_boundary()
    }
}

impl Pages {
    fn check(&self, page: &Page) -> Result<()> {
        if let Page::DictionaryPage { buf, num_values, .. } = page {
            return if *num_values as usize <= buf.len() {
                Ok(())
            } else {
                let message = format!("a dictionary of {num_values} values has {} bytes", buf.len());
                Err(ParquetError::General(message))
            };
        }
        let lists = match page.encoding() {
            Encoding::DELTA_LENGTH_BYTE_ARRAY => 1,
            // Of prefixes and of suffixes.
            Encoding::DELTA_BYTE_ARRAY => 2,
            _ => return Ok(()),
        };
        let most = page.num_values().min(MOST_VALUES).into();
        let values = self.values(page).unwrap_or_default();
        let mut rest = &values[..];
        for _ in 0..lists {
            // Without a byte there is nothing to reserve memory for.
            if rest.is_empty() {
                break;
            }
            rest = lengths(rest, most).ok_or_else(|| {
                let values = page.num_values();
                ParquetError::General(format!("a page of {values} values has lengths that are not as many"))
            })?;
        }
        Ok(())
    }

    /// What stands behind the levels.
    fn values(&self, page: &Page) -> Option<Bytes> {
        let start = match page {
            Page::DataPage { buf, num_values, def_level_encoding, rep_level_encoding, .. } => {
                let mut start = 0;
                for (highest, encoding) in
                    [(self.repetition, rep_level_encoding), (self.definition, def_level_encoding)]
                {
                    if highest > 0 {
                        start += levels(buf.get(start..)?, highest, *encoding, *num_values)?;
                    }
                }
                start
            }
            Page::DataPageV2 { def_levels_byte_len, rep_levels_byte_len, .. } => {
                (*def_levels_byte_len as usize).checked_add(*rep_levels_byte_len as usize)?
            }
            Page::DictionaryPage { .. } => 0,
        };
        let buffer = page.buffer();
        (start <= buffer.len()).then(|| buffer.slice(start..))
    }
}

/// How many bytes the levels before the values of a page take.
fn levels(bytes: &[u8], highest: i16, encoding: Encoding, values: u32) -> Option<usize> {
    if encoding == Encoding::RLE {
        let length = u32::from_le_bytes(*bytes.first_chunk()?);
        return usize::try_from(length).ok()?.checked_add(4);
    }
    // Of the time before there were lengths.
    let width = i16::BITS - highest.leading_zeros();
    Some((u64::from(values) * u64::from(width)).div_ceil(8) as usize)
}

/// What stands behind a list of numbers in the encoding `DELTA_BINARY_PACKED`, if it says that it has `most` at most.
fn lengths(bytes: &[u8], most: u64) -> Option<&[u8]> {
    let mut thrift = Thrift { rest: bytes };
    let (block, miniblocks, count) = (thrift.number()?, thrift.number()?, thrift.number()?);
    let _first = thrift.number()?;
    if count > most || miniblocks == 0 {
        return None;
    }
    let per_miniblock = block / miniblocks;
    let mut left = count.saturating_sub(1);
    while left > 0 && per_miniblock > 0 {
        let _smallest = thrift.number()?;
        let (widths, rest) = thrift.rest.split_at_checked(miniblocks.try_into().ok()?)?;
        thrift.rest = rest;
        for &width in widths {
            if left == 0 {
                break;
            }
            let length = per_miniblock.checked_mul(width.into())? / 8;
            // The decoder has its own word for what is cut short.
            thrift.rest = thrift.rest.get(length.try_into().ok()?..).unwrap_or_default();
            left = left.saturating_sub(per_miniblock);
        }
    }
    Some(thrift.rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_lengths_are_no_longer_than_their_page_says() {
        // Blocks of 128 in 4 parts; 100 numbers, from 5; the smallest difference is 0, parts have 0, 2, 1 and 9 bits.
        let list = [&[0x80, 1, 4, 100, 10, 0, 0, 2, 1, 9][..], &[0; 8 + 4 + 36], b"rest"].concat();
        assert_eq!(lengths(&list, 100), Some(&b"rest"[..]));
        assert_eq!(lengths(&list, 99), None);
        // Of 97 numbers one stands in the header, and no bit of the last part is there.
        let fewer = [&[0x80, 1, 4, 97, 10, 0, 0, 2, 1, 9][..], &[0; 8 + 4], b"rest"].concat();
        assert_eq!(lengths(&fewer, 97), Some(&b"rest"[..]));
        assert_eq!(lengths(&[0x80, 1, 4, 0, 0], 7), Some(&[][..]));
        assert_eq!(lengths(&[0x80, 1, 0, 5, 0, 0], 7), None);
        assert_eq!(lengths(&[0x80], 7), None);
    }

    #[test]
    fn values_stand_behind_their_levels() {
        assert_eq!(levels(&[3, 0, 0, 0, 1, 1, 1], 1, Encoding::RLE, 9), Some(7));
        assert_eq!(levels(&[3, 0, 0], 1, Encoding::RLE, 9), None);
        #[expect(deprecated, reason = "old files have it")]
        let packed = Encoding::BIT_PACKED;
        assert_eq!(levels(&[], 3, packed, 9), Some(3));
    }
}
