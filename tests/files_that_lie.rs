//! Files that say of themselves what cannot be are errors that name them: no panic, no memory for what is not there.

mod workshop;

use cmx::error::{Error, ExitCode};
use cmx::tokenizer::Tokenizer;
use serde_json::{Value, json};
use workshop::{Workshop, dataset};

/// Thrift's compact protocol, as little of it as a Parquet file takes. A field is written with its distance from the
/// one before.
mod thrift {
    pub fn number(mut number: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while number > 0x7f {
            bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        bytes.push(number as u8);
        bytes
    }

    fn signed(value: i64) -> Vec<u8> {
        number((value << 1 ^ value >> 63) as u64)
    }

    pub fn i32(distance: u8, value: i32) -> Vec<u8> {
        [vec![distance << 4 | 5], signed(value.into())].concat()
    }

    pub fn i64(distance: u8, value: i64) -> Vec<u8> {
        [vec![distance << 4 | 6], signed(value)].concat()
    }

    pub fn text(distance: u8, text: &str) -> Vec<u8> {
        [vec![distance << 4 | 8], number(text.len() as u64), text.into()].concat()
    }

    /// A list of structs.
    pub fn list(distance: u8, structs: &[Vec<u8>]) -> Vec<u8> {
        [vec![distance << 4 | 9, 0xfc], number(structs.len() as u64), structs.concat()].concat()
    }

    /// A list of one number or text.
    pub fn one(distance: u8, kind: u8, element: &[u8]) -> Vec<u8> {
        [&[distance << 4 | 9, 0x10 | kind], element].concat()
    }

    pub fn field(distance: u8, content: Vec<u8>) -> Vec<u8> {
        [vec![distance << 4 | 12], content].concat()
    }

    pub fn structure(fields: &[Vec<u8>]) -> Vec<u8> {
        [&fields.concat()[..], &[0]].concat()
    }
}

use thrift::{field, i32, i64, list, one, structure, text};

/// A Parquet file with one column of one 32-bit number, 7.
struct Table {
    /// Elements of the schema.
    schema: Vec<Vec<u8>>,
    codec: i32,
    /// Where the column begins, and how many bytes it has; both as they are if absent.
    start: i64,
    length: Option<i64>,
    /// The page's kind, 0 for values, and its sizes before and after compression.
    kind: i32,
    plain: i32,
    compressed: i32,
    /// More fields of the page's header, from 6 on.
    more: Vec<u8>,
}

fn group(children: i32) -> Vec<u8> {
    structure(&[i32(3, 0), text(1, "group"), i32(1, children)])
}

fn root(children: i32) -> Vec<u8> {
    structure(&[text(4, "root"), i32(1, children)])
}

fn leaf() -> Vec<u8> {
    structure(&[i32(1, 1), i32(2, 0), text(1, "n")])
}

impl Table {
    fn new() -> Self {
        let schema = vec![root(1), leaf()];
        Self { schema, codec: 0, start: 4, length: None, kind: 0, plain: 4, compressed: 4, more: Vec::new() }
    }

    fn bytes(&self) -> Vec<u8> {
        let values = structure(&[i32(1, 1), i32(1, 0), i32(1, 3), i32(1, 3)]);
        let header = structure(&[
            i32(1, self.kind),
            i32(1, self.plain),
            i32(1, self.compressed),
            field(2, values),
            self.more.clone(),
        ]);
        let page = [&header[..], &7i32.to_le_bytes()].concat();
        let length = self.length.unwrap_or(page.len() as i64);
        let column = structure(&[
            i32(1, 1),
            one(1, 5, &[0]),
            one(1, 8, &[1, b'n']),
            i32(1, self.codec),
            i64(1, 1),
            i64(1, length),
            i64(1, length),
            i64(2, self.start),
        ]);
        let chunk = structure(&[i64(2, 4), field(1, column)]);
        let rows = structure(&[list(1, &[chunk]), i64(1, length), i64(1, 1)]);
        let footer = structure(&[i32(1, 1), list(1, &self.schema), i64(1, 1), list(1, &[rows])]);
        let footer_length = (footer.len() as u32).to_le_bytes();
        [b"PAR1", &page[..], &footer, &footer_length, b"PAR1"].concat()
    }
}

/// What parquet2jsonl makes of the table.
fn converted(table: &Table) -> Result<Vec<u8>, Error> {
    let shop = Workshop::new();
    let path = shop.write("a.parquet", table.bytes());
    let corpus = dataset("corpus", Some("raw"), Some(&shop.input()));
    shop.run("parquet2jsonl", json!({"dataset": corpus})).map_err(|error| {
        assert_eq!(error.code(), ExitCode::Invalid);
        assert!(error.message().contains(&path.display().to_string()), "{error:?}");
        error
    })?;
    Ok(shop.outputs().remove("a.jsonl").expect("the lines"))
}

#[track_caller]
fn assert_refused(table: Table, expected: &str) {
    let error = converted(&table).expect_err("an error");
    assert!(error.one_line().contains(expected), "{error:?}");
}

#[test]
fn the_table_is_sound_unless_it_lies() {
    assert_eq!(converted(&Table::new()).unwrap(), b"{\"n\": 7}\n");
    let nested = [vec![root(1)], vec![group(1); 90], vec![leaf()]].concat();
    assert!(converted(&Table { schema: nested, ..Table::new() }).is_ok());
}

#[test]
fn a_schema_without_end() {
    let deep = [vec![root(1)], vec![group(1); 100_000], vec![leaf()]].concat();
    assert_refused(Table { schema: deep, ..Table::new() }, "more than 100 groups in one another");
    let wide = vec![root(1), group(i32::MAX), leaf()];
    assert_refused(Table { schema: wide, ..Table::new() }, "has 2147483647 children, and fewer elements follow");
}

#[test]
fn a_column_beyond_the_file() {
    let far = Table { length: Some(1 << 40), plain: i32::MAX, compressed: i32::MAX, ..Table::new() };
    assert_refused(far, "2147483647 bytes at");
    assert_refused(Table { start: 1 << 40, ..Table::new() }, "what should be the header of a page is none");
    // The decoder asserts that it is not so.
    assert_refused(Table { start: -5, ..Table::new() }, "its decoder gave up");
}

#[test]
fn a_page_that_expands_to_gigabytes() {
    let snappy = Table { codec: 1, plain: i32::MAX, ..Table::new() };
    assert_refused(snappy, "a page of 4 bytes is said to expand to 2147483647, which it cannot");
}

#[test]
fn a_dictionary_of_billions() {
    let more = field(2, structure(&[i32(1, i32::MAX), i32(1, 0)]));
    assert_refused(Table { kind: 2, more, ..Table::new() }, "a dictionary of 2147483647 values has 4 bytes");
}

/// A list of 2^31 - 1 texts in a field that the decoder goes over; it did so for a minute, behind the end of the file.
#[test]
fn a_header_without_end() {
    let endless = [&[4 << 4 | 9, 0xf8][..], &thrift::number(i32::MAX as u64)].concat();
    assert_refused(Table { more: endless, ..Table::new() }, "what should be the header of a page is none");
}

/// The text of a `tokenizer.json` of three pieces, with some parts replaced.
fn tokenizer_json(parts: &[(&str, Value)]) -> String {
    let mut json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "unk_token": "<unk>", "vocab": {"<unk>": 0, "a": 1, "b": 2}, "merges": []},
    });
    for (pointer, value) in parts {
        *json.pointer_mut(pointer).expect("a part") = value.clone();
    }
    json.to_string()
}

