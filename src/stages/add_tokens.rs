//! `add-tokens`: a tokenizer → the same with tokens appended that are found in a text as they are written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Input, Outlook, Prospect, Stage, Work};
use crate::error::{Context, Error, Result};
use crate::tokenizer::{Added, Tokenizer};

/// Those of a dialogue are special tokens: inside a text each is one id, nothing is put before or behind it, and
/// transformers does not show it in decoded text unless asked to.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddTokens {
    /// The tokenizer to extend; its ids stay.
    tokenizer: Input,
    /// In the order of their ids, which follow the tokenizer's own.
    tokens: Vec<String>,
    /// The token that ends a text, from now on: one of `tokens` or of the tokenizer.
    eos_token: Option<String>,
    /// The token that fills up a batch, in the same way.
    pad_token: Option<String>,
    /// A Jinja template by which transformers makes a text of a dialogue.
    chat_template: Option<Input>,
}

impl Stage for AddTokens {
    const KIND: &'static str = "add-tokens";
    const REVISION: u32 = 1;

    fn prospect(&self, inputs: &dyn Outlook) -> Option<Prospect> {
        Some(Prospect::tokenizer(inputs.vocabulary(&self.tokenizer).map(|before| before + self.tokens.len())))
    }

    fn run(&self, work: &mut Work) -> Result<()> {
        let tokenizer = Tokenizer::open(self.tokenizer.path())?;
        let before = tokenizer.vocab_size();
        let extended = tokenizer.with(&Added {
            tokens: self.tokens.clone(),
            eos: self.eos_token.clone(),
            pad: self.pad_token.clone(),
            chat_template: self.chat_template.as_ref().map(template).transpose()?,
        })?;
        extended.save(work.output())?;
        work.metric("tokens_added", self.tokens.len());
        work.metric("vocabulary", extended.vocab_size());
        let ids: Vec<String> =
            self.tokens.iter().zip(before..).map(|(token, id)| format!("{token} is {id}")).collect();
        work.note(ids.join("\n"));
        Ok(())
    }
}

/// Without the line end that editors put behind the last line: it would stand behind every dialogue.
fn template(file: &Input) -> Result<String> {
    let path = file.path();
    let bytes = std::fs::read(path).context(|| format!("cannot read {}", path.display()))?;
    let text = String::from_utf8(bytes)
        .map_err(|error| Error::invalid(format!("{} is not valid UTF-8", path.display())).caused_by(error))?;
    Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
}
