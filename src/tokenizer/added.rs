//! Tokens appended to a tokenizer that are found in a text as they are written, such as those that part a conversation.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::normalizer::SPACE;
use super::proto::{ModelProto, Piece, PieceKind};
use super::sentencepiece::SentencePiece;
use super::unigram::Unigram;
use super::usage::Usage;
use super::{Family, Tokenizer};
use crate::error::{Context, Error, Result};

/// What is appended.
#[derive(Clone, Debug, Default)]
pub struct Added {
    /// In the order of their ids.
    pub tokens: Vec<String>,
    /// The token that ends a text from now on: one of the tokenizer's, old or new.
    pub eos: Option<String>,
    /// The token that fills up a batch.
    pub pad: Option<String>,
    /// The Jinja template of a conversation.
    pub chat_template: Option<String>,
}

impl Tokenizer {
    /// The tokenizer with the tokens behind its own, whose ids stay. Fails for tokens that are there already, empty, or
    /// not to be found in a text as they are written, and for roles of tokens that are not there.
    ///
    /// In a `tokenizer.model` they are user-defined pieces: SentencePiece finds those, and neither finds control pieces
    /// nor lets other pieces reach into them. In a `tokenizer.json` they are added tokens.
    pub fn with(self, added: &Added) -> Result<Self> {
        self.check(added)?;
        let appended = |model: &ModelProto| {
            let mut model = model.clone();
            model.self_test_data = None;
            model.pieces.extend(added.tokens.iter().map(|token| Piece::new(token, 0.0, PieceKind::UserDefined)));
            model
        };
        Ok(Self(match self.0 {
            Family::SentencePiece(old) => {
                let usage = usage(old.vocabulary().usage(), added);
                Family::SentencePiece(Box::new(SentencePiece::new(appended(old.model()))?.with_usage(usage)))
            }
            Family::Unigram(old) => {
                let vocabulary = old.vocabulary();
                let usage = usage(vocabulary.usage(), added);
                Family::Unigram(Box::new(Unigram::new(appended(vocabulary.model()))?.with_usage(usage)))
            }
            Family::HuggingFace(old) => Family::HuggingFace(Box::new(old.with(added)?)),
        }))
    }

    fn check(&self, added: &Added) -> Result<()> {
        if added.tokens.is_empty() {
            return Err(Error::invalid("`tokens` names no token"));
        }
        let known: Vec<(&str, u32)> =
            (0..self.vocab_size() as u32).filter_map(|id| Some((self.piece(id)?, id))).collect();
        let mut new = HashSet::new();
        for token in &added.tokens {
            if token.is_empty() {
                return Err(Error::invalid("`tokens` holds an empty one"));
            }
            if token.contains(|c: char| c.is_whitespace() || c == SPACE) {
                return Err(Error::invalid(format!("`tokens`: {token:?} holds white space"))
                    .hint("white space of a text is rewritten before tokens are looked for"));
            }
            if let Some((_, id)) = known.iter().find(|(piece, _)| piece == token) {
                return Err(Error::invalid(format!("`tokens`: `{token}` is in the tokenizer already, as {id}")));
            }
            if !new.insert(token.as_str()) {
                return Err(Error::invalid(format!("`tokens` names `{token}` twice")));
            }
        }
        for (role, token) in [("eos_token", &added.eos), ("pad_token", &added.pad)] {
            let Some(token) = token else { continue };
            if !new.contains(token.as_str()) && !known.iter().any(|(piece, _)| piece == token) {
                return Err(Error::invalid(format!("`{role}`: the tokenizer has no token `{token}`"))
                    .hint("name one that it has, or one of `tokens`"));
            }
        }
        Ok(())
    }
}

fn usage(old: &Usage, added: &Added) -> Usage {
    Usage {
        special: old.special.iter().chain(&added.tokens).cloned().collect(),
        eos: added.eos.clone().or_else(|| old.eos.clone()),
        pad: added.pad.clone().or_else(|| old.pad.clone()),
        chat_template: added.chat_template.clone().map(Value::from).or_else(|| old.chat_template.clone()),
    }
}

/// A `tokenizer.json` with the tokens, which get the ids from `next` on.
pub fn append_to_json(json: &mut Value, added: &Added, next: u32) -> Result<()> {
    let tokens = json
        .as_object_mut()
        .map(|object| object.entry("added_tokens").or_insert(Value::Null))
        .ok_or_else(|| Error::invalid("the tokenizer.json is no object"))?;
    if tokens.is_null() {
        *tokens = json!([]);
    }
    let tokens = tokens.as_array_mut().ok_or_else(|| Error::invalid("`added_tokens` is no list"))?;
    for (token, id) in added.tokens.iter().zip(next..) {
        let mut new = Map::from_iter([("id".to_owned(), json!(id))]);
        new.extend(fields(token));
        tokens.push(new.into());
    }
    Ok(())
}

/// `tokenizer_config.json` and `special_tokens_map.json` with the tokens, their roles and the template.
pub fn append_to_companion(companion: &mut Map<String, Value>, is_config: bool, added: &Added, next: u32) {
    let special = companion.entry("additional_special_tokens").or_insert(Value::Null);
    if !special.is_array() {
        *special = json!([]);
    }
    if let Some(special) = special.as_array_mut() {
        special.extend(added.tokens.iter().map(|token| json!(token)));
    }
    for (role, token) in [("eos_token", &added.eos), ("pad_token", &added.pad)] {
        if let Some(token) = token {
            companion.insert(role.to_owned(), json!(token));
        }
    }
    if !is_config {
        return;
    }
    if let Some(template) = &added.chat_template {
        companion.insert("chat_template".to_owned(), json!(template));
    }
    let decoder = companion.entry("added_tokens_decoder").or_insert_with(|| json!({}));
    if let Some(decoder) = decoder.as_object_mut() {
        decoder.extend(added.tokens.iter().zip(next..).map(|(token, id)| (id.to_string(), fields(token).into())));
    }
}

/// The fields of an added token that is special, and found in a text before anything else is done to it.
fn fields(token: &str) -> Map<String, Value> {
    let flags = ["single_word", "lstrip", "rstrip", "normalized"].map(|name| (name.to_owned(), json!(false)));
    let mut fields = Map::from_iter([("content".to_owned(), json!(token))]);
    fields.extend(flags);
    fields.insert("special".to_owned(), json!(true));
    fields
}

/// The text of a `tokenizer.json`. A number that would be read again as another one is an error: scores would change.
pub fn written(json: &Value) -> Result<Vec<u8>> {
    let text = format!("{json:#}\n").into_bytes();
    let again: Value = serde_json::from_slice(&text).context(|| "cannot write a tokenizer.json".to_owned())?;
    if again != *json {
        return Err(Error::invalid("the tokenizer.json holds numbers that do not survive being written again"));
    }
    Ok(text)
}
