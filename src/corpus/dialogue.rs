//! Dialogues: a JSONL line whose document is a list of messages.

use serde_json::{Map, Value};

use super::document::{Fault, beginning, syntax};

/// One turn of a dialogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant`, or what else the line says.
    pub role: String,
    pub content: String,
}

/// Whose messages are answers.
pub const ASSISTANT: &str = "assistant";

/// The names that ShareGPT's files have for roles.
const SHARE_GPT: [(&str, &str); 2] = [("human", "user"), ("gpt", ASSISTANT)];

/// The messages in the list `field` of the JSON object on `line`: `{"role": …, "content": …}` each, or, as ShareGPT
/// writes them, `{"from": …, "value": …}`. What else a message holds is passed over; one without a text is a fault, and
/// so is a list without messages. Of a field that comes twice the last counts, as in Python.
pub fn dialogue_of(line: &[u8], field: &str) -> Result<Vec<Message>, Fault> {
    let line = beginning(line)?;
    let mut value: Value = serde_json::from_str(line).map_err(syntax)?;
    let Some(object) = value.as_object_mut() else { return Err(Fault::NotAnObject(kind(&value))) };
    match object.remove(field) {
        None => Err(Fault::Missing(field.to_owned())),
        Some(Value::Array(messages)) if messages.is_empty() => {
            Err(Fault::Dialogue(format!("`{field}` holds no message")))
        }
        Some(Value::Array(messages)) => (1..).zip(messages).map(|(number, value)| message(value, number)).collect(),
        Some(other) => Err(Fault::Dialogue(format!("`{field}` is {}, not a list of messages", kind(&other)))),
    }
}

/// A dialogue as one text, which says whether another one is the same.
pub fn told(messages: &[Message]) -> String {
    messages.iter().flat_map(|Message { role, content }| [role, "\n", content, "\n"]).collect()
}

fn message(value: Value, number: usize) -> Result<Message, Fault> {
    let Value::Object(mut fields) = value else {
        return Err(Fault::Dialogue(format!("message {number} is {}, not an object", kind(&value))));
    };
    let share_gpt = !fields.contains_key("role") && fields.contains_key("from");
    let names = if share_gpt { ["from", "value"] } else { ["role", "content"] };
    let [role, content] = names.map(|name| text(&mut fields, name, number));
    let role = role?;
    let usual = SHARE_GPT.into_iter().find(|(theirs, _)| share_gpt && role == *theirs);
    Ok(Message { role: usual.map_or(role, |(_, ours)| ours.to_owned()), content: content? })
}

fn text(fields: &mut Map<String, Value>, name: &str, number: usize) -> Result<String, Fault> {
    match fields.remove(name) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => {
            Err(Fault::Dialogue(format!("`{name}` of message {number} is {}, not a string", kind(&other))))
        }
        None => Err(Fault::Dialogue(format!("message {number} has no `{name}`"))),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Vec<Message>, String> {
        dialogue_of(line.as_bytes(), "messages").map_err(|fault| fault.to_string())
    }

    #[test]
    fn both_forms_of_a_message_are_read() {
        let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
        let expected = vec![message("system", "s"), message("user", "问\n"), message("assistant", "答")];
        let chat = r#"{"id": 1, "messages": [{"role": "system", "content": "s"},
            {"role": "user", "content": "问\n", "name": "x"}, {"content": "答", "role": "assistant"}]}"#;
        assert_eq!(read(chat), Ok(expected.clone()));
        let share_gpt = r#"{"messages": [{"from": "system", "value": "s"}, {"from": "human", "value": "问\n"},
            {"from": "gpt", "value": "答"}]}"#;
        assert_eq!(read(share_gpt), Ok(expected.clone()));
        assert_eq!(told(&expected), "system\ns\nuser\n问\n\nassistant\n答\n");
        // Only ShareGPT's names are translated, and only in its form.
        assert_eq!(
            read(r#"{"messages": [{"role": "gpt", "content": "a"}]}"#).map(|all| all[0].role.clone()).as_deref(),
            Ok("gpt")
        );
    }

    #[test]
    fn what_is_no_dialogue_is_said() {
        for (line, fault) in [
            ("", "not valid JSON: the line is empty"),
            ("\u{feff}{}", "not valid JSON: the line begins with a byte-order mark"),
            (r#"{"messages": ["#, "not valid JSON: EOF while parsing a list at column 14"),
            (r#"["a"]"#, "an array where an object was expected"),
            (r#"{"text": "a"}"#, "the object has no field `messages`"),
            (r#"{"messages": "a"}"#, "`messages` is a string, not a list of messages"),
            (r#"{"messages": []}"#, "`messages` holds no message"),
            (r#"{"messages": ["a"]}"#, "message 1 is a string, not an object"),
            (r#"{"messages": [{"role": "user", "content": "a"}, {}]}"#, "message 2 has no `role`"),
            (r#"{"messages": [{"role": "user"}]}"#, "message 1 has no `content`"),
            (r#"{"messages": [{"from": "human"}]}"#, "message 1 has no `value`"),
            (
                r#"{"messages": [{"role": "user", "content": null}]}"#,
                "`content` of message 1 is null, not a string",
            ),
        ] {
            assert_eq!(read(line), Err(fault.to_owned()), "{line}");
        }
    }
}
