//! Documents and token blocks: JSONL, Parquet, HF-datasets Arrow folders, splitting, mixing.

mod blocks;
mod chat_template;
mod columns;
mod dialogue;
pub(crate) mod document;
mod escapes;
mod in_order;
mod lines;
pub mod mix;
mod pack;
pub mod parquet;
mod python_json;
mod save_to_disk;
mod scan;
pub mod split;

use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};

pub use blocks::{Block, Blocks, IGNORED};
pub use chat_template::{ChatTemplate, Rendered, SpecialTokens};
pub use dialogue::{ASSISTANT, Message, dialogue_of, told};
pub use document::{Document, Fault, TEXT_ENDINGS, documents, each_text, text_of, texts_in};
pub use lines::{Batch, Batches, Line, Place};
pub use pack::{Checkpoint, Packer, Packing, Recipe, Rules};
pub use save_to_disk::{BlockWriter, Layout, Row, Shards, Storage, Written};

/// The files below `folder` whose names end in `.extension`, at any depth, in the order of their paths; folder and
/// file names that begin with a dot are passed over, as a hub's own bookkeeping. Links to files are followed, links
/// to folders are not.
pub fn files_below(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let cannot_list = || format!("cannot list {}", folder.display());
        for entry in std::fs::read_dir(&folder).context(cannot_list)? {
            let entry = entry.context(cannot_list)?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            if entry.file_type().context(cannot_list)?.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) && path.is_file() {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The error for a line that is no document; `path` and `number` (from 1) say where it stands.
pub fn bad_line(path: &Path, number: u64, fault: &Fault) -> Error {
    Error::invalid(format!("{}, line {number}: {fault}", path.display()))
}
