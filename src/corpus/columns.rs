//! Arrow columns → JSON values, as Python's `json.dumps(…, ensure_ascii=False)` writes pyarrow's `to_pylist`.
//!
//! | Parquet                      | JSON                                                                        |
//! |------------------------------|-----------------------------------------------------------------------------|
//! | boolean, integers, strings   | themselves                                                                  |
//! | floats                       | shortest digits that read back the same double; NaN and ±∞ are `null`       |
//! | decimals                     | a string of all their digits, `"1.50"`, so that none is lost                |
//! | dates                        | `"2024-01-31"`                                                              |
//! | times                        | `"13:05:00"`, with 6 or 9 digits after a point if there is a fraction       |
//! | timestamps                   | `"2024-01-31T13:05:00"`, fractions likewise; `+00:00` behind if they are UTC |
//! | binary                       | its text if [`Binary::Utf8`] (the default), or base64                       |
//! | lists, structs               | arrays, objects (with `null` members)                                       |
//! | maps                         | arrays of `[key, value]`, as keys need not be strings                       |

use std::fmt;
use std::io::Write;

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrowPrimitiveType, PrimitiveArray, StructArray};
use arrow_buffer::i256;
use arrow_schema::{DataType, TimeUnit};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::python_json;

/// How the bytes of a binary column are written.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Binary {
    /// As the text that they are; bytes that are not UTF-8 are an error.
    Utf8,
    /// As base64 (RFC 4648, with padding).
    Base64,
}

/// Writes the value of one row of a column.
pub type Cell<'a> = Box<dyn Fn(usize, &mut Vec<u8>) -> Result<(), Fault> + 'a>;

/// Why a value cannot be written.
#[derive(Debug, PartialEq)]
pub enum Fault {
    NotUtf8,
    /// A type that has no JSON form here.
    Type(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::NotUtf8 => f.write_str("the bytes are not UTF-8"),
            Fault::Type(name) => write!(f, "the type {name} has no JSON form"),
        }
    }
}

/// The writer for a column's rows.
pub fn cell(array: &dyn Array, binary: Binary) -> Result<Cell<'_>, Fault> {
    let cell: Cell<'_> = match array.data_type() {
        DataType::Null => return Ok(Box::new(|_, out| null(out))),
        DataType::Boolean => {
            let array = array.as_boolean();
            Box::new(|row, out| {
                out.extend_from_slice(if array.value(row) { b"true" } else { b"false" });
                Ok(())
            })
        }
        DataType::Int8 => integers::<Int8Type>(array),
        DataType::Int16 => integers::<Int16Type>(array),
        DataType::Int32 => integers::<Int32Type>(array),
        DataType::Int64 => integers::<Int64Type>(array),
        DataType::UInt8 => integers::<UInt8Type>(array),
        DataType::UInt16 => integers::<UInt16Type>(array),
        DataType::UInt32 => integers::<UInt32Type>(array),
        DataType::UInt64 => integers::<UInt64Type>(array),
        DataType::Float16 => floats::<Float16Type>(array),
        DataType::Float32 => floats::<Float32Type>(array),
        DataType::Float64 => floats::<Float64Type>(array),
        DataType::Utf8 => {
            let array = array.as_string::<i32>();
            Box::new(|row, out| {
                python_json::string(array.value(row), out);
                Ok(())
            })
        }
        DataType::Binary => {
            let array = array.as_binary::<i32>();
            Box::new(move |row, out| bytes(array.value(row), binary, out))
        }
        DataType::FixedSizeBinary(_) => {
            let array = array.as_fixed_size_binary();
            Box::new(move |row, out| bytes(array.value(row), binary, out))
        }
        DataType::Decimal128(_, scale) => {
            let (array, scale) = (array.as_primitive::<Decimal128Type>(), *scale);
            Box::new(move |row, out| decimal(&array.value(row).to_string(), scale, out))
        }
        DataType::Decimal256(_, scale) => {
            let (array, scale) = (array.as_primitive::<Decimal256Type>(), *scale);
            Box::new(move |row, out| decimal(&i256::to_string(&array.value(row)), scale, out))
        }
        DataType::Date32 => instants::<Date32Type>(array, |days, out| date(days.into(), out)),
        DataType::Time32(TimeUnit::Millisecond) => {
            instants::<Time32MillisecondType>(array, |time, out| time_of_day(i64::from(time) * 1_000_000, out))
        }
        DataType::Time64(TimeUnit::Microsecond) => {
            instants::<Time64MicrosecondType>(array, |time, out| time_of_day(time.saturating_mul(1000), out))
        }
        DataType::Time64(TimeUnit::Nanosecond) => instants::<Time64NanosecondType>(array, time_of_day),
        DataType::Timestamp(unit, zone) => {
            let utc = zone.is_some();
            match unit {
                TimeUnit::Second => timestamps::<TimestampSecondType>(array, 1, utc),
                TimeUnit::Millisecond => timestamps::<TimestampMillisecondType>(array, 1_000, utc),
                TimeUnit::Microsecond => timestamps::<TimestampMicrosecondType>(array, 1_000_000, utc),
                TimeUnit::Nanosecond => timestamps::<TimestampNanosecondType>(array, 1_000_000_000, utc),
            }
        }
        DataType::List(_) => {
            let array = array.as_list::<i32>();
            let value = cell(array.values(), binary)?;
            Box::new(move |row, out| {
                let offsets = array.value_offsets();
                sequence(offsets[row] as usize..offsets[row + 1] as usize, out, &value)
            })
        }
        DataType::Struct(_) => object(array.as_struct(), binary)?,
        DataType::Map(_, _) => {
            let array = array.as_map();
            let (key, value) = (cell(array.keys(), binary)?, cell(array.values(), binary)?);
            let pair = move |row: usize, out: &mut Vec<u8>| {
                out.push(b'[');
                key(row, out)?;
                out.extend_from_slice(b", ");
                value(row, out)?;
                out.push(b']');
                Ok(())
            };
            Box::new(move |row, out| {
                let offsets = array.value_offsets();
                sequence(offsets[row] as usize..offsets[row + 1] as usize, out, &pair)
            })
        }
        other => return Err(Fault::Type(other.to_string())),
    };
    Ok(match array.nulls() {
        None => cell,
        Some(nulls) => Box::new(move |row, out| if nulls.is_null(row) { null(out) } else { cell(row, out) }),
    })
}

