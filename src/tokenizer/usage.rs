//! What `tokenizer_config.json` says of a tokenizer beside its pieces: which tokens are special, and how a conversation
//! becomes a text.

use std::path::Path;

use serde_json::Value;

use super::proto::{ModelProto, PieceKind};
use crate::error::{Context, Error, Result};

/// The file's name.
pub const CONFIG: &str = "tokenizer_config.json";

/// Of a `tokenizer.model`, as far as the file beside it goes beyond the model itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// User-defined pieces that part a conversation: transformers does not show them in decoded text unless asked to,
    /// and puts no dummy prefix before one that begins a text.
    pub special: Vec<String>,
    /// The token that ends a text, if it is another than the model's own.
    pub eos: Option<String>,
    /// The token that fills up a batch.
    pub pad: Option<String>,
    /// The Jinja template of a conversation, or several of them by name.
    pub chat_template: Option<Value>,
}

impl Usage {
    /// What stands beside `path`, a `tokenizer.model`. Tokens that the model does not have are passed over: the model
    /// says what there is.
    pub fn beside(path: &Path, model: &ModelProto) -> Result<Self> {
        let config = path.with_file_name(CONFIG);
        if path.file_name().is_none_or(|name| name != "tokenizer.model") || !config.is_file() {
            return Ok(Self::default());
        }
        let config = read(&config)?;
        let has = |name: &String| model.pieces.iter().any(|piece| piece.text() == name);
        let named = |key: &str| token_name(&config[key]).filter(has);
        let user_defined = |name: &String| {
            model.pieces.iter().any(|piece| piece.kind() == PieceKind::UserDefined && piece.text() == name)
        };
        let special = config["additional_special_tokens"].as_array().into_iter().flatten();
        Ok(Self {
            special: special.filter_map(token_name).filter(user_defined).collect(),
            eos: named("eos_token"),
            pad: named("pad_token"),
            chat_template: Some(config["chat_template"].clone()).filter(|template| !template.is_null()),
        })
    }

    /// Every token that has a role here.
    pub fn tokens(&self) -> impl Iterator<Item = &str> {
        self.special.iter().chain(&self.eos).chain(&self.pad).map(String::as_str)
    }
}

/// A file of JSON.
pub fn read(path: &Path) -> Result<Value> {
    let bytes = std::fs::read(path).context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::invalid(format!("{} is not JSON", path.display())).caused_by(error))
}

/// A special token is written as a string or as an object with `content`.
pub fn token_name(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned)
}
