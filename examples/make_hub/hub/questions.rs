//! Multiple-choice questions about the world, the same ones in every language.

use serde_json::json;

use super::Result;
use super::random::Random;
use super::world::{Language, Row, World};

const CHOICES: usize = 4;

/// One question, before it is put into words.
pub struct Question<'a> {
    english: &'a str,
    chinese: &'a str,
    thing: &'a Row,
    attribute: &'a str,
    /// Rows whose attribute gives the choices; the right one is `thing` itself, at `answer`.
    choices: Vec<&'a Row>,
    answer: usize,
}

/// The questions that the lines of `text` ask for, in random order, their answers spread evenly over the places.
pub fn ask<'a>(text: &'a str, world: &'a World, random: &mut Random) -> Result<Vec<Question<'a>>> {
    let mut questions = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let &[count, table, attribute, english, chinese] = cells.as_slice() else {
            return Err(format!("a question needs five cells: {line}").into());
        };
        let mut things: Vec<&Row> = world.table(table)?.iter().collect();
        random.shuffle(&mut things);
        for &thing in things.iter().take(count.parse()?) {
            let mut others = things.clone();
            random.shuffle(&mut others);
            let mut choices = vec![thing];
            for other in others {
                if choices.len() < CHOICES && choices.iter().all(|row| row[attribute] != other[attribute]) {
                    choices.push(other);
                }
            }
            questions.push(Question { english, chinese, thing, attribute, choices, answer: 0 });
        }
    }
    random.shuffle(&mut questions);
    for four in questions.chunks_mut(CHOICES) {
        let mut places: Vec<usize> = (0..CHOICES).collect();
        random.shuffle(&mut places);
        for (question, place) in four.iter_mut().zip(places) {
            question.choices.swap(0, place);
            question.answer = place;
        }
    }
    Ok(questions)
}

/// One JSON object a line: `question`, `choices`, `answer` (from 0).
pub fn jsonl(questions: &[Question], world: &World, language: Language) -> Result<Vec<u8>> {
    let mut text = String::new();
    for question in questions {
        let pattern = match language {
            Language::English => question.english,
            Language::Chinese => question.chinese,
        };
        let name = world.text(question.thing, &[], language)?;
        let choices = question
            .choices
            .iter()
            .map(|row| world.text(row, &[question.attribute], language))
            .collect::<Result<Vec<String>>>()?;
        let line =
            json!({ "question": pattern.replace('@', &name), "choices": choices, "answer": question.answer });
        text.push_str(&line.to_string());
        text.push('\n');
    }
    Ok(text.into_bytes())
}
