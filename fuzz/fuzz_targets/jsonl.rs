//! JSON lines: the reader cuts a file as `split` does, and a line has the text that serde_json finds, or a fault.
#![no_main]

use std::fmt;

use cmx::corpus::{Batches, text_of};
use libfuzzer_sys::fuzz_target;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

const FIELD: &str = "text";

/// The members of an object in their order, values as they stand there.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> serde::Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        json.deserialize_map(Collect)
    }
}

fn compare(line: &[u8]) {
    let mut buffer = String::new();
    let found = text_of(line, FIELD, &mut buffer);
    if let Ok(line) = str::from_utf8(line) {
        assert_eq!(cmx::fuzzing::check(line, FIELD).is_ok(), found.is_ok(), "check and text_of differ: {line:?}");
    }
    let members: Result<Members, _> = serde_json::from_slice(line);
    let values: Vec<&RawValue> = match &members {
        Ok(Members(members)) => members.iter().filter(|(key, _)| key == FIELD).map(|(_, value)| *value).collect(),
        Err(_) => Vec::new(),
    };
    let expected: Option<String> = values.last().and_then(|value| serde_json::from_str(value.get()).ok());
    match found {
        Ok(text) => assert_eq!(Some(text), expected.as_deref(), "{line:?}"),
        // Of a field that comes twice the last counts, and the others must be sound, too.
        Err(fault) => assert!(expected.is_none() || values.len() > 1, "{fault}: {line:?}"),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let files = [cmx_fuzz::file("a.jsonl", bytes)];
    let mut lines: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
    if lines.last().is_some_and(|line| line.is_empty()) {
        lines.pop();
    }
    let mut number = 0;
    for batch in Batches::new(&files, 16) {
        let batch = batch.expect("a readable file");
        for line in batch.lines() {
            assert_eq!(batch.bytes_of(line), lines[number], "line {number}");
            number += 1;
            assert_eq!(line.number, number as u64);
        }
    }
    assert_eq!(number, lines.len());
    lines.into_iter().for_each(compare);
});
