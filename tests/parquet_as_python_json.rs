//! Parquet becomes the JSON lines that Python would write of it, and what cannot be read is named to the column.

mod workshop;

use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{Int32Builder, ListBuilder, MapBuilder, StringBuilder};
use arrow_array::types::Int64Type;
use arrow_array::*;
use arrow_schema::{DataType, Field};
use cmx::error::ExitCode;
use parquet::arrow::ArrowWriter;
use serde_json::json;
use sha2::{Digest, Sha256};
use workshop::{Workshop, dataset, python, shared};

/// `tests/parity/parquet_as_json.py` on the shared files: rows, and SHA-256 of the lines.
const BY_PYARROW: &[(&str, usize, &str)] = &[
    ("chatlm_my_test_dataset_2k", 2000, "8d0817f5ee2c6133d29c6886c94f00eabd40cd3e17b19583096c6b303dc49160"),
    ("chatlm_my_train_dataset_3k", 3000, "810dfe1a184107db2ff63650d2869a2d91b108622e0afbf2317884a4f2e3e331"),
    ("chatlm_my_valid_dataset_1k", 1000, "563319569a01eb625e34fd037c043c7a5c0b7ec08b27960ee10f558046a6d87a"),
    ("gsm8k", 7473, "6043ef64147b59871f4fd3adf669c306fe0a4c27e5a5c4bfb761f3f084895a13"),
    ("pt_alltypes_tiny_pages", 7300, "b3317e4e38923247b656fc3a0ebf366b309cd0fcdbbe6082a814361b8259e7f4"),
    ("pt_concatenated_gzip_members", 513, "fee870036389ec1d9f7eb1a2de945ebdfb21bdcdb67c47ef59af1c7ca9413730"),
    ("pt_delta_byte_array", 1000, "afc9e42e0b9bac1505eb4c326737d9ec3e0db0229621e599748b85e3f5b37bd7"),
    ("pt_delta_length_byte_array", 1000, "82b4e4271cd47e1c38dbe29ffd5c5cd45434bd27969c289a0ef90e7c2d1bbb6e"),
    ("pt_hadoop_lz4_compressed_larger", 10000, "e131d8e132529ee8908dfe15fd1680e70f12b1c6ad0f4d9f1e926239ccd6d7d3"),
    ("pt_lz4_raw_compressed_larger", 10000, "e131d8e132529ee8908dfe15fd1680e70f12b1c6ad0f4d9f1e926239ccd6d7d3"),
    ("pt_nulls.snappy", 8, "cc6e43e72ee45245051b2c3a12aff1fe6e077f91749557dabff6b5b31773f64b"),
    (
        "pt_plain-dict-uncompressed-checksum",
        1000,
        "bc1cf405dd8ac1da71675453c06fc4dec9699e40a762dfba9ec1a62ea11d8826",
    ),
    ("pt_rle-dict-snappy-checksum", 1000, "587224f6a92cf2aa4648135e0a72f1f333b85b8330dd1f7522351de566f59f0c"),
];

fn convert(shop: &Workshop, parameters: serde_json::Value) -> cmx::error::Result<()> {
    let mut all = json!({"dataset": dataset("corpus", Some("raw"), Some(&shop.input()))});
    for (name, value) in parameters.as_object().unwrap() {
        all[name] = value.clone();
    }
    shop.run("parquet2jsonl", all)
}

fn write_parquet(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[test]
fn every_real_file_gives_the_bytes_that_python_gives() {
    let Some(folder) = shared("parquet") else { return };
    let shop = Workshop::new();
    for (name, _, _) in BY_PYARROW {
        std::fs::copy(folder.join(format!("{name}.parquet")), shop.input().join(format!("{name}.parquet")))
            .unwrap();
    }
    convert(&shop, json!({})).unwrap();
    let outputs = shop.outputs();
    assert_eq!(outputs.len(), BY_PYARROW.len());
    for (name, rows, digest) in BY_PYARROW {
        let lines = &outputs[&format!("{name}.jsonl")];
        assert_eq!(lines.iter().filter(|byte| **byte == b'\n').count(), *rows, "{name}");
        let found: String = Sha256::digest(lines).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, *digest, "{name}");
    }
    let rows: usize = BY_PYARROW.iter().map(|(_, rows, _)| rows).sum();
    assert_eq!(shop.metrics()["documents"], json!(rows));
}

