//! `split`: a corpus → its train and its dev documents.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Dataset, Fault, Form, Stage, Work};
use crate::corpus::files_below;
use crate::corpus::split::{Field, Method, Options, Ratio, split};
use crate::error::{Context, Error, Result};
use crate::events::Unit;

/// Writes one JSONL file per split, with the lines as they stand. Files are read in the order of their paths.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// Taken as JSONL (raw `*.jsonl` files too); provided split.
    pub dataset: Dataset,
    /// Shares of train and dev.
    pub ratio: Ratio,
    /// How documents are chosen for dev.
    pub method: Method,
    /// Of the hash: another seed, another dev set.
    pub seed: u64,
    /// Keep only the first of documents with the same text.
    pub deduplicate: bool,
    /// The field of a line that holds the document.
    pub text_field: String,
    /// The field that holds a list of messages, where documents are dialogues.
    pub messages_field: Option<String>,
}

impl Stage for Split {
    const KIND: &'static str = "split";
    const REVISION: u32 = 2;

    fn check(&self) -> Result<(), Fault> {
        self.splits().map(|_| ())
    }

    fn run(&self, work: &mut Work) -> Result<()> {
        let (train, dev) = self.splits()?;
        let files = self.files()?;
        let bytes = files
            .iter()
            .map(|file| Ok(std::fs::metadata(file).context(|| format!("cannot read {}", file.display()))?.len()));
        let progress = work.progress("split", Some(bytes.sum::<Result<u64>>()?), Unit::Bytes);
        let file_of = |split: &str| work.output().join(format!("{}.jsonl", self.dataset.doc[split]));
        let options = Options {
            ratio: self.ratio,
            method: self.method,
            seed: self.seed,
            deduplicate: self.deduplicate,
            field: match &self.messages_field {
                Some(field) => Field::Messages(field.clone()),
                None => Field::Text(self.text_field.clone()),
            },
        };
        let summary = split(&files, &file_of(train), &file_of(dev), &options, |bytes| {
            progress.add(bytes);
            work.check()
        })
        .context(|| format!("cannot split the dataset `{}`", self.dataset.name))?;
        progress.finish();
        for (split, counted) in [(train, summary.train), (dev, summary.dev)] {
            work.metric(format!("documents.{split}"), counted.documents);
            work.metric(format!("bytes.{split}"), counted.bytes);
        }
        if self.deduplicate {
            work.metric("duplicates", summary.duplicates);
        }
        if summary.dev.documents == 0 {
            work.warn(format!("`{}` has a single document: {dev} stays empty", self.dataset.name));
        }
        Ok(())
    }
}

impl Split {
    /// The names of the two splits: `train`, and the other one.
    fn splits(&self) -> Result<(&str, &str), Fault> {
        let name = &self.dataset.name;
        let registered: Vec<&str> = self.dataset.doc.keys().map(String::as_str).collect();
        let mut others = registered.iter().filter(|split| **split != "train");
        match (registered.contains(&"train"), others.next(), others.next()) {
            (true, Some(dev), None) => Ok(("train", dev)),
            _ => Err(Fault::new(
                "dataset",
                format!(
                    "split makes two splits, train and another, and the dataset `{name}` has: {}",
                    registered.join(", ")
                ),
            )
            .hint("write `splits = [\"train\", \"dev\"]` in datasets.toml")),
        }
    }

    fn files(&self) -> Result<Vec<PathBuf>> {
        let Dataset { name, form, path, .. } = &self.dataset;
        let root = path.as_deref().ok_or_else(|| {
            Error::invalid(format!("there are no files of the dataset `{name}`"))
                .hint("add a download stage for it, or give it a `root` in datasets.toml")
        })?;
        let files = files_below(root, "jsonl")?;
        if files.is_empty() {
            let error = Error::invalid(format!("the dataset `{name}` has no *.jsonl file in {}", root.display()));
            let parquet = *form == Some(Form::Raw) && !files_below(root, "parquet")?.is_empty();
            return Err(if parquet {
                error.hint("its files are Parquet: add a parquet2jsonl stage for it")
            } else {
                error
            });
        }
        Ok(files)
    }
}
