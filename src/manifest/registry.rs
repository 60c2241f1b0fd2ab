//! The registry of datasets, `datasets.toml`: the original project's format, and where a dataset comes from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::place::{Place, TextFile};
use super::template::{Braces, substitute};
use super::value::{Located, Table};
use super::with_suggestion;
use crate::error::{Error, Result};
use crate::evaluation::tasks::TaskKind;
use crate::stages::Source;

/// All registered datasets, in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    pub datasets: Vec<Arc<DatasetEntry>>,
}

/// `[NAME]`.
#[derive(Clone, Debug)]
pub struct DatasetEntry {
    pub name: String,
    /// Of the name, in the header.
    pub place: Place,
    pub splits: Vec<String>,
    /// Absolute. It may lie outside the workspace: corpora live on big disks.
    pub root: PathBuf,
    /// As people should read it: the root with `{DATA_DIR}` in its place.
    pub root_text: String,
    /// Split → name of its documents without ending (`books-train`).
    pub doc: BTreeMap<String, String>,
    /// Split → name of its folder of token blocks (`encoded-books-train`).
    pub encoded: BTreeMap<String, String>,
    pub source: Source,
}

/// What an entry may say, in the order of [`DatasetEntry`].
pub const KEYS: [&str; 10] =
    ["splits", "root", "doc", "encoded", "repo", "revision", "include", "exclude", "urls", "task"];

impl Registry {
    /// `data_dir` is what `{DATA_DIR}` stands for; relative roots start at `workspace`.
    pub fn parse(file: &Arc<TextFile>, workspace: &Path, data_dir: &Path) -> Result<Self> {
        let datasets = Table::parse(file)?.entries.into_iter().map(|entry| {
            let table = entry.value.table(&format!("`{}`", entry.key))?;
            DatasetEntry::read(entry.key, entry.place, table, workspace, data_dir).map(Arc::new)
        });
        Ok(Self { datasets: datasets.collect::<Result<_>>()? })
    }

    pub fn get(&self, name: &str) -> Option<&Arc<DatasetEntry>> {
        self.datasets.iter().find(|entry| entry.name == name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.datasets.iter().map(|entry| entry.name.as_str())
    }
}

impl DatasetEntry {
    fn read(name: String, place: Place, table: Table, workspace: &Path, data_dir: &Path) -> Result<Self> {
        if name.is_empty() || name.starts_with('.') || name.contains(['/', ':', '\\', '\n']) {
            return Err(place.error(format!("\"{name}\" can't name a dataset"), "`/` and `:` have other meanings"));
        }
        let mut splits = vec!["train".to_owned(), "dev".to_owned()];
        let mut source = Source::default();
        let (mut root, mut doc, mut encoded) = (None, None, None);
        for entry in table.entries {
            let value = entry.value;
            let what = format!("`{}`", entry.key);
            match entry.key.as_str() {
                "splits" => splits = value.strings(&what)?,
                "root" => root = Some(value),
                "doc" => doc = Some(value),
                "encoded" => encoded = Some(value),
                "repo" => source.repo = Some(value.string(&what)?.to_owned()),
                "revision" => source.revision = Some(value.string(&what)?.to_owned()),
                "include" => source.include = value.strings(&what)?,
                "exclude" => source.exclude = value.strings(&what)?,
                "urls" => source.urls = value.strings(&what)?,
                "task" => source.task = Some(task(&name, &value)?),
                key => {
                    let error = entry.place.error(format!("dataset \"{name}\" has no key `{key}`"), "unknown key");
                    return Err(with_suggestion(error, key, KEYS, "the keys are"));
                }
            }
        }
        let root_text = match &root {
            Some(value) => fill(value, &[("name", &name), ("DATA_DIR", "{DATA_DIR}")])?,
            None => format!("{{DATA_DIR}}/{name}"),
        };
        let root = workspace.join(root_text.replace("{DATA_DIR}", &data_dir.to_string_lossy()));
        let per_split = |template: &Option<Located>, prefix: &str| -> Result<BTreeMap<String, String>> {
            let named = splits.iter().map(|split| {
                let file = match template {
                    Some(value) => fill_name(value, &name, split)?,
                    None => format!("{prefix}{name}-{split}"),
                };
                Ok((split.clone(), file))
            });
            named.collect()
        };
        Ok(Self {
            doc: per_split(&doc, "")?,
            encoded: per_split(&encoded, "encoded-")?,
            name,
            place,
            splits,
            root,
            root_text,
            source,
        })
    }
}

fn task(dataset: &str, value: &Located) -> Result<TaskKind> {
    let word = value.string("`task`")?;
    TaskKind::ALL.into_iter().find(|kind| kind.as_str() == word).ok_or_else(|| {
        let error = value.error(format!("dataset \"{dataset}\": `task` does not know \"{word}\""), "unknown word");
        with_suggestion(error, word, TaskKind::ALL.map(TaskKind::as_str), "it may be")
    })
}

/// A template that gives the name of a file or folder inside a dataset's folder.
fn fill_name(value: &Located, name: &str, split: &str) -> Result<String> {
    let filled = fill(value, &[("name", name), ("split", split)])?;
    if filled.is_empty() || filled.contains(['/', '\\']) || filled.starts_with('.') {
        return Err(
            value.error(format!("\"{filled}\" is not the name of a file"), "a name without `/` is expected")
        );
    }
    Ok(filled)
}

fn fill(value: &Located, names: &[(&str, &str)]) -> Result<String> {
    let text = value.string("a template")?;
    substitute(text, Braces::Single, |name| match names.iter().find(|(known, _)| *known == name) {
        Some((_, replacement)) => Ok(Some((*replacement).to_owned())),
        None => {
            let place = value.place.of_part(&format!("{{{name}}}"));
            let error: Error = place.error(format!("unknown variable `{{{name}}}`"), "not known here");
            Err(with_suggestion(error, name, names.iter().map(|(known, _)| *known), "the variables are"))
        }
    })
}