/// The table above is what the pyarrow of today says.
#[test]
#[ignore = "needs the Python that `make parity` prepares"]
fn python_gives_these_bytes_still() {
    let (Some(python), Some(folder)) = (python(), shared("parquet")) else { return };
    let files = BY_PYARROW.iter().map(|(name, _, _)| folder.join(format!("{name}.parquet")));
    let output = std::process::Command::new(python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/parquet_as_json.py"))
        .args(files)
        .output()
        .unwrap();
    let expected: String =
        BY_PYARROW.iter().map(|(name, rows, digest)| format!("{name}.parquet {rows} {digest}\n")).collect();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}

#[test]
fn every_type_has_its_form() {
    let shop = Workshop::new();
    let mut lists = ListBuilder::new(Int32Builder::new());
    lists.append_value([Some(1), None]);
    lists.append_null();
    let mut maps = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    maps.keys().append_value("k");
    maps.values().append_value(7);
    maps.append(true).unwrap();
    maps.append(false).unwrap();
    let structs = StructArray::from(vec![
        (
            Arc::new(Field::new("a", DataType::Utf8, true)),
            Arc::new(StringArray::from(vec![Some("中"), None])) as ArrayRef,
        ),
        (Arc::new(Field::new("b", DataType::Boolean, true)), Arc::new(BooleanArray::from(vec![true, false])) as _),
    ]);
    let decimals = Decimal128Array::from(vec![-150, 5]).with_precision_and_scale(9, 2).unwrap();
    write_parquet(
        &shop.input().join("types.parquet"),
        vec![
            ("string", Arc::new(StringArray::from(vec!["a \"b\" \\ \n \u{1} \u{2028}", ""]))),
            ("u64", Arc::new(UInt64Array::from(vec![u64::MAX, 0]))),
            ("f32", Arc::new(Float32Array::from(vec![0.1, f32::NAN]))),
            ("f64", Arc::new(Float64Array::from(vec![1e16, f64::INFINITY]))),
            ("decimal", Arc::new(decimals)),
            ("date", Arc::new(Date32Array::from(vec![Some(19_753), None]))),
            ("time", Arc::new(Time64MicrosecondArray::from(vec![1, 3_600_000_000]))),
            ("naive", Arc::new(TimestampMillisecondArray::from(vec![0, -1]))),
            ("utc", Arc::new(TimestampNanosecondArray::from(vec![1, 1000]).with_timezone("UTC"))),
            ("list", Arc::new(lists.finish())),
            ("map", Arc::new(maps.finish())),
            ("struct", Arc::new(structs)),
            ("binary", Arc::new(BinaryArray::from(vec!["text".as_bytes(), b""]))),
            ("words", Arc::new(StringArray::from(vec!["x", "y"]))),
            ("nothing", Arc::new(PrimitiveArray::<Int64Type>::from(vec![None, None]))),
        ],
    );
    convert(&shop, json!({})).unwrap();
    let expected = [
        concat!(
            r#"{"string": "a \"b\" \\ \n \u0001 "#,
            "\u{2028}",
            r#"", "u64": 18446744073709551615, "f32": 0.10000000149011612, "f64": 1e+16, "decimal": "-1.50", "#,
            r#""date": "2024-01-31", "time": "00:00:00.000001", "naive": "1970-01-01T00:00:00", "#,
            r#""utc": "1970-01-01T00:00:00.000000001+00:00", "list": [1, null], "map": [["k", 7]], "#,
            r#""struct": {"a": "中", "b": true}, "binary": "text", "words": "x", "nothing": null}"#
        ),
        concat!(
            r#"{"string": "", "u64": 0, "f32": null, "f64": null, "decimal": "0.05", "#,
            r#""date": null, "time": "01:00:00", "naive": "1969-12-31T23:59:59.999000", "#,
            r#""utc": "1970-01-01T00:00:00.000001+00:00", "list": null, "map": null, "#,
            r#""struct": {"a": null, "b": false}, "binary": "", "words": "y", "nothing": null}"#
        ),
    ];
    let found = String::from_utf8(shop.outputs()["types.jsonl"].clone()).unwrap();
    // U+2028 does not end a line.
    assert_eq!(found.split_terminator('\n').collect::<Vec<_>>(), expected);
}

#[test]
fn columns_are_chosen_ordered_and_renamed() {
    let shop = Workshop::new();
    for name in ["b/z.parquet", "a/z.parquet"] {
        std::fs::create_dir_all(shop.input().join(name).parent().unwrap()).unwrap();
        let column = |value| Arc::new(StringArray::from(vec![value])) as ArrayRef;
        write_parquet(
            &shop.input().join(name),
            vec![("id", column("1")), ("content", column("c")), ("meta", column("m"))],
        );
    }
    convert(&shop, json!({"columns": ["content", "id"], "rename": {"content": "text"}})).unwrap();
    let line = b"{\"text\": \"c\", \"id\": \"1\"}\n".to_vec();
    let expected = [("a-z.jsonl".to_owned(), line.clone()), ("b-z.jsonl".to_owned(), line)];
    assert_eq!(shop.outputs().into_iter().collect::<Vec<_>>(), expected);

    let first = shop.input().join("a/z.parquet");
    let error = convert(&shop, json!({"columns": ["contents"]})).unwrap_err();
    assert_eq!(error.message(), format!("{} has no column `contents`", first.display()));
    assert_eq!(error.advice(), Some("did you mean `content`?"));
    let error = convert(&shop, json!({"rename": {"content": "id"}})).unwrap_err();
    assert_eq!(error.message(), format!("{}: two columns would be named `id`", first.display()));
}

#[test]
fn bytes_that_are_no_text_are_an_error_or_base64() {
    let shop = Workshop::new();
    let column = BinaryArray::from(vec![b"ok".as_slice(), b"\xff\xfe\x00"]);
    write_parquet(&shop.input().join("b.parquet"), vec![("image", Arc::new(column))]);
    let error = convert(&shop, json!({})).unwrap_err();
    let place = shop.input().join("b.parquet").display().to_string();
    assert_eq!(error.message(), format!("{place}, column `image`, row group 0, row 1: the bytes are not UTF-8"));
    convert(&shop, json!({"binary": "base64"})).unwrap();
    assert_eq!(shop.outputs()["b.jsonl"], b"{\"image\": \"b2s=\"}\n{\"image\": \"//4A\"}\n");
}

#[test]
fn a_corrupt_page_is_named_by_file_column_and_row_group() {
    let Some(file) = shared("parquet/pt_datapage_v1-corrupt-checksum.parquet") else { return };
    let shop = Workshop::new();
    std::fs::copy(file, shop.input().join("bad.parquet")).unwrap();
    let error = convert(&shop, json!({})).unwrap_err();
    let place = shop.input().join("bad.parquet").display().to_string();
    assert_eq!(error.message(), format!("{place}, column `a`, row group 0: cannot be decoded"));
    assert!(error.one_line().contains("CRC"), "{error:?}");
}

#[test]
fn what_is_no_parquet_is_said_to_be_so() {
    let shop = Workshop::new();
    let error = convert(&shop, json!({})).unwrap_err();
    let input = shop.input();
    assert_eq!(error.message(), format!("the dataset `corpus` has no *.parquet file in {}", input.display()));
    assert_eq!(error.code(), ExitCode::Invalid);
    for content in ["", "PAR1", "no parquet at all, but long enough to be looked at"] {
        let path = shop.write("x.parquet", content);
        let error = convert(&shop, json!({})).unwrap_err();
        assert_eq!(error.message(), format!("cannot read {} as Parquet", path.display()));
    }
}
