//! HellaSwag: which of four endings follows; shots are drawn at random from the training split.
//!
//! Three schemas of items are read, told apart by their fields:
//! - the official one (`activity_label`, `ctx_a`, `ctx_b`, `endings`, `label`), preprocessed here as the harness does;
//! - what the harness makes of it (`query`, `choices`, `gold`), taken as it is;
//! - without `ctx_a` and `ctx_b` (`activity_label`, `ctx`, `endings`, `label`), as preprocessed copies have it. There
//!   `ctx_b`, which the harness capitalises, is the unfinished sentence at the end of `ctx` (in all of the official
//!   validation items at hand).

use std::path::{Path, PathBuf};

use regex::Regex;
use serde_json::{Map, Value};

use crate::error::{Context, Error, Result};
use crate::evaluation::python::{Random, capitalize, strip};
use crate::evaluation::tasks::rows::{self, At};
use crate::evaluation::tasks::{Item, Selection, Subject, context, too_few_shots};

/// The seed of the harness's sampler, one for each task.
const SEED: u64 = 1234;

const LAYOUT: &str = "expected validation items in one *.jsonl, and train.jsonl for shots";

/// An item as the harness's `process_docs` leaves it. Two are the same document if all of their fields are equal.
#[derive(Clone, Debug, PartialEq)]
struct Document {
    fields: Map<String, Value>,
    query: String,
    choices: Vec<String>,
    gold: usize,
}

impl Document {
    /// The document as an example, with its answer.
    fn solved(&self) -> String {
        format!("{} {}", self.query, self.choices[self.gold])
    }
}

pub fn read(folder: &Path, selection: &Selection) -> Result<Subject> {
    let cleaner = Cleaner::new()?;
    let (training, validation) = find(folder)?;
    let documents = selection.limited(cleaner.documents(&validation)?);
    if documents.is_empty() {
        return Err(Error::invalid(format!("{} has no items", validation.display())));
    }
    let mut shots = match (selection.shots, training) {
        (0, _) => None,
        (shots, Some(path)) => Some(Shots::new(shots, cleaner.documents(&path)?, path)),
        (_, None) => {
            return Err(Error::invalid(format!(
                "there is no train.jsonl in {}, from which HellaSwag draws its shots",
                folder.display()
            ))
            .hint("add the training split, or evaluate it with `shots = 0` in a stage of its own"));
        }
    };
    let items = documents.iter().map(|document| {
        let examples = shots.as_mut().map_or(Ok(Vec::new()), |shots| shots.draw(document))?;
        Ok(Item {
            context: context("", &examples, &document.query),
            continuations: document.choices.iter().map(|choice| format!(" {choice}")).collect(),
            characters: document.choices.iter().map(|choice| choice.chars().count()).collect(),
            target: document.gold,
        })
    });
    Ok(Subject {
        name: "hellaswag".to_owned(),
        alias: "hellaswag".to_owned(),
        group: None,
        description: String::new(),
        version: 1.0,
        normalised: true,
        items: items.collect::<Result<_>>()?,
    })
}

/// The training file, if there is one, and the file of the items.
fn find(folder: &Path) -> Result<(Option<PathBuf>, PathBuf)> {
    let is_training = |path: &PathBuf| {
        path.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| stem.ends_with("train"))
    };
    let (mut training, mut others): (Vec<_>, Vec<_>) =
        rows::files(folder, "jsonl")?.into_iter().partition(is_training);
    let named = |path: &&PathBuf| {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        stem.ends_with("val") || stem.ends_with("validation")
    };
    // With several files (a test split has no answers) the one named after the split is meant.
    if others.len() > 1 {
        let of_split: Vec<_> = others.iter().filter(named).cloned().collect();
        others = of_split;
    }
    match (training.len(), others.len()) {
        (0 | 1, 1) => Ok((training.pop(), others.remove(0))),
        _ => {
            Err(Error::invalid(format!("it is not clear which file of {} to evaluate", folder.display()))
                .hint(LAYOUT))
        }
    }
}

