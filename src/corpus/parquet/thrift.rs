//! Thrift's compact protocol, as far as footers and page headers have to be looked at before the decoder does.

/// Types, as numbers of the protocol.
/// A boolean; of a field it is the value, too.
pub const BOOL: u8 = 1;
const FALSE: u8 = 2;
pub const BYTE: u8 = 3;
pub const I16: u8 = 4;
pub const I32: u8 = 5;
pub const I64: u8 = 6;
pub const DOUBLE: u8 = 7;
pub const BINARY: u8 = 8;
pub const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
pub const STRUCT: u8 = 12;
const UUID: u8 = 13;

/// Values within one another that the decoder goes over, too.
const NESTING: u32 = 64;

/// The fields of a structure: number, type, and the shape of the structures in them.
pub struct Shape(pub &'static [(i16, u8, Option<&'static Shape>)]);

/// What is left of a structure. Each method reads one thing, or gives `None` if it is not there.
pub struct Thrift<'a> {
    pub rest: &'a [u8],
}

impl Thrift<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(byte)
    }

    /// A number without a sign.
    pub fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    /// A number of 32 bits with a sign. One with more bits is none: the decoder would drop them.
    fn signed(&mut self) -> Option<i32> {
        // Signs come last: 0, -1, 1, -2 …
        let number = u32::try_from(self.number()?).ok()?;
        Some((number >> 1) as i32 ^ -((number & 1) as i32))
    }

    /// The same where nothing below 0 makes sense; it is taken for 0, and for the decoder to refuse.
    pub fn count(&mut self) -> Option<u64> {
        Some(self.signed()?.max(0) as u64)
    }

    /// The type of the next field, whose number is put into `field`; 0 at the end of a struct.
    pub fn field(&mut self, field: &mut i16) -> Option<u8> {
        let head = self.byte()?;
        match (head >> 4, head & 15) {
            (_, 0) => {}
            (0, _) => *field = i16::try_from(self.signed()?).ok()?,
            (step, _) => *field = field.checked_add(step.into())?,
        }
        Some(head & 15)
    }

    /// Size of a list, and the type of its elements, which follow.
    pub fn list(&mut self) -> Option<(u64, u8)> {
        let head = self.byte()?;
        let size = if head >> 4 == 15 { self.number()? } else { (head >> 4).into() };
        Some((size, head & 15))
    }

    /// Goes over the value of a field of a structure. `None` also if it is of another kind than it should be.
    ///
    /// Every element of a list has a byte at least: booleans in lists, of which readers think differently and Parquet has
    /// none here, are not gone over.
    pub fn skip(&mut self, field: i16, kind: u8, structure: &Shape) -> Option<()> {
        self.skip_field(field, kind, Some(structure), NESTING)
    }

    fn skip_field(&mut self, field: i16, kind: u8, structure: Option<&Shape>, depth: u32) -> Option<()> {
        let known = structure.and_then(|shape| shape.0.iter().find(|(number, ..)| *number == field));
        let Some((_, expected, shape)) = known else { return self.skip_within(kind, None, depth) };
        let is_expected = kind == *expected || (*expected, kind) == (BOOL, FALSE);
        if is_expected { self.skip_within(kind, *shape, depth) } else { None }
    }

    /// `shape`: of a structure, or of the structures in a list.
    fn skip_within(&mut self, kind: u8, shape: Option<&Shape>, depth: u32) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match kind {
            BOOL | FALSE => {}
            BYTE => drop(self.byte()?),
            I16 | I32 | I64 => drop(self.number()?),
            DOUBLE => self.rest = self.rest.get(8..)?,
            UUID => self.rest = self.rest.get(16..)?,
            BINARY => {
                let length = self.number()?.try_into().ok()?;
                self.rest = self.rest.get(length..)?;
            }
            LIST | SET => {
                let (size, kind) = self.list()?;
                for _ in 0..size {
                    self.skip_element(kind, shape, depth)?;
                }
            }
            MAP => {
                let size = self.number()?;
                let kinds = if size > 0 { self.byte()? } else { 0 };
                for _ in 0..size {
                    self.skip_element(kinds >> 4, None, depth)?;
                    self.skip_element(kinds & 15, None, depth)?;
                }
            }
            STRUCT => {
                let mut field = 0;
                while let kind @ 1.. = self.field(&mut field)? {
                    self.skip_field(field, kind, shape, depth)?;
                }
            }
            _ => return None,
        }
        Some(())
    }

    fn skip_element(&mut self, kind: u8, shape: Option<&Shape>, depth: u32) -> Option<()> {
        if matches!(kind, BOOL | FALSE) { None } else { self.skip_within(kind, shape, depth) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: Shape = Shape(&[]);

    /// A field 1 that has a number in a field 2.
    #[test]
    fn values_are_of_the_kinds_that_they_should_be() {
        const INNER: Shape = Shape(&[(2, I32, None), (3, BOOL, None)]);
        const OUTER: Shape = Shape(&[(1, STRUCT, Some(&INNER)), (4, LIST, Some(&INNER))]);
        fn skip(field: i16, kind: u8, rest: &[u8]) -> Option<()> {
            Thrift { rest }.skip(field, kind, &OUTER)
        }
        let (number, text): (&[u8], &[u8]) = (&[0x25, 2, 0x11, 0], &[0x28, 0, 0x12, 0]);
        assert_eq!(skip(1, STRUCT, number), Some(()));
        assert_eq!(skip(1, STRUCT, text), None);
        assert_eq!(skip(1, I32, number), None);
        assert_eq!(skip(7, STRUCT, text), Some(()));
        assert_eq!(skip(4, LIST, &[&[0x1c], number].concat()), Some(()));
        assert_eq!(skip(4, LIST, &[&[0x1c], text].concat()), None);
    }

    #[test]
    fn values_of_all_types_are_gone_over() {
        let fields: [&[u8]; 9] = [
            &[0x11],                                  // true
            &[0x08, 20, 2, b'x', b'y'],               // field 10, in long form: a string
            &[0x13, 7],                               // a byte
            &[0x16, 0xff, 0x01],                      // a number
            &[0x1b, 1, 0x58, 2, 1, b'v'],             // a map of a number to a string
            &[0x1b, 0],                               // an empty map
            &[0x19, 0x25, 1, 2],                      // a list of numbers
            &[0x1c, 0x17, 0, 0, 0, 0, 0, 0, 0, 0, 0], // a struct of a double
            &[0x1d, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        ];
        let whole = [&fields.concat()[..], &[0, 99]].concat();
        let mut thrift = Thrift { rest: &whole };
        assert_eq!(thrift.skip(1, STRUCT, &FREE), Some(()));
        assert_eq!(thrift.rest, [99]);
        for length in 0..whole.len() - 1 {
            assert_eq!(Thrift { rest: &whole[..length] }.skip(1, STRUCT, &FREE), None, "{length}");
        }
        // Five as a number of 32 bits, and with a bit too many for that.
        assert_eq!(Thrift { rest: &[10] }.count(), Some(5));
        assert_eq!(Thrift { rest: &[9] }.count(), Some(0));
        assert_eq!(Thrift { rest: &[0x8a, 0x80, 0x80, 0x80, 0x10] }.count(), None);
        let endless = [&[0x19][..], &[0xf1, 0xff, 0xff, 0xff, 0xff, 0x07], &[1; 100]].concat();
        assert_eq!(Thrift { rest: &endless }.skip(1, STRUCT, &FREE), None);
        assert_eq!(Thrift { rest: &[0x1c; 100_000] }.skip(1, STRUCT, &FREE), None);
    }
}
