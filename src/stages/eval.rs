//! `eval`: tasks by log-likelihood, and bits per byte of running text.

use std::fs;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::corpus;
use crate::error::{Context, Error, Result};
use crate::evaluation::answers::Answers;
use crate::evaluation::language_model::LanguageModel;
use crate::evaluation::mixtral::MixtralModel;
use crate::evaluation::results::{Evaluation, SubjectResult, TaskResult, TextResult};
use crate::evaluation::tasks::{self, Selection, Subject, TaskKind};
use crate::evaluation::texts::{self, Bound, Windows};
use crate::events::Unit;
use crate::stages::{Dataset, Documents, Fault, Input, Stage, Work};

/// Evaluates a model on multiple-choice tasks and on running text.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Eval {
    /// A model folder.
    model: Input,
    /// The tokenizer, when it is not the model folder's own.
    tokenizer: Option<Input>,
    /// Evaluation sets of `datasets.toml` (with a `task`).
    tasks: Vec<Dataset>,
    /// Text sets: tokens per character, loss and bits per byte.
    texts: Vec<Documents>,
    /// Examples before each question.
    shots: usize,
    /// At most so many items of each subject.
    limit: Option<usize>,
    /// Globs of the subjects wanted (`law`, `college_*`); all when empty.
    subjects: Vec<String>,
    /// Tokens of one forward pass, padding included.
    batch_tokens: usize,
    /// Longest input for running text, in tokens; the model's own limit when that is less.
    window: usize,
    /// Tokens that each further window of a document predicts; as many as the window when absent.
    stride: Option<usize>,
    /// At most so many documents of each text set, from the first.
    max_documents: Option<u64>,
    /// At most so many UTF-8 bytes of each text set, from the first.
    max_bytes: Option<u64>,
}

impl Stage for Eval {
    const KIND: &'static str = "eval";
    const REVISION: u32 = 1;

    fn check(&self) -> Result<(), Fault> {
        if self.batch_tokens == 0 {
            return Err(Fault::new("batch_tokens", "`batch_tokens` is 0: nothing could be computed"));
        }
        for (name, is_zero) in
            [("max_documents", self.max_documents == Some(0)), ("max_bytes", self.max_bytes == Some(0))]
        {
            if is_zero {
                return Err(Fault::new(name, format!("`{name}` is 0: there would be no text"))
                    .hint("leave it out to read all of it"));
            }
        }
        if self.tasks.is_empty() && self.texts.is_empty() {
            return Err(Fault::new("", "there is nothing to evaluate: neither `tasks` nor `texts` are given"));
        }
        Ok(())
    }

    fn run(&self, work: &mut Work) -> Result<()> {
        // All input is looked at before the model is loaded.
        let sets = self.sets(work)?;
        let tokenizer = self.tokenizer.as_ref().unwrap_or(&self.model);
        let model = MixtralModel::open(self.model.path(), tokenizer.path())
            .context(|| format!("cannot open the model {}", self.model.from))?;
        let windows = Windows::new(self.window, self.stride, &model)?;
        let evaluation = Evaluation {
            model: self.model.from.clone(),
            shots: self.shots,
            limit: self.limit,
            windows: Some(windows),
            texts: self.texts.iter().map(|text| self.text(text, windows, &model, work)).collect::<Result<_>>()?,
            tasks: sets.into_iter().map(|(name, set)| self.task(name, set, &model, work)).collect::<Result<_>>()?,
        };
        self.write(&evaluation, work)
    }
}