fn null(out: &mut Vec<u8>) -> Result<(), Fault> {
    out.extend_from_slice(b"null");
    Ok(())
}

fn integers<T: ArrowPrimitiveType>(array: &dyn Array) -> Cell<'_>
where
    T::Native: fmt::Display,
{
    let array = array.as_primitive::<T>();
    Box::new(|row, out| {
        python_json::integer(array.value(row), out);
        Ok(())
    })
}

/// Narrower floats are widened first, as Python has only doubles: 0.1f32 is 0.10000000149011612.
fn floats<T: ArrowPrimitiveType>(array: &dyn Array) -> Cell<'_>
where
    T::Native: Into<f64>,
{
    let array = array.as_primitive::<T>();
    Box::new(|row, out| {
        python_json::float(array.value(row).into(), out);
        Ok(())
    })
}

/// A quoted form that `write` makes of the number.
fn instants<'a, T: ArrowPrimitiveType>(
    array: &'a dyn Array,
    write: impl Fn(T::Native, &mut Vec<u8>) + 'a,
) -> Cell<'a> {
    let array: &PrimitiveArray<T> = array.as_primitive();
    Box::new(move |row, out| {
        out.push(b'"');
        write(array.value(row), out);
        out.push(b'"');
        Ok(())
    })
}

fn timestamps<'a, T: ArrowPrimitiveType<Native = i64>>(
    array: &'a dyn Array,
    per_second: i64,
    utc: bool,
) -> Cell<'a> {
    instants::<T>(array, move |value, out| {
        let seconds = value.div_euclid(per_second);
        let nanoseconds = value.rem_euclid(per_second) * (1_000_000_000 / per_second);
        date(seconds.div_euclid(86_400), out);
        out.push(b'T');
        time_of_day(seconds.rem_euclid(86_400) * 1_000_000_000 + nanoseconds, out);
        if utc {
            out.extend_from_slice(b"+00:00");
        }
    })
}

fn sequence(
    range: std::ops::Range<usize>,
    out: &mut Vec<u8>,
    item: impl Fn(usize, &mut Vec<u8>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    out.push(b'[');
    for (index, row) in range.enumerate() {
        if index > 0 {
            out.extend_from_slice(b", ");
        }
        item(row, out)?;
    }
    out.push(b']');
    Ok(())
}

fn object(array: &StructArray, binary: Binary) -> Result<Cell<'_>, Fault> {
    let names: Vec<&str> = array.fields().iter().map(|field| field.name().as_str()).collect();
    let columns = array.columns().iter().map(|column| cell(column, binary)).collect::<Result<_, _>>()?;
    let members = members(&names, columns);
    Ok(Box::new(move |row, out| {
        out.push(b'{');
        for (name, member) in &members {
            out.extend_from_slice(name);
            member(row, out)?;
        }
        out.push(b'}');
        Ok(())
    }))
}

