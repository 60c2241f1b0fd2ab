//! The schema in a Parquet file's footer, looked at before the decoder does.
//!
//! The decoder reserves memory for as many children as a group says it has, and follows groups within groups by calling
//! itself: a footer of some bytes would end the process for want of memory, one of some kilobytes for want of stack.

use bytes::Bytes;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::ChunkReader;

use super::shapes::{FILE, SCHEMA_ELEMENT};
use super::thrift::{I32, LIST, STRUCT, Thrift};

/// Groups within one another; schemas that mean something have a dozen.
const DEPTH: usize = 100;

/// An error if the schema is no tree that can be followed. What is no footer at all is for the decoder to say.
pub fn check_schema<R: ChunkReader>(file: &R) -> Result<()> {
    let Some(footer) = footer(file) else { return Ok(()) };
    let unreadable = || ParquetError::General("the footer is not the structure that it should be".to_owned());
    for schema in schemas(&footer).ok_or_else(unreadable)? {
        check_tree(&schema)?;
    }
    Ok(())
}

/// What stands before the last eight bytes, which are its length and `PAR1`.
fn footer<R: ChunkReader>(file: &R) -> Option<Bytes> {
    let end = file.len().checked_sub(8)?;
    let tail = file.get_bytes(end, 8).ok()?;
    let (length, mark) = tail.split_first_chunk()?;
    let length = u32::from_le_bytes(*length);
    let start = end.checked_sub(length.into()).filter(|_| mark == b"PAR1")?;
    file.get_bytes(start, length as usize).ok()
}

/// Of a `FileMetaData`: how many children each element of its schema (field 2) says it has. A field that comes twice
/// is there twice.
fn schemas(footer: &[u8]) -> Option<Vec<Vec<u64>>> {
    let mut thrift = Thrift { rest: footer };
    let mut schemas = Vec::new();
    let mut field = 0;
    loop {
        match (thrift.field(&mut field)?, field) {
            (0, _) => return Some(schemas),
            (LIST, 2) => schemas.push(children(&mut thrift)?),
            (kind, _) => thrift.skip(field, kind, &FILE)?,
        }
    }
}

/// Of a list of `SchemaElement`: their fields 5.
fn children(thrift: &mut Thrift) -> Option<Vec<u64>> {
    let (size, kind) = thrift.list()?;
    let mut children = Vec::new();
    for _ in 0..size {
        let (mut field, mut count) = (0, 0);
        loop {
            match (thrift.field(&mut field)?, field) {
                (0, _) => break,
                (I32, 5) => count = thrift.count()?,
                (kind, _) => thrift.skip(field, kind, &SCHEMA_ELEMENT)?,
            }
        }
        children.push(count);
    }
    (kind == STRUCT).then_some(children)
}

/// `children` has the number of children of each element, in the order of a walk that goes down first.
fn check_tree(children: &[u64]) -> Result<()> {
    // Of the groups that are open, how many children are still to come.
    let mut open: Vec<u64> = Vec::new();
    for (index, &count) in children.iter().enumerate() {
        if let Some(left) = open.last_mut() {
            *left -= 1;
        }
        if count > (children.len() - index - 1) as u64 {
            let message = format!("a group of the schema has {count} children, and fewer elements follow");
            return Err(ParquetError::General(message));
        }
        open.push(count);
        if open.len() > DEPTH {
            return Err(ParquetError::General(format!("the schema has more than {DEPTH} groups in one another")));
        }
        while open.last() == Some(&0) {
            open.pop();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_a_tree_that_can_be_followed() {
        for good in [&[0][..], &[2, 0, 0], &[2, 2, 0, 1, 0, 0], &[]] {
            assert!(check_tree(good).is_ok(), "{good:?}");
        }
        let told = |children: &[u64]| check_tree(children).unwrap_err().to_string();
        let more = "Parquet error: a group of the schema has 2147483647 children, and fewer elements follow";
        assert_eq!(told(&[1, i32::MAX as u64, 0]), more);
        let mut chain = vec![1; DEPTH - 1];
        chain.push(0);
        assert!(check_tree(&chain).is_ok());
        chain.insert(0, 1);
        assert_eq!(told(&chain), format!("Parquet error: the schema has more than {DEPTH} groups in one another"));
    }

    #[test]
    fn children_are_found_among_other_fields() {
        // A name, a number of children, and a number in field 9.
        let element = |count: u8| [0x48, 1, b'a', 0x15, count * 2, 0x45, 0x05, 0];
        let list = [&[0x19, 0x3c][..], &element(2), &element(0), &element(0)].concat();
        // Version, schema, rows; and once more a schema, in field 2 in long form.
        let footer = [&[0x15, 4][..], &list, &[0x16, 0], &[0x09, 4], &list[1..], &[0]].concat();
        assert_eq!(schemas(&footer), Some(vec![vec![2, 0, 0]; 2]));
        for length in 0..footer.len() {
            assert_eq!(schemas(&footer[..length]), None, "{length}");
        }
    }
}