/// The harness's sampler: one `sample(training, shots + 1)` for each document, in order, of which the document itself
/// is dropped. (One more than needed, because the split of the shots and the test split are both unset.)
struct Shots {
    count: usize,
    documents: Vec<Document>,
    path: PathBuf,
    random: Random,
}

impl Shots {
    fn new(count: usize, documents: Vec<Document>, path: PathBuf) -> Self {
        Self { count, documents, path, random: Random::new(SEED) }
    }

    fn draw(&mut self, document: &Document) -> Result<Vec<String>> {
        let drawn = self
            .random
            .sample(self.documents.len(), self.count + 1)
            .ok_or_else(|| too_few_shots(&self.path, self.count, self.documents.len().saturating_sub(1)))?;
        let others = drawn.into_iter().map(|index| &self.documents[index]).filter(|other| *other != document);
        Ok(others.take(self.count).map(Document::solved).collect())
    }
}

/// The preprocessing of `lm_eval/tasks/hellaswag/utils.py`.
struct Cleaner {
    brackets: Regex,
    sentence_end: Regex,
}

impl Cleaner {
    fn new() -> Result<Self> {
        let regex = |pattern: &str| Regex::new(pattern).context(|| format!("cannot compile {pattern}"));
        Ok(Self { brackets: regex(r"\[.*?\]")?, sentence_end: regex(r#"[.!?]["')]*( |$)"#)? })
    }

    fn documents(&self, path: &Path) -> Result<Vec<Document>> {
        rows::jsonl(path)?.into_iter().map(|at| self.document(path, at)).collect()
    }

    fn document(&self, path: &Path, at: At<Map<String, Value>>) -> Result<Document> {
        if at.value.contains_key("query") {
            let query = rows::string(path, &at, "query")?.to_owned();
            let choices: Vec<String> =
                rows::strings(path, &at, "choices")?.into_iter().map(str::to_owned).collect();
            let gold = rows::index(path, &at, "gold", choices.len())?;
            return Ok(Document { query, choices, gold, fields: at.value });
        }
        let label = rows::string(path, &at, "activity_label")?;
        let context = if at.value.contains_key("ctx_a") {
            let beginning = rows::string(path, &at, "ctx_a")?;
            let end = rows::string(path, &at, "ctx_b")?;
            format!("{beginning} {}", capitalize(end))
        } else {
            self.capitalize_end(rows::string(path, &at, "ctx")?)
        };
        let query = self.clean(&format!("{label}: {context}"));
        let choices: Vec<String> =
            rows::strings(path, &at, "endings")?.into_iter().map(|ending| self.clean(ending)).collect();
        let gold = rows::index(path, &at, "label", choices.len())?;
        Ok(Document { query, choices, gold, fields: at.value })
    }

    /// `preprocess`: brackets are left over from WikiHow, whose half of the set uses them for headings.
    fn clean(&self, text: &str) -> String {
        let text = strip(text).replace(" [title]", ". ");
        self.brackets.replace_all(&text, "").replace("  ", " ")
    }

    /// `ctx` with its unfinished last sentence, if it has one after a finished one, capitalised.
    fn capitalize_end(&self, text: &str) -> String {
        let end = self.sentence_end.find_iter(text).last().map_or(text.len(), |found| found.end());
        format!("{}{}", &text[..end], capitalize(&text[end..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cleaned_as_the_harness_does() {
        let cleaner = Cleaner::new().unwrap();
        let raw =
            " [header] How to [a] tie [title] Take a rope. [step] Hold   it [substeps] tight [ and [x\ny] go ";
        // preprocess() of utils.py, run in Python on the same text.
        assert_eq!(cleaner.clean(raw), " How to tie. Take a rope. Hold  it tight [ and [x\ny] go");
        assert_eq!(cleaner.capitalize_end("He runs. the Man"), "He runs. The man");
        assert_eq!(cleaner.capitalize_end("He said \"go!\" then he"), "He said \"go!\" Then he");
        assert_eq!(cleaner.capitalize_end("He runs."), "He runs.");
        assert_eq!(cleaner.capitalize_end("a man"), "a man");
    }
}