impl Eval {
    /// The name and the subjects of every set.
    fn sets(&self, work: &Work) -> Result<Vec<(String, Vec<Subject>)>> {
        let selection = Selection::new(self.shots, self.limit, &self.subjects)?;
        let mut sets: Vec<(String, Vec<Subject>)> = Vec::new();
        for dataset in &self.tasks {
            work.check()?;
            let name = &dataset.name;
            let kind = dataset.source.task.ok_or_else(|| {
                let names = TaskKind::ALL.map(TaskKind::as_str).join(", ");
                Error::invalid(format!("dataset {name} is no evaluation set: its registry entry has no `task`"))
                    .hint(format!("add `task = \"…\"` to [{name}] in datasets.toml: one of {names}"))
            })?;
            let folder = dataset.path.as_ref().ok_or_else(|| {
                Error::invalid(format!("the files of dataset {name} are not there")).hint(format!(
                    "download it in a stage of this pipeline, or set `root` of [{name}] in datasets.toml"
                ))
            })?;
            let subjects = tasks::read(kind, name, folder, &selection)?;
            let known = |subject: &Subject| sets.iter().flat_map(|(_, all)| all).any(|s| s.name == subject.name);
            if let Some(twice) = subjects.iter().find(|subject| known(subject)) {
                return Err(Error::invalid(format!("{} is in two of the sets in `tasks`", twice.name)));
            }
            sets.push((name.clone(), subjects));
        }
        Ok(sets)
    }

    fn task(
        &self,
        name: String,
        subjects: Vec<Subject>,
        model: &dyn LanguageModel,
        work: &Work,
    ) -> Result<TaskResult> {
        let total: usize = subjects.iter().map(|subject| subject.items.len()).sum();
        let progress = work.progress(&name, Some(total as u64), Unit::Items);
        let mut before = 0;
        let mut results = Vec::new();
        for subject in subjects {
            let items = subject.items.len();
            let mut advance = |done: usize, all: usize| {
                progress.set((before + items * done / all.max(1)) as u64);
                work.check()
            };
            let answers = Answers::of(model, &subject, self.batch_tokens, &mut advance)?;
            before += items;
            results.push(SubjectResult { subject, answers });
        }
        progress.finish();
        Ok(TaskResult { name, subjects: results })
    }

    fn text(
        &self,
        text: &Documents,
        windows: Windows,
        model: &dyn LanguageModel,
        work: &Work,
    ) -> Result<TextResult> {
        let name = text_name(&text.from);
        let progress = work.progress(&name, self.max_bytes, Unit::Bytes);
        let mut advance = |bytes| {
            progress.add(bytes);
            work.check()
        };
        let documents = corpus::documents(&text.files).map(|document| document.map(|document| document.text));
        let bound = Bound { documents: self.max_documents, bytes: self.max_bytes };
        let score = texts::score(model, documents, bound, windows, self.batch_tokens, &mut advance)
            .context(|| format!("cannot score the text {}", text.from))?;
        progress.finish();
        Ok(TextResult { name, score })
    }

    fn write(&self, evaluation: &Evaluation, work: &Work) -> Result<()> {
        let json = evaluation.to_json();
        let mut text = serde_json::to_string_pretty(&json).context(|| "cannot write the results".to_owned())?;
        text.push('\n');
        let mut files = vec![("results.json", text), ("results.md", evaluation.to_markdown())];
        if !evaluation.tasks.is_empty() {
            files.push(("samples.jsonl", evaluation.samples()));
        }
        for (name, text) in files {
            let path = work.output().join(name);
            fs::write(&path, text).context(|| format!("cannot write {}", path.display()))?;
        }
        for task in json["tasks"].as_array().into_iter().flatten() {
            if let Some(name) = task["name"].as_str() {
                work.metric(format!("accuracy.{name}"), task["accuracy"].clone());
            }
        }
        for text in json["texts"].as_array().into_iter().flatten() {
            for figure in ["tokens_per_character", "loss", "bits_per_byte"] {
                if let Some(name) = text["name"].as_str() {
                    work.metric(format!("{figure}.{name}"), text[figure].clone());
                }
            }
        }
        work.note(evaluation.note());
        Ok(())
    }
}

/// The name of a text set in tables: `dataset:books/dev` → `books/dev`, `@split/books.jsonl` → `split/books.jsonl`.
fn text_name(from: &str) -> String {
    from.strip_prefix("dataset:").or(from.strip_prefix('@')).unwrap_or(from).to_owned()
}
