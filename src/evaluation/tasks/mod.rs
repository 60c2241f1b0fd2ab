//! Evaluation sets: from the files of a task to prompts, choices and answers.
//!
//! | task              | folder                                                                 | shots from | items from |
//! |-------------------|------------------------------------------------------------------------|------------|------------|
//! | `ceval`           | `dev/SUBJECT_dev.csv`, `val/SUBJECT_val.csv`                            | dev        | val        |
//! | `cmmlu`           | `dev/SUBJECT.csv`, `test/SUBJECT.csv`                                   | dev        | test       |
//! | `mmlu`            | `dev/SUBJECT_dev.csv`, `test/SUBJECT_test.csv`                          | dev        | test       |
//! | `hellaswag`       | `train.jsonl`, and one other `*.jsonl` with the validation items        | train      | that other |
//! | `multiple-choice` | `dev.jsonl`, `test.jsonl`                                               | dev        | test       |

mod exam;
mod hellaswag;
mod multiple_choice;
mod rows;
mod subjects;

use std::path::Path;

use globset::{Glob, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};

/// How the files of a task are read and its prompts are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskKind {
    Ceval,
    Cmmlu,
    Mmlu,
    Hellaswag,
    MultipleChoice,
}

impl TaskKind {
    pub const ALL: [TaskKind; 5] =
        [TaskKind::Ceval, TaskKind::Cmmlu, TaskKind::Mmlu, TaskKind::Hellaswag, TaskKind::MultipleChoice];

    /// As `task` in `datasets.toml`.
    pub fn as_str(self) -> &'static str {
        match self {
            TaskKind::Ceval => "ceval",
            TaskKind::Cmmlu => "cmmlu",
            TaskKind::Mmlu => "mmlu",
            TaskKind::Hellaswag => "hellaswag",
            TaskKind::MultipleChoice => "multiple-choice",
        }
    }
}

/// One question, ready to be scored.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Description, shots and question.
    pub context: String,
    /// What may follow, the delimiter (one space) included.
    pub continuations: Vec<String>,
    /// Characters of each choice, without the delimiter.
    pub characters: Vec<usize>,
    /// Index of the right choice.
    pub target: usize,
}

/// The unit that the harness calls a task: one subject, or the whole of a set that has none.
#[derive(Clone, Debug, PartialEq)]
pub struct Subject {
    /// `ceval-valid_law`.
    pub name: String,
    /// As tables show it: `law` in `mmlu`, else the name.
    pub alias: String,
    /// The group that it belongs to directly (`mmlu_stem`), if any.
    pub group: Option<Group>,
    /// What stands before every prompt.
    pub description: String,
    /// Version of the task's definition in the harness.
    pub version: f64,
    /// Whether the harness reports `acc_norm` too.
    pub normalised: bool,
    pub items: Vec<Item>,
}

/// A group of subjects, itself perhaps in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    pub name: &'static str,
    pub alias: &'static str,
    pub parent: Option<&'static str>,
}

/// What to take of a set.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Examples before each question.
    pub shots: usize,
    /// At most so many items of each subject, from the first.
    pub limit: Option<usize>,
    /// The subjects wanted; all when `None`.
    pub subjects: Option<GlobSet>,
}

impl Selection {
    /// `subjects` are globs over subject names (`law`, `college_*`); none means all.
    pub fn new(shots: usize, limit: Option<usize>, subjects: &[String]) -> Result<Self> {
        if limit == Some(0) {
            return Err(Error::invalid("limit is 0: nothing would be evaluated")
                .hint("leave `limit` out to evaluate every item"));
        }
        let globs = subjects
            .iter()
            .map(|glob| Glob::new(glob).context(|| format!("{glob:?} is not a pattern for subjects")))
            .collect::<Result<Vec<_>>>()?;
        let mut builder = GlobSetBuilder::new();
        for glob in globs {
            builder.add(glob);
        }
        let set = builder.build().context(|| "the patterns for subjects cannot be combined".to_owned())?;
        Ok(Self { shots, limit, subjects: (!set.is_empty()).then_some(set) })
    }

    fn wants(&self, subject: &str) -> bool {
        self.subjects.as_ref().is_none_or(|set| set.is_match(subject))
    }

    fn limited<T>(&self, mut rows: Vec<T>) -> Vec<T> {
        if let Some(limit) = self.limit {
            rows.truncate(limit);
        }
        rows
    }
}

/// Reads the set of kind `kind` in `folder`; `name` is the dataset's name in the registry. Subjects come in name
/// order, items in the order of their file. A set without subjects ignores the selection's subjects.
pub fn read(kind: TaskKind, name: &str, folder: &Path, selection: &Selection) -> Result<Vec<Subject>> {
    let subjects = match kind {
        TaskKind::Ceval => exam::read(&exam::CEVAL, folder, selection),
        TaskKind::Cmmlu => exam::read(&exam::CMMLU, folder, selection),
        TaskKind::Mmlu => exam::read(&exam::MMLU, folder, selection),
        TaskKind::Hellaswag => hellaswag::read(folder, selection).map(|subject| vec![subject]),
        TaskKind::MultipleChoice => multiple_choice::read(name, folder, selection).map(|subject| vec![subject]),
    };
    subjects.context(|| format!("cannot read the evaluation set {name}"))
}

/// Description, examples and question as the harness joins them: no blank line after a description beyond its own.
fn context(description: &str, examples: &[String], question: &str) -> String {
    let mut text = description.to_owned();
    for example in examples {
        text.push_str(example);
        text.push_str("\n\n");
    }
    text.push_str(question);
    text
}

/// Says that fewer examples are there than were asked for, as the harness's sampler does.
fn too_few_shots(path: &Path, asked: usize, found: usize) -> Error {
    Error::invalid(format!("{asked} shots were asked for, but {} has {found} examples", path.display()))
        .hint(format!("set `shots = {found}` or fewer"))
}

#[cfg(test)]
mod tests;
