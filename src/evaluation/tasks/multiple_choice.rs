//! Our own simple format for multiple-choice questions.
//!
//! `test.jsonl`, one item a line: `{"question": "…", "choices": ["…", "…"], "answer": 0}`, where `answer` is the index of
//! the right choice; `dev.jsonl` in the same form holds the examples, of which the first `shots` are used. Further
//! fields are ignored. The prompt is the question alone, in any language, and what is scored is the log-likelihood of
//! a space and the choice's text after it, so that a question ("What is the capital of France?") and an unfinished
//! sentence ("The capital of France is") both read naturally. Examples are `QUESTION CHOICE`, a blank line apart.

use std::path::Path;

use crate::error::{Error, Result};
use crate::evaluation::python::{rstrip, strip};
use crate::evaluation::tasks::{Item, Selection, Subject, context, rows, too_few_shots};

struct Question {
    text: String,
    choices: Vec<String>,
    answer: usize,
}

pub fn read(name: &str, folder: &Path, selection: &Selection) -> Result<Subject> {
    let path = folder.join("test.jsonl");
    if !path.is_file() {
        return Err(Error::invalid(format!("there is no test.jsonl in {}", folder.display()))
            .hint(r#"expected test.jsonl, and dev.jsonl for shots, of {"question", "choices", "answer"}"#));
    }
    let mut examples = Vec::new();
    if selection.shots > 0 {
        let path = folder.join("dev.jsonl");
        if !path.is_file() {
            return Err(Error::invalid(format!("there is no dev.jsonl in {}, for the shots", folder.display()))
                .hint("add one, or set `shots = 0`"));
        }
        let questions = questions(&path)?;
        if questions.len() < selection.shots {
            return Err(too_few_shots(&path, selection.shots, questions.len()));
        }
        examples =
            questions[..selection.shots].iter().map(|q| format!("{} {}", q.text, q.choices[q.answer])).collect();
    }
    let items: Vec<Item> = selection
        .limited(questions(&path)?)
        .into_iter()
        .map(|question| Item {
            context: context("", &examples, &question.text),
            continuations: question.choices.iter().map(|choice| format!(" {choice}")).collect(),
            characters: question.choices.iter().map(|choice| choice.chars().count()).collect(),
            target: question.answer,
        })
        .collect();
    if items.is_empty() {
        return Err(Error::invalid(format!("{} has no questions", path.display())));
    }
    Ok(Subject {
        name: name.to_owned(),
        alias: name.to_owned(),
        group: None,
        description: String::new(),
        version: 1.0,
        normalised: true,
        items,
    })
}

fn questions(path: &Path) -> Result<Vec<Question>> {
    rows::jsonl(path)?
        .into_iter()
        .map(|at| {
            let text = rstrip(rows::string(path, &at, "question")?).to_owned();
            let choices: Vec<String> =
                rows::strings(path, &at, "choices")?.into_iter().map(|choice| strip(choice).to_owned()).collect();
            if text.is_empty() || choices.iter().any(String::is_empty) {
                return Err(rows::invalid(path, at.line, "the question or a choice is empty"));
            }
            let answer = rows::index(path, &at, "answer", choices.len())?;
            Ok(Question { text, choices, answer })
        })
        .collect()
}
