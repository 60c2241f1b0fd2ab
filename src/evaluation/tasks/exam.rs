//! C-Eval, CMMLU and MMLU: four options, answered by a letter; shots are the first rows of the dev split.

use std::path::Path;

use crate::error::{Error, Result, nearest};
use crate::evaluation::python::strip;
use crate::evaluation::tasks::rows::{self, At, invalid};
use crate::evaluation::tasks::subjects::{CEVAL_SUBJECTS, CMMLU_SUBJECTS, MMLU_SUBJECTS};
use crate::evaluation::tasks::{Group, Item, Selection, Subject, context, too_few_shots};

const LETTERS: [&str; 4] = ["A", "B", "C", "D"];

/// What sets one exam apart from the others.
pub struct Exam {
    name: &'static str,
    /// Subject → what its description calls it, or for MMLU the group it belongs to.
    subjects: &'static [(&'static str, &'static str)],
    /// The split that is evaluated.
    split: &'static str,
    /// Files are `SUBJECT_SPLIT.csv`, else `SUBJECT.csv`.
    split_in_name: bool,
    /// The header names of question, options and answer; `None` where files have no header.
    columns: Option<[&'static str; 6]>,
    /// Before the answer.
    cue: &'static str,
    version: f64,
    normalised: bool,
}

pub const CEVAL: Exam = Exam {
    name: "ceval",
    subjects: &CEVAL_SUBJECTS,
    split: "val",
    split_in_name: true,
    columns: Some(["question", "A", "B", "C", "D", "answer"]),
    cue: "答案：",
    version: 1.0,
    normalised: true,
};

pub const CMMLU: Exam = Exam {
    name: "cmmlu",
    subjects: &CMMLU_SUBJECTS,
    split: "test",
    split_in_name: false,
    columns: Some(["Question", "A", "B", "C", "D", "Answer"]),
    cue: "答案：",
    version: 0.0,
    normalised: true,
};

pub const MMLU: Exam = Exam {
    name: "mmlu",
    subjects: &MMLU_SUBJECTS,
    split: "test",
    split_in_name: true,
    columns: None,
    cue: "Answer:",
    version: 0.0,
    normalised: false,
};

/// A row of an exam's file.
struct Question {
    text: String,
    options: [String; 4],
    answer: usize,
}

impl Exam {
    fn file(&self, subject: &str, split: &str) -> String {
        if self.split_in_name { format!("{split}/{subject}_{split}.csv") } else { format!("{split}/{subject}.csv") }
    }

    /// Task name, alias, group and description, as `_generate_configs.py` of each exam makes them.
    fn describe(&self, subject: &str, value: &'static str) -> (String, String, Group, String) {
        let group = |name, alias, parent| Group { name, alias, parent };
        match self.name {
            "ceval" => (
                format!("ceval-valid_{subject}"),
                format!("ceval-valid_{subject}"),
                group("ceval-valid", "ceval-valid", None),
                format!("以下是中国关于{value}的单项选择题，请选出其中的正确答案。\n\n"),
            ),
            "cmmlu" => (
                format!("cmmlu_{subject}"),
                format!("cmmlu_{subject}"),
                group("cmmlu", "cmmlu", None),
                format!("以下是关于{value}的单项选择题，请直接给出正确答案的选项。\n\n"),
            ),
            _ => (
                format!("mmlu_{subject}"),
                subject.to_owned(),
                match value {
                    "stem" => group("mmlu_stem", "stem", Some("mmlu")),
                    "other" => group("mmlu_other", "other", Some("mmlu")),
                    "social_sciences" => group("mmlu_social_sciences", "social_sciences", Some("mmlu")),
                    _ => group("mmlu_humanities", "humanities", Some("mmlu")),
                },
                format!(
                    "The following are multiple choice questions (with answers) about {}.\n\n",
                    subject.replace('_', " ")
                ),
            ),
        }
    }

