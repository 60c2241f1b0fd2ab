//! Several evaluations side by side: what a larger vocabulary and more training changed.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::error::{Context, Error, Result};
use crate::evaluation::table::{Column, ColumnGroup, Table};

/// What is compared of one evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub label: String,
    results: Results,
}

/// The part of `results.json` that is compared.
#[derive(Clone, Debug, Deserialize, PartialEq)]
struct Results {
    tasks: Vec<Task>,
    texts: Vec<Text>,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
struct Task {
    name: String,
    shots: usize,
    items: usize,
    accuracy: f64,
    stderr: Option<f64>,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
struct Text {
    name: String,
    digest: String,
    tokens: u64,
    tokens_per_character: f64,
    loss: f64,
    bits_per_byte: f64,
}

impl Row {
    /// Reads `results.json` in the folder of an evaluation (or that very file).
    pub fn read(label: String, path: &Path) -> Result<Self> {
        let file = if path.is_dir() { path.join("results.json") } else { path.to_owned() };
        let bytes = fs::read(&file)
            .context(|| format!("cannot read {}", file.display()))
            .map_err(|error| error.hint("`results` are the artifacts of eval stages: \"@eval\""))?;
        let results = serde_json::from_slice(&bytes)
            .map_err(|error| Error::invalid(format!("{} holds no evaluation", file.display())).caused_by(error))?;
        Ok(Self { label, results })
    }

    fn task(&self, name: &str) -> Option<&Task> {
        self.results.tasks.iter().find(|task| task.name == name)
    }

    fn text(&self, name: &str) -> Option<&Text> {
        self.results.texts.iter().find(|text| text.name == name)
    }
}

/// The label of a result without one: the instance of a `foreach` stage, else the stage, else the file's name.
/// `@eval[base]` → `base`, `@eval-base` → `eval-base`, `old/results` → `results`.
pub fn default_label(from: &str) -> String {
    let name = from.strip_prefix('@').unwrap_or(from).trim_end_matches('/');
    match name.split_once('[') {
        Some((_, rest)) => rest.split(']').next().unwrap_or(rest).to_owned(),
        None => name.rsplit('/').next().unwrap_or(name).to_owned(),
    }
}

/// Evaluations in the order of their rows; the first is the baseline.
pub struct Comparison {
    rows: Vec<Row>,
}

impl Comparison {
    pub fn new(rows: Vec<Row>) -> Result<Self> {
        for (i, row) in rows.iter().enumerate() {
            if rows[..i].iter().any(|other| other.label == row.label) {
                return Err(Error::invalid(format!("two results have the label {:?}", row.label))
                    .hint("give each its own with `labels`"));
            }
        }
        if rows.is_empty() {
            return Err(Error::invalid("there are no results to compare"));
        }
        Ok(Self { rows })
    }

