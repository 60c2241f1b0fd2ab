//! The files of an evaluation: `results.json` in the harness's shape, `results.md`, and `samples.jsonl`.

use serde_json::{Map, Value, json};

use crate::evaluation::HARNESS_REVISION;
use crate::evaluation::answers::Answers;
use crate::evaluation::metrics::Accuracy;
use crate::evaluation::table::{Column, ColumnGroup, Table};
use crate::evaluation::tasks::{Group, Subject};
use crate::evaluation::texts::{TextScore, Windows};

/// Everything that an evaluation found out about a model.
pub struct Evaluation {
    /// The model, as the manifest names it.
    pub model: String,
    pub shots: usize,
    pub limit: Option<usize>,
    pub windows: Option<Windows>,
    pub tasks: Vec<TaskResult>,
    pub texts: Vec<TextResult>,
}

/// One evaluation set.
pub struct TaskResult {
    /// Its name in the registry.
    pub name: String,
    pub subjects: Vec<SubjectResult>,
}

pub struct SubjectResult {
    pub subject: Subject,
    pub answers: Answers,
}

/// One text set.
pub struct TextResult {
    pub name: String,
    pub score: TextScore,
}

/// A line of the harness's result table: a group or a subject, `depth` groups down.
struct Entry {
    name: String,
    alias: String,
    depth: usize,
    is_group: bool,
    accuracy: Accuracy,
    normalised: Option<Accuracy>,
}

impl SubjectResult {
    fn entry(&self, depth: usize) -> Entry {
        let Subject { name, alias, normalised, .. } = &self.subject;
        Entry {
            name: name.clone(),
            alias: alias.clone(),
            depth,
            is_group: false,
            accuracy: self.answers.accuracy(),
            normalised: normalised.then(|| self.answers.accuracy_normalised()),
        }
    }
}

/// A group of `members`, one level above them.
fn pool(name: &str, alias: &str, depth: usize, members: &[&Entry]) -> Entry {
    let accuracies: Vec<Accuracy> = members.iter().map(|member| member.accuracy).collect();
    let normalised: Option<Vec<Accuracy>> = members.iter().map(|member| member.normalised).collect();
    Entry {
        name: name.to_owned(),
        alias: alias.to_owned(),
        depth,
        is_group: true,
        accuracy: Accuracy::pooled(&accuracies),
        normalised: normalised.map(|members| Accuracy::pooled(&members)),
    }
}

impl TaskResult {
    /// The set as a tree from the top, written as the harness lists it: a group, then its members in name order.
    fn entries(&self) -> Vec<Entry> {
        // The order in which the harness pools MMLU's groups (`_mmlu.yaml`).
        const ORDER: [&str; 4] = ["mmlu_stem", "mmlu_other", "mmlu_social_sciences", "mmlu_humanities"];
        let mut groups: Vec<Group> = self.subjects.iter().filter_map(|result| result.subject.group).collect();
        groups.sort_by_key(|group| group.name);
        groups.dedup();
        let Some(parent) = groups.first().map(|group| group.parent) else {
            return self.subjects.iter().map(|result| result.entry(0)).collect();
        };
        let depth = usize::from(parent.is_some());
        let mut blocks: Vec<Vec<Entry>> = groups
            .iter()
            .map(|group| {
                let members = self.subjects.iter().filter(|result| result.subject.group == Some(*group));
                let members: Vec<Entry> = members.map(|result| result.entry(depth + 1)).collect();
                let pooled = pool(group.name, group.alias, depth, &members.iter().collect::<Vec<_>>());
                std::iter::once(pooled).chain(members).collect()
            })
            .collect();
        if let Some(parent) = parent {
            let mut members: Vec<&Entry> = blocks.iter().filter_map(|block| block.first()).collect();
            members.sort_by_key(|entry| ORDER.iter().position(|name| *name == entry.name));
            let top = pool(parent, parent, 0, &members);
            blocks.insert(0, vec![top]);
        }
        blocks.into_iter().flatten().collect()
    }

    /// The whole set, over all of its items.
    fn total(&self) -> Entry {
        let entries: Vec<Entry> = self.subjects.iter().map(|result| result.entry(1)).collect();
        pool(&self.name, &self.name, 0, &entries.iter().collect::<Vec<_>>())
    }
}

