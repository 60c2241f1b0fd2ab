//! Parquet → JSONL: whatever the bytes, an error or lines that are JSON, as many as were counted, in little memory.
#![no_main]

use std::collections::BTreeMap;

use cmx::corpus::parquet::{Binary, Options, rows, to_jsonl};
use cmx::error::Error;
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

/// Few bytes can stand for a great many rows; so many are enough.
const ROWS: u64 = 20_000;

fuzz_target!(|bytes: &[u8]| {
    let from = cmx_fuzz::file("a.parquet", bytes);
    let to = from.with_extension("jsonl");
    let _ = rows(&from);
    let rename = BTreeMap::new();
    let binary = if bytes.len() % 2 == 0 { Binary::Base64 } else { Binary::Utf8 };
    let options = Options { columns: None, rename: &rename, binary };
    let written = std::cell::Cell::new(0);
    let converted = to_jsonl(&[(from, to.clone())], &options, 1, |rows| {
        written.set(written.get() + rows);
        if written.get() > ROWS { Err(Error::new("enough")) } else { Ok(()) }
    });
    if let Ok(counted) = converted {
        let lines = std::fs::read(&to).expect("the lines that were written");
        assert_eq!(lines.len() as u64, counted.bytes);
        let mut number = 0;
        for line in lines.split_inclusive(|&byte| byte == b'\n') {
            assert!(line.ends_with(b"\n"));
            let json: Result<&RawValue, _> = serde_json::from_slice(line);
            assert!(json.is_ok_and(|json| json.get().starts_with('{')), "{}", String::from_utf8_lossy(line));
            number += 1;
        }
        assert_eq!(number, counted.documents);
    }
});