    /// Names over all rows, in the order in which they first appear.
    fn names(&self, of: impl Fn(&Row) -> Vec<&str>) -> Vec<&str> {
        let mut names = Vec::new();
        for row in &self.rows {
            for name in of(row) {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        names
    }

    fn texts(&self) -> Vec<&str> {
        self.names(|row| row.results.texts.iter().map(|text| text.name.as_str()).collect())
    }

    fn tasks(&self) -> Vec<&str> {
        self.names(|row| row.results.tasks.iter().map(|task| task.name.as_str()).collect())
    }

    /// Share of the baseline's tokens that the model of `row` does without, on the same text.
    fn cut(&self, row: &Row, name: &str) -> Option<f64> {
        let (base, text) = (self.rows.first()?.text(name)?, row.text(name)?);
        (base.digest == text.digest).then(|| 1.0 - text.tokens as f64 / base.tokens as f64)
    }

    /// Why columns are not comparable: the same name, but other text, items or shots. Empty if all is well.
    pub fn mismatches(&self) -> Vec<String> {
        let mut found = Vec::new();
        for name in self.texts() {
            if !all_equal(self.rows.iter().filter_map(|row| row.text(name)).map(|text| &text.digest)) {
                found.push(format!("text {name} is not the same in all results"));
            }
        }
        for name in self.tasks() {
            let asked = self.rows.iter().filter_map(|row| row.task(name)).map(|task| (task.items, task.shots));
            if !all_equal(asked) {
                found.push(format!("task {name} was not asked with the same items and shots in all results"));
            }
        }
        found
    }

    pub fn table(&self) -> Table {
        let mut groups: Vec<ColumnGroup> = self.texts().into_iter().map(|name| self.text_group(name)).collect();
        let tasks: Vec<Column> = self
            .tasks()
            .into_iter()
            .map(|name| self.column(name, &|row| row.task(name).map(|task| percent(task.accuracy))))
            .collect();
        if !tasks.is_empty() {
            groups.push(ColumnGroup { title: "accuracy".to_owned(), columns: tasks });
        }
        Table {
            corner: "model".to_owned(),
            labels: self.rows.iter().map(|row| row.label.clone()).collect(),
            groups,
        }
    }

    fn text_group(&self, name: &str) -> ColumnGroup {
        let number = |value: fn(&Text) -> f64| move |row: &Row| row.text(name).map(|t| format!("{:.3}", value(t)));
        let mut columns = vec![self.column("tokens/char", &number(|text| text.tokens_per_character))];
        // Where no model needs other tokens than the baseline, there is nothing to tell.
        if self.rows.iter().any(|row| self.cut(row, name).is_some_and(|cut| cut != 0.0)) {
            let baseline = self.rows.first();
            let cut = |row: &Row| match self.cut(row, name) {
                Some(cut) if Some(row) != baseline => Some(percent(cut)),
                _ => Some(String::new()),
            };
            columns.push(self.column("saved", &cut));
        }
        columns.push(self.column("loss", &number(|text| text.loss)));
        columns.push(self.column("bits/byte", &number(|text| text.bits_per_byte)));
        ColumnGroup { title: name.to_owned(), columns }
    }

    fn column(&self, heading: &str, cell: &dyn Fn(&Row) -> Option<String>) -> Column {
        let cells = self.rows.iter().map(|row| cell(row).unwrap_or_else(|| "–".to_owned()));
        Column { heading: heading.to_owned(), cells: cells.collect() }
    }

    /// `compare.json`: the same figures, for programs.
    pub fn to_json(&self) -> Value {
        let models = self.rows.iter().map(|row| {
            let mut texts = Map::new();
            for text in &row.results.texts {
                let value = json!({
                    "digest": text.digest,
                    "tokens": text.tokens,
                    "tokens_per_character": text.tokens_per_character,
                    "saved": self.cut(row, &text.name),
                    "loss": text.loss,
                    "bits_per_byte": text.bits_per_byte,
                });
                texts.insert(text.name.clone(), value);
            }
            let mut tasks = Map::new();
            for task in &row.results.tasks {
                let Task { items, shots, accuracy, stderr, .. } = task;
                let value = json!({ "items": items, "shots": shots, "accuracy": accuracy, "stderr": stderr });
                tasks.insert(task.name.clone(), value);
            }
            json!({ "label": row.label, "texts": texts, "tasks": tasks })
        });
        json!({
            "baseline": self.rows.first().map(|row| &row.label),
            "models": models.collect::<Vec<_>>(),
            "mismatches": self.mismatches(),
        })
    }

    /// `compare.md`.
    pub fn to_markdown(&self) -> String {
        let mut text = format!(
            "# Comparison\n\n{}\nLoss is in nats per token, so it compares only models with the same tokenizer; bits per \
             byte compare all. Saved: share of the tokens of {} that the model does without.\n",
            self.table().to_markdown(),
            self.rows.first().map_or("the first", |row| &row.label),
        );
        for mismatch in self.mismatches() {
            text.push_str(&format!("\n**Not comparable:** {mismatch}.\n"));
        }
        text
    }
}

fn all_equal<T: PartialEq>(mut values: impl Iterator<Item = T>) -> bool {
    values.next().is_none_or(|first| values.all(|value| value == first))
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(label: &str, tokens: u64, loss: f64, accuracy: f64) -> Row {
        let text = |name: &str, tokens: u64| Text {
            name: name.to_owned(),
            digest: name.to_owned(),
            tokens,
            tokens_per_character: tokens as f64 / 1000.0,
            loss,
            bits_per_byte: loss / 2.0,
        };
        let task = Task { name: "小测验".to_owned(), shots: 0, items: 40, accuracy, stderr: Some(0.05) };
        let texts = vec![text("books/dev", tokens), text("docs", 300)];
        Row { label: label.to_owned(), results: Results { tasks: vec![task], texts } }
    }

    fn comparison() -> Comparison {
        let rows =
            vec![row("base", 1372, 4.0, 0.25), row("expanded", 781, 6.5, 0.3), row("merged", 781, 3.25, 0.525)];
        Comparison::new(rows).unwrap()
    }

    #[test]
    fn rows_stand_side_by_side() {
        let expected = [
            "           books/dev                               docs                            accuracy",
            "model      tokens/char   saved   loss  bits/byte   tokens/char   loss  bits/byte   小测验",
            "base             1.372          4.000      2.000         0.300  4.000      2.000   25.0 %",
            "expanded         0.781  43.1 %  6.500      3.250         0.300  6.500      3.250   30.0 %",
            "merged           0.781  43.1 %  3.250      1.625         0.300  3.250      1.625   52.5 %",
        ];
        let text = comparison().table().to_text(100);
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
        assert!(comparison().mismatches().is_empty());
    }

    #[test]
    fn other_text_is_not_compared_silently() {
        let mut rows = comparison().rows;
        rows[2].results.texts[0].digest = "other".to_owned();
        rows[1].results.tasks[0].items = 3;
        let comparison = Comparison::new(rows).unwrap();
        assert_eq!(comparison.cut(&comparison.rows[2], "books/dev"), None);
        let expected = [
            "text books/dev is not the same in all results",
            "task 小测验 was not asked with the same items and shots in all results",
        ];
        assert_eq!(comparison.mismatches(), expected);
    }

    #[test]
    fn labels_come_from_references() {
        assert_eq!(default_label("@eval[base]"), "base");
        assert_eq!(default_label("@eval[base]/results.json"), "base");
        assert_eq!(default_label("@eval-base"), "eval-base");
        assert_eq!(default_label("old/results/"), "results");
        let error = Comparison::new(vec![row("a", 1, 1.0, 0.0), row("a", 1, 1.0, 0.0)]).err().unwrap();
        assert_eq!(error.one_line(), "two results have the label \"a\"");
    }
}