/// Each column with the bytes that stand before its value: `"name": `, after the first with a comma.
pub fn members<'a>(names: &[&str], columns: Vec<Cell<'a>>) -> Vec<(Vec<u8>, Cell<'a>)> {
    let member = |(index, (name, column)): (usize, (&&str, _))| {
        let mut before = if index == 0 { Vec::new() } else { b", ".to_vec() };
        python_json::string(name, &mut before);
        before.extend_from_slice(b": ");
        (before, column)
    };
    names.iter().zip(columns).enumerate().map(member).collect()
}

fn bytes(value: &[u8], binary: Binary, out: &mut Vec<u8>) -> Result<(), Fault> {
    match binary {
        Binary::Utf8 => python_json::string(simdutf8::basic::from_utf8(value).map_err(|_| Fault::NotUtf8)?, out),
        Binary::Base64 => {
            out.push(b'"');
            base64(value, out);
            out.push(b'"');
        }
    }
    Ok(())
}

fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let padding = digit > chunk.len();
            out.push(if padding { b'=' } else { DIGITS[(bits >> (18 - 6 * digit)) as usize & 63] });
        }
    }
}

/// `digits` is the unscaled integer; the value is digits · 10^-scale.
fn decimal(digits: &str, scale: i8, out: &mut Vec<u8>) -> Result<(), Fault> {
    let (sign, digits) = match digits.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", digits),
    };
    let fraction = usize::try_from(scale).unwrap_or(0);
    let zeros = if digits == "0" { 0 } else { usize::from(scale.min(0).unsigned_abs()) };
    let digits = format!("{digits:0>width$}{:0<zeros$}", "", width = fraction + 1);
    let (whole, rest) = digits.split_at(digits.len() - fraction);
    let point = if rest.is_empty() { "" } else { "." };
    // Writing to a vector cannot fail.
    let _ = write!(out, "\"{sign}{whole}{point}{rest}\"");
    Ok(())
}

/// `days` since 1970-01-01 → year-month-day of the proleptic Gregorian calendar; H. Hinnant's `civil_from_days`.
fn date(days: i64, out: &mut Vec<u8>) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let sign = if year < 0 { "-" } else { "" };
    let _ = write!(out, "{sign}{:04}-{month:02}-{day:02}", year.abs());
}

/// Nanoseconds since midnight → `13:05:00`, with microseconds or nanoseconds only if there are any.
fn time_of_day(nanoseconds: i64, out: &mut Vec<u8>) {
    let (seconds, fraction) = (nanoseconds.div_euclid(1_000_000_000), nanoseconds.rem_euclid(1_000_000_000));
    let _ = write!(out, "{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    let _ = match (fraction, fraction % 1000) {
        (0, _) => Ok(()),
        (_, 0) => write!(out, ".{:06}", fraction / 1000),
        _ => write!(out, ".{fraction:09}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl Fn(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn dates_and_times() {
        for (days, expected) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (19_753, "2024-01-31"),
            (19_782, "2024-02-29"),
            (-719_162, "0001-01-01"),
            (2_932_896, "9999-12-31"),
        ] {
            assert_eq!(text(|out| date(days, out)), expected);
        }
        assert_eq!(text(|out| time_of_day(0, out)), "00:00:00");
        assert_eq!(text(|out| time_of_day(86_399_000_001_000, out)), "23:59:59.000001");
        assert_eq!(text(|out| time_of_day(47_100_000_000_001, out)), "13:05:00.000000001");
    }

    #[test]
    fn decimals_keep_every_digit() {
        for (digits, scale, expected) in [
            ("150", 2, "\"1.50\""),
            ("-5", 3, "\"-0.005\""),
            ("0", 2, "\"0.00\""),
            ("12", 0, "\"12\""),
            ("12", -2, "\"1200\""),
            ("0", -2, "\"0\""),
        ] {
            assert_eq!(text(|out| decimal(digits, scale, out).unwrap()), expected);
        }
    }

    /// The vectors of RFC 4648, section 10.
    #[test]
    fn base64_as_in_the_rfc() {
        for (plain, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
            ("fooba", "Zm9vYmE="),
        ] {
            assert_eq!(text(|out| base64(plain.as_bytes(), out)), expected);
        }
    }
}