    /// The question without its answer. Only the question is stripped, not the options.
    fn body(&self, question: &Question) -> String {
        let Question { text, options: [a, b, c, d], .. } = question;
        format!("{}\nA. {a}\nB. {b}\nC. {c}\nD. {d}\n{}", strip(text), self.cue)
    }
}

/// Reads the subjects whose files are in `folder`.
pub fn read(exam: &Exam, folder: &Path, selection: &Selection) -> Result<Vec<Subject>> {
    let present = present(exam, folder)?;
    let wanted: Vec<_> = present.iter().filter(|(subject, _)| selection.wants(subject)).collect();
    if wanted.is_empty() {
        let all: Vec<&str> = present.iter().map(|(subject, _)| *subject).collect();
        return Err(Error::invalid("none of its subjects is selected by `subjects`")
            .hint(format!("its subjects are {}", all.join(", "))));
    }
    wanted.into_iter().map(|&(subject, value)| read_subject(exam, folder, selection, subject, value)).collect()
}

/// The subjects with a file in the evaluated split, in name order.
fn present(exam: &Exam, folder: &Path) -> Result<Vec<(&'static str, &'static str)>> {
    let layout = format!("expected {} and {}", exam.file("SUBJECT", "dev"), exam.file("SUBJECT", exam.split));
    let split = folder.join(exam.split);
    let files = if split.is_dir() { rows::files(&split, "csv")? } else { Vec::new() };
    if files.is_empty() {
        let message = format!("there is no {} in {}", exam.file("*", exam.split), folder.display());
        return Err(Error::invalid(message).hint(layout));
    }
    let mut present = Vec::new();
    for file in files {
        let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let ending = format!("_{}", exam.split);
        let name = if exam.split_in_name { stem.strip_suffix(&ending).unwrap_or(stem) } else { stem };
        let known = exam.subjects.iter().find(|(subject, _)| *subject == name).ok_or_else(|| {
            let error = Error::invalid(format!("{}: {} has no subject {name:?}", file.display(), exam.name));
            match nearest(name, exam.subjects.iter().map(|(subject, _)| *subject)) {
                Some(near) => error.hint(format!("did you mean {near:?}?")),
                None => error.hint(layout.clone()),
            }
        })?;
        present.push(*known);
    }
    present.sort_unstable();
    Ok(present)
}

fn read_subject(
    exam: &Exam,
    folder: &Path,
    selection: &Selection,
    subject: &str,
    value: &'static str,
) -> Result<Subject> {
    let (name, alias, group, description) = exam.describe(subject, value);
    let mut examples = Vec::new();
    if selection.shots > 0 {
        let path = folder.join(exam.file(subject, "dev"));
        let questions = questions(exam, &path)?;
        if questions.len() < selection.shots {
            return Err(too_few_shots(&path, selection.shots, questions.len()));
        }
        let shots = &questions[..selection.shots];
        examples = shots.iter().map(|q| format!("{} {}", exam.body(q), LETTERS[q.answer])).collect();
    }
    let path = folder.join(exam.file(subject, exam.split));
    let items = selection.limited(questions(exam, &path)?).into_iter().map(|question| Item {
        context: context(&description, &examples, &exam.body(&question)),
        continuations: LETTERS.map(|letter| format!(" {letter}")).to_vec(),
        characters: vec![1; 4],
        target: question.answer,
    });
    let items: Vec<Item> = items.collect();
    if items.is_empty() {
        return Err(Error::invalid(format!("{} has no questions", path.display())));
    }
    Ok(Subject {
        name,
        alias,
        group: Some(group),
        items,
        description,
        version: exam.version,
        normalised: exam.normalised,
    })
}

/// Every question of one file.
fn questions(exam: &Exam, path: &Path) -> Result<Vec<Question>> {
    let mut rows = rows::csv(path)?.into_iter();
    let columns = match exam.columns {
        None => [0, 1, 2, 3, 4, 5],
        Some(names) => {
            let header = rows.next().ok_or_else(|| Error::invalid(format!("{} is empty", path.display())))?;
            let mut columns = [0; 6];
            for (column, name) in columns.iter_mut().zip(names) {
                *column = header.value.iter().position(|cell| cell == name).ok_or_else(|| {
                    invalid(path, header.line, format_args!("there is no column {name:?} in the header"))
                })?;
            }
            columns
        }
    };
    rows.map(|row| question(path, &row, columns)).collect()
}

fn question(path: &Path, row: &At<Vec<String>>, columns: [usize; 6]) -> Result<Question> {
    let cell = |i: usize| {
        row.value.get(columns[i]).map(String::as_str).ok_or_else(|| {
            invalid(path, row.line, format_args!("the row has only {} of its columns", row.value.len()))
        })
    };
    let letter = cell(5)?;
    let answer = LETTERS
        .iter()
        .position(|known| *known == letter)
        .ok_or_else(|| invalid(path, row.line, format_args!("the answer is {letter:?}, not one of A, B, C, D")))?;
    let [a, b, c, d] = [cell(1)?, cell(2)?, cell(3)?, cell(4)?].map(str::to_owned);
    Ok(Question { text: cell(0)?.to_owned(), options: [a, b, c, d], answer })
}
