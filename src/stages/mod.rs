//! The kinds of stages: one file each, and the registry that names them all.

mod add_tokens;
mod command;
mod compare;
mod download;
mod encode;
mod eval;
mod expand;
mod export;
mod fault;
pub mod inputs;
mod merge;
mod names;
mod new_model;
mod parquet2jsonl;
mod prospect;
mod split;
mod train;
mod train_tokenizer;
mod vocab_allocate;
mod vocab_search;
mod work;

use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Result;
use crate::training::forecast::Subject;

pub use fault::Fault;
pub use inputs::{Dataset, Documents, Form, Input, Share, Source};
pub use names::Names;
pub use prospect::{Known, Outlook, Prospect};
pub use work::{Progress, Work};

/// A kind of stage. The parameter struct is the stage.
pub trait Stage: DeserializeOwned + Serialize + JsonSchema {
    const KIND: &'static str;
    /// Raised whenever the same inputs would give other bytes.
    const REVISION: u32;

    /// What is wrong with the parameters, as far as they say it themselves. Nothing is read, and inputs are known by
    /// name only: a plan asks this before anything runs. It is asked again before [`Self::run`].
    fn check(&self) -> Result<(), Fault> {
        Ok(())
    }

    /// What the stage will make of inputs that may not be there yet: a plan asks. `None`: only running it tells.
    fn prospect(&self, _: &dyn Outlook) -> Option<Prospect> {
        None
    }

    /// What a stage that trains will train, on blocks of `length` tokens: a plan asks, to forecast memory and time.
    fn subject(&self, _: &dyn Outlook, _length: usize) -> Option<Known<Subject>> {
        None
    }

    fn run(&self, work: &mut Work) -> Result<()>;
}

/// Tells what a kind finds wrong with parameters.
pub type Check = fn(&serde_json::Value) -> Result<(), Fault>;

/// A built-in kind, as the rest of the house sees it: a [`Stage`] with its type forgotten.
pub struct Kind {
    pub name: &'static str,
    pub revision: u32,
    /// Text of `stages/KIND.toml`, embedded in the binary.
    pub manifest: &'static str,
    schema: fn() -> Schema,
    check: Check,
    prospect: fn(&serde_json::Value, &dyn Outlook) -> Option<Prospect>,
    subject: fn(&serde_json::Value, &dyn Outlook, usize) -> Option<Known<Subject>>,
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
            check: |parameters| read::<S>(parameters).map(|_| ()),
            prospect: |parameters, outlook| read::<S>(parameters).ok()?.prospect(outlook),
            subject: |parameters, outlook, length| read::<S>(parameters).ok()?.subject(outlook, length),
            run: |parameters, work| read::<S>(&parameters)?.run(work),
        }
    }

    /// JSON Schema of the parameters.
    pub fn schema(&self) -> Schema {
        (self.schema)()
    }

    /// Checks parameters, whose inputs need not be resolved: any path stands for them.
    pub fn check(&self) -> Check {
        self.check
    }

    /// [`Stage::prospect`] of parameters whose inputs need not be resolved.
    pub fn prospect(&self, parameters: &serde_json::Value, outlook: &dyn Outlook) -> Option<Prospect> {
        (self.prospect)(parameters, outlook)
    }

    /// [`Stage::subject`] of parameters whose inputs need not be resolved.
    pub fn subject(
        &self,
        parameters: &serde_json::Value,
        outlook: &dyn Outlook,
        length: usize,
    ) -> Option<Known<Subject>> {
        (self.subject)(parameters, outlook, length)
    }

    /// Runs the stage with resolved parameters.
    pub fn run(&self, parameters: serde_json::Value, work: &mut Work) -> Result<()> {
        (self.run)(parameters, work)
    }
}

/// A stage whose parameters have the right form and can be carried out.
fn read<S: Stage>(parameters: &serde_json::Value) -> Result<S, Fault> {
    let stage: S = serde_path_to_error::deserialize(parameters).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        // The path of the whole is a point.
        match path.trim_matches('.') {
            "" => Fault::new("", error.to_string()),
            path => Fault::new(path, format!("`{path}`: {error}")),
        }
    })?;
    stage.check()?;
    Ok(stage)
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
    vocab_allocate::VocabAllocate => "vocab-allocate.toml",
    add_tokens::AddTokens => "add-tokens.toml",
    new_model::NewModel => "new-model.toml",
    expand::Expand => "expand.toml",
    train::Train => "train.toml",
    merge::Merge => "merge.toml",
    export::Export => "export.toml",
    eval::Eval => "eval.toml",
    compare::Compare => "compare.toml",
    command::Command => "command.toml",
}

/// The built-in kind of that name.
pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}
