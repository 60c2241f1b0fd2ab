//! The kinds of stages: one file each, and the registry that names them all.

mod command;
mod compare;
mod download;
mod encode;
mod eval;
mod expand;
pub mod inputs;
mod merge;
mod names;
mod new_model;
mod parquet2jsonl;
mod split;
mod train;
mod train_tokenizer;
mod vocab_search;
mod work;

use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Context, Result};

pub use inputs::{Dataset, Documents, Form, Input, Share, Source};
pub use names::Names;
pub use work::{Progress, Work};

/// A kind of stage. The parameter struct is the stage.
pub trait Stage: DeserializeOwned + Serialize + JsonSchema {
    const KIND: &'static str;
    /// Raised whenever the same inputs would give other bytes.
    const REVISION: u32;
    fn run(&self, work: &mut Work) -> Result<()>;
}

/// A built-in kind, as the rest of the house sees it: a [`Stage`] with its type forgotten.
pub struct Kind {
    pub name: &'static str,
    pub revision: u32,
    /// Text of `stages/KIND.toml`, embedded in the binary.
    pub manifest: &'static str,
    schema: fn() -> Schema,
    run: fn(serde_json::Value, &mut Work) -> Result<()>,
}

impl Kind {
    /// The kind of a parameter struct, with the text of its `stages/KIND.toml`.
    pub const fn of<S: Stage>(manifest: &'static str) -> Self {
        Self {
            name: S::KIND,
            revision: S::REVISION,
            manifest,
            schema: || schemars::schema_for!(S),
            run: |parameters, work| {
                let stage: S = serde_json::from_value(parameters)
                    .context(|| format!("the parameters of a {} stage do not have the form it expects", S::KIND))?;
                stage.run(work)
            },
        }
    }

    /// JSON Schema of the parameters.
    pub fn schema(&self) -> Schema {
        (self.schema)()
    }

    /// Runs the stage with resolved parameters.
    pub fn run(&self, parameters: serde_json::Value, work: &mut Work) -> Result<()> {
        (self.run)(parameters, work)
    }
}

/// Registers a kind: its type and its manifest in `stages/`.
macro_rules! kinds {
    ($($type:ty => $manifest:literal),* $(,)?) => {
        /// Every built-in kind, in the order of a pipeline.
        pub static KINDS: &[Kind] = &[$(Kind::of::<$type>(include_str!(concat!("../../stages/", $manifest)))),*];
    };
}

kinds! {
    download::Download => "download.toml",
    parquet2jsonl::Parquet2Jsonl => "parquet2jsonl.toml",
    split::Split => "split.toml",
    encode::Encode => "encode.toml",
    train_tokenizer::TrainTokenizer => "train-tokenizer.toml",
    vocab_search::VocabSearch => "vocab-search.toml",
    new_model::NewModel => "new-model.toml",
    expand::Expand => "expand.toml",
    train::Train => "train.toml",
    merge::Merge => "merge.toml",
    eval::Eval => "eval.toml",
    compare::Compare => "compare.toml",
    command::Command => "command.toml",
}

/// The built-in kind of that name.
pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}