fn tokenizer(parts: &[(&str, Value)]) -> Result<Tokenizer, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, tokenizer_json(parts)).unwrap();
    Tokenizer::open(&path).inspect_err(|error| {
        assert_eq!(error.code(), ExitCode::Invalid);
        assert!(error.message().contains(&path.display().to_string()), "{error:?}");
    })
}

#[test]
fn an_id_without_measure() {
    assert_eq!(tokenizer(&[("/model/vocab/b", json!(1000))]).unwrap().vocab_size(), 1001);
    let error = tokenizer(&[("/model/vocab/b", json!(u32::MAX))]).err().expect("an error");
    assert!(error.message().ends_with("has the id 4294967295, and ids are below 4194304"), "{error:?}");
}

/// A decoder that takes a character off the end of what may be empty.
#[test]
fn a_decoder_that_fails_for_some_ids() {
    let strip = json!({"type": "Strip", "content": "a", "start": 0, "stop": 2});
    let tokenizer = tokenizer(&[("/decoder", strip)]).unwrap();
    assert_eq!(tokenizer.decode(&[2, 2]).unwrap(), "bb");
    let error = tokenizer.decode(&[1]).unwrap_err();
    assert!(error.message().ends_with("tokenizer.json cannot decode the ids 1"), "{error:?}");
    assert_eq!(tokenizer.decode(&[2]).unwrap(), "b");
}

/// The model has nothing for unknown characters, and the text that is tried at opening has none: its normalizer makes
/// all of them `a`. The document that has one is named, and not left out.
#[test]
fn a_text_that_cannot_be_encoded() {
    let replace = json!({"type": "Replace", "pattern": {"Regex": "[^z]"}, "content": "a"});
    let vocabulary = json!({"</s>": 0, "a": 1});
    let parts = [("/normalizer", replace), ("/model/vocab", vocabulary), ("/model/unk_token", json!("<nothing>"))];
    assert_eq!(tokenizer(&parts).unwrap().encode("bc").unwrap(), [1, 1]);

    let shop = Workshop::new();
    let path = shop.write("tokenizer/tokenizer.json", tokenizer_json(&parts));
    shop.write("corpus-train.jsonl", "{\"text\": \"bc\"}\n{\"text\": \"fuzz\"}\n");
    shop.write("corpus-dev.jsonl", "{\"text\": \"bc\"}\n");
    let corpus = dataset("corpus", Some("split"), Some(&shop.input()));
    let tokenizer = json!({"from": "tokenizer", "path": path});
    let error = shop.run("encode", json!({"dataset": corpus, "tokenizer": tokenizer})).unwrap_err();
    assert_eq!(error.code(), ExitCode::Invalid);
    let line = error.one_line();
    assert!(line.contains("corpus-train.jsonl, line 2: "), "{line}");
    assert!(line.contains("tokenizer.json cannot encode the text \"fuzz\": "), "{line}");
}

/// 1.6 GiB in a map of ten bytes.
#[test]
fn a_map_of_characters_that_is_not_there() {
    let map = |map: &str| json!({"type": "Precompiled", "precompiled_charsmap": map});
    let error = tokenizer(&[("/normalizer", map("BAAAaAAAAAAAAA=="))]).err().expect("an error");
    assert!(error.one_line().ends_with("its precompiled_charsmap is cut short"), "{error:?}");
    // As long as it says, but of a trie that is none: found when it is tried.
    let error = tokenizer(&[("/normalizer", map("BAAAAAAAAAAAAA=="))]).err().expect("an error");
    assert!(error.one_line().contains("cannot encode"), "{error:?}");
}