impl Evaluation {
    /// `results.json`: what lm-evaluation-harness writes (`results`, `groups`, `configs`, `versions`, `n-shot`,
    /// `config`), without times, hosts and paths; and two sections of our own: `tasks` (one entry for each set, over all
    /// of its items, with a sound standard error) and `texts`.
    pub fn to_json(&self) -> Value {
        let mut results = Map::new();
        let mut groups = Map::new();
        let mut configs = Map::new();
        let mut versions = Map::new();
        let mut shots = Map::new();
        for task in &self.tasks {
            for entry in task.entries() {
                let value = harness_entry(&entry);
                if entry.is_group {
                    groups.insert(entry.name.clone(), value.clone());
                    versions.insert(entry.name.clone(), json!("N/A"));
                }
                results.insert(entry.name.clone(), value);
                shots.insert(entry.name, json!(self.shots));
            }
            for SubjectResult { subject, .. } in &task.subjects {
                versions.insert(subject.name.clone(), json!(subject.version));
                configs.insert(subject.name.clone(), self.config(subject));
            }
        }
        let mut all = Map::new();
        all.insert("results".into(), results.into());
        if !groups.is_empty() {
            all.insert("groups".into(), groups.into());
        }
        all.insert("configs".into(), configs.into());
        all.insert("versions".into(), versions.into());
        all.insert("n-shot".into(), shots.into());
        let harness = format!("lm-evaluation-harness {HARNESS_REVISION}");
        let config =
            json!({ "model": "cmx", "model_args": self.model, "limit": self.limit, "definitions": harness });
        all.insert("config".into(), config);
        all.insert("tasks".into(), self.tasks.iter().map(|task| self.task_summary(task)).collect());
        all.insert("texts".into(), self.texts.iter().map(|text| self.text_summary(text)).collect());
        Value::Object(all)
    }

    fn config(&self, subject: &Subject) -> Value {
        let mut config = Map::new();
        config.insert("task".into(), json!(subject.name));
        if let Some(group) = subject.group {
            config.insert("group".into(), json!(group.name));
        }
        config.insert("description".into(), json!(subject.description));
        config.insert("target_delimiter".into(), json!(" "));
        config.insert("fewshot_delimiter".into(), json!("\n\n"));
        config.insert("num_fewshot".into(), json!(self.shots));
        config.insert("output_type".into(), json!("multiple_choice"));
        config.insert("metadata".into(), json!({ "version": subject.version }));
        Value::Object(config)
    }

    fn task_summary(&self, task: &TaskResult) -> Value {
        let total = task.total();
        let mut summary = Map::new();
        summary.insert("name".into(), json!(task.name));
        summary.insert("shots".into(), json!(self.shots));
        summary.insert("items".into(), json!(total.accuracy.items));
        let mut put = |prefix: &str, accuracy: Accuracy| {
            summary.insert(format!("{prefix}correct"), json!(accuracy.correct));
            summary.insert(format!("{prefix}accuracy"), json!(accuracy.mean()));
            summary.insert(format!("{prefix}stderr"), json!(accuracy.stderr()));
        };
        put("", total.accuracy);
        if let Some(normalised) = total.normalised {
            put("normalised_", normalised);
        }
        Value::Object(summary)
    }

    fn text_summary(&self, text: &TextResult) -> Value {
        let score = &text.score;
        json!({
            "name": text.name,
            "digest": score.digest,
            "documents": score.documents,
            "tokens": score.tokens,
            "characters": score.characters,
            "bytes": score.bytes,
            "tokens_per_character": rounded(score.tokens_per_character()),
            "loss": rounded(score.loss()),
            "bits_per_byte": rounded(score.bits_per_byte()),
            "window": self.windows.map(|windows| windows.length),
            "stride": self.windows.map(|windows| windows.stride),
        })
    }

    /// `samples.jsonl`: one object an item, in the order of tasks, subjects and items.
    pub fn samples(&self) -> String {
        let mut lines = String::new();
        for SubjectResult { subject, answers } in self.tasks.iter().flat_map(|task| &task.subjects) {
            for (number, answer) in answers.0.iter().enumerate() {
                let mut sample = json!({
                    "task": subject.name,
                    "doc_id": number,
                    "log_likelihoods": answer.log_likelihoods.iter().copied().map(rounded).collect::<Vec<_>>(),
                    "target": answer.target,
                    "prediction": answer.prediction,
                    "acc": u8::from(answer.prediction == answer.target),
                });
                if subject.normalised {
                    sample["acc_norm"] = json!(u8::from(answer.prediction_normalised == answer.target));
                }
                lines.push_str(&sample.to_string());
                lines.push('\n');
            }
        }
        lines
    }

