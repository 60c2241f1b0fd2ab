//! The typed inputs of a stage. Their JSON Schema carries an `x-cmx` mark, by which the plan finds the edges of the
//! graph in a stage's parameters; the plan resolves each to the object form below before the worker sees it.
//!
//! | type          | written in a manifest                                     | `x-cmx`       |
//! |---------------|-----------------------------------------------------------|---------------|
//! | [`Input`]     | `"@stage"`, `"@stage/path"`, `"path/in/workspace"`         | `"input"`     |
//! | [`Documents`] | the same, or `"dataset:NAME"`, `"dataset:NAME/SPLIT"`      | `"documents"` |
//! | [`Dataset`]   | `"NAME"`, registered in `datasets.toml`                    | `"dataset"`   |
//! | [`Share`]     | `"RATIO:NAME"`, `"TOKENS tokens:NAME"`                     | `"share"`     |

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::corpus::mix::Amount;
use crate::evaluation::tasks::TaskKind;

/// An artifact of another stage, a part of one, or a source file or folder.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Input {
    /// As written: `@base/tokenizer.model`.
    pub from: String,
    /// Absolute path of the file or folder.
    pub path: PathBuf,
}

/// Text documents, as files: JSONL with a `text` field (`*.jsonl`), or plain text, one document a file (`*.txt`).
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Documents {
    /// As written: `dataset:books`.
    pub from: String,
    /// Absolute paths of the files, in name order; never empty.
    pub files: Vec<PathBuf>,
}

/// The forms that a dataset passes through, in order.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Files as a hub serves them: Parquet, JSONL, CSV.
    Raw,
    /// `*.jsonl` shards, one document a line.
    Jsonl,
    /// One JSONL file per split, named after the registry's `doc`.
    Split,
    /// One `save_to_disk` folder per split, named after the registry's `encoded`.
    Encoded,
}

/// A registered dataset in the nearest form at or below the one that the stage takes.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Dataset {
    pub name: String,
    /// The form that was found; `None` for a stage that takes none (`download`), which has only `source`.
    pub form: Option<Form>,
    /// Absolute path of the folder that holds the form (an artifact or the registry's root).
    pub path: Option<PathBuf>,
    /// Split → name of its documents without ending (`books-train`): the file is `path/books-train.jsonl`.
    pub doc: BTreeMap<String, String>,
    /// Split → name of its folder of token blocks (`encoded-books-train`).
    pub encoded: BTreeMap<String, String>,
    /// Where the dataset comes from and what it is, as registered.
    pub source: Source,
}

/// The part of a registry entry that says where a dataset comes from and what it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Source {
    /// Hub repository (`Skywork/SkyPile-150B`), when the dataset comes from a hub.
    pub repo: Option<String>,
    /// Branch, tag or commit; `main` when absent.
    pub revision: Option<String>,
    /// Globs of the files wanted; all when empty.
    pub include: Vec<String>,
    /// Globs of the files not wanted.
    pub exclude: Vec<String>,
    /// Addresses (`https://…`, `s3://…`, `file://…`), when the dataset does not come from a hub.
    pub urls: Vec<String>,
    /// For an evaluation set: how it is read.
    pub task: Option<TaskKind>,
}

/// One entry of a training mix.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Share {
    pub amount: Amount,
    /// In encoded form.
    pub dataset: Dataset,
}

impl Input {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Form {
    pub const ALL: [Form; 4] = [Form::Raw, Form::Jsonl, Form::Split, Form::Encoded];

    pub fn as_str(self) -> &'static str {
        match self {
            Form::Raw => "raw",
            Form::Jsonl => "jsonl",
            Form::Split => "split",
            Form::Encoded => "encoded",
        }
    }
}

/// The schema of a string with an `x-cmx` mark.
fn marked(mark: &str, description: &str) -> Schema {
    json_schema!({ "type": "string", "x-cmx": mark, "description": description })
}

macro_rules! marked_schema {
    ($type:ident, $mark:literal, $description:literal) => {
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                marked($mark, $description)
            }
        }
    };
}

marked_schema!(Input, "input", "`@stage`, `@stage/path`, or a path in the workspace");
marked_schema!(
    Documents,
    "documents",
    "`dataset:NAME`, `dataset:NAME/SPLIT`, `@stage/path`, or a path in the workspace"
);
marked_schema!(Dataset, "dataset", "the name of a dataset in `datasets.toml`");
marked_schema!(
    Share,
    "share",
    "`RATIO:NAME`, for example `0.1:SkyPile-150B-2023`, or `TOKENS tokens:NAME`, for example `2B tokens:SkyPile-150B-2023`"
);
