//! Dialogues about the world: questions of fact and their answers, one to three of them in a row.

use serde_json::{Value, json};

use super::Result;
use super::random::Random;
use super::world::{Language, World};

/// Questions and answers of a dialogue at most.
const TURNS: usize = 3;
/// One dialogue in so many begins with an instruction.
const INSTRUCTED: usize = 4;
const INSTRUCTION: &str = "你是云雀谷的向导，回答要简短。";

/// `count` dialogues as JSON lines, each an object with a list of `messages`; `text` says what is asked.
pub fn jsonl(text: &str, world: &World, count: usize, random: &mut Random) -> Result<Vec<u8>> {
    let mut facts = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let &[table, attribute, question, answer] = cells.as_slice() else {
            return Err(format!("a dialogue needs four cells: {line}").into());
        };
        for thing in world.table(table)? {
            let name = world.text(thing, &[], Language::Chinese)?;
            let value = world.text(thing, &[attribute], Language::Chinese)?;
            facts.push([question, answer].map(|text| text.replace('@', &name).replace('$', &value)));
        }
    }
    let mut text = String::new();
    let mut next = facts.len();
    for id in 0..count {
        let mut messages: Vec<Value> = Vec::new();
        if random.below(INSTRUCTED) == 0 {
            messages.push(json!({ "role": "system", "content": INSTRUCTION }));
        }
        for _ in 0..=random.below(TURNS) {
            if next == facts.len() {
                random.shuffle(&mut facts);
                next = 0;
            }
            let [question, answer] = &facts[next];
            next += 1;
            messages.push(json!({ "role": "user", "content": question }));
            messages.push(json!({ "role": "assistant", "content": answer }));
        }
        text.push_str(&json!({ "id": id, "messages": messages }).to_string());
        text.push('\n');
    }
    Ok(text.into_bytes())
}