    /// One row a text set.
    fn text_table(&self) -> Table {
        let scores = || self.texts.iter().map(|text| &text.score);
        let column = |heading: &str, cell: &dyn Fn(&TextScore) -> String| Column {
            heading: heading.to_owned(),
            cells: scores().map(cell).collect(),
        };
        let columns = vec![
            column("documents", &|score| score.documents.to_string()),
            column("characters", &|score| score.characters.to_string()),
            column("tokens", &|score| score.tokens.to_string()),
            column("tokens/char", &|score| format!("{:.3}", score.tokens_per_character())),
            column("loss", &|score| format!("{:.3}", score.loss())),
            column("bits/byte", &|score| format!("{:.3}", score.bits_per_byte())),
        ];
        Table {
            corner: "text".to_owned(),
            labels: self.texts.iter().map(|text| text.name.clone()).collect(),
            groups: vec![ColumnGroup { title: String::new(), columns }],
        }
    }

    /// One row an entry: a set, or all of its groups and subjects.
    fn task_table(entries: &[Entry]) -> Table {
        let column = |heading: &str, cell: &dyn Fn(&Entry) -> String| Column {
            heading: heading.to_owned(),
            cells: entries.iter().map(cell).collect(),
        };
        let mut columns = vec![
            column("items", &|entry| entry.accuracy.items.to_string()),
            column("accuracy", &|entry| percent(entry.accuracy.mean())),
            column("±", &|entry| entry.accuracy.stderr().map_or_else(String::new, percent)),
        ];
        if entries.iter().any(|entry| entry.normalised.is_some()) {
            let mean =
                |entry: &Entry| entry.normalised.map_or_else(String::new, |accuracy| percent(accuracy.mean()));
            columns.push(column("normalised", &mean));
        }
        Table {
            corner: "task".to_owned(),
            labels: entries.iter().map(|entry| format!("{}{}", "  ".repeat(entry.depth), entry.alias)).collect(),
            groups: vec![ColumnGroup { title: String::new(), columns }],
        }
    }

    /// A short table for the terminal.
    pub fn note(&self) -> String {
        let totals: Vec<Entry> = self.tasks.iter().map(TaskResult::total).collect();
        let mut blocks = Vec::new();
        if !self.texts.is_empty() {
            blocks.push(self.text_table().to_text(usize::MAX));
        }
        if !totals.is_empty() {
            blocks.push(Self::task_table(&totals).to_text(usize::MAX));
        }
        blocks.join("\n")
    }

    /// `results.md`.
    pub fn to_markdown(&self) -> String {
        let mut text = format!("# Evaluation of {}\n", self.model);
        if !self.texts.is_empty() {
            text.push_str("\n## Text\n\n");
            text.push_str(&self.text_table().to_markdown());
            if let Some(windows) = self.windows {
                text.push_str(&format!(
                    "\nLoss is in nats per token; windows of {} tokens, stride {}.\n",
                    windows.length, windows.stride
                ));
            }
        }
        if !self.tasks.is_empty() {
            text.push_str(&format!("\n## Tasks ({} shots)\n\n", self.shots));
            let entries: Vec<Entry> = self.tasks.iter().flat_map(TaskResult::entries).collect();
            let mut table = Self::task_table(&entries);
            // Markdown drops leading spaces.
            for (label, entry) in table.labels.iter_mut().zip(&entries) {
                *label = format!("{}{}", harness_indent(entry.depth), entry.alias);
            }
            text.push_str(&table.to_markdown());
            text.push_str("\nGroups are means over all of their items; ± is the standard error over items.\n");
        }
        text
    }
}

/// The values of one task or group, named as in the harness (`METRIC,FILTER`).
fn harness_entry(entry: &Entry) -> Value {
    let mut value = Map::new();
    let mut put = |metric: &str, accuracy: Accuracy| {
        value.insert(format!("{metric},none"), json!(accuracy.mean()));
        let stderr = accuracy.harness_stderr.map_or(json!("N/A"), |stderr| json!(stderr));
        value.insert(format!("{metric}_stderr,none"), stderr);
    };
    put("acc", entry.accuracy);
    if let Some(normalised) = entry.normalised {
        put("acc_norm", normalised);
    }
    value.insert("alias".into(), json!(format!("{}{}", harness_indent(entry.depth), entry.alias)));
    Value::Object(value)
}

fn harness_indent(depth: usize) -> String {
    if depth == 0 { String::new() } else { format!("{}- ", " ".repeat(depth)) }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// To a millionth: what lies below is noise of the order of operations.
fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests;
