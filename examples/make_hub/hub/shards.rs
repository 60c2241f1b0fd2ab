//! Documents as the files that a hub serves: Parquet and JSONL.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::json;

use super::{Document, Result};

/// One Parquet file with the columns `id`, `topic` and `text`.
pub fn parquet(documents: &[Document], first_id: i32, compression: Compression) -> Result<Vec<u8>> {
    let ids: ArrayRef = Arc::new(Int32Array::from_iter_values((first_id..).take(documents.len())));
    let topics: ArrayRef = Arc::new(StringArray::from_iter_values(documents.iter().map(|d| &d.topic)));
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values(documents.iter().map(|d| &d.text)));
    let batch = RecordBatch::try_from_iter([("id", ids), ("topic", topics), ("text", texts)])?;
    // Without the names of programs and versions, so that the bytes depend on the documents alone.
    let properties = WriterProperties::builder()
        .set_created_by("cmx make_hub".to_owned())
        .set_compression(compression)
        .set_max_row_group_row_count(Some(256))
        .build();
    let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new_with_options(&mut bytes, batch.schema(), options)?;
    writer.write(&batch)?;
    writer.close()?;
    Ok(bytes)
}

pub fn zstd() -> Result<Compression> {
    Ok(Compression::ZSTD(ZstdLevel::try_new(9)?))
}

/// One JSON object a line: `id`, `topic`, `text`.
pub fn jsonl(documents: &[Document], first_id: i32) -> Vec<u8> {
    let mut text = String::new();
    for (id, document) in (first_id..).zip(documents) {
        text.push_str(&json!({ "id": id, "topic": document.topic, "text": document.text }).to_string());
        text.push('\n');
    }
    text.into_bytes()
}
