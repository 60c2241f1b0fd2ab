//! `cmx generate`: continues a text with a model folder.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::Surroundings;
use crate::corpus::{ChatTemplate, Message};
use crate::error::{Context, Error, Result};
use crate::model::{Generator, Mixtral, Sampling};
use crate::tokenizer::{Tokenizer, chat_template};

/// Continue a text with a model
#[derive(clap::Args)]
pub struct Args {
    /// A model folder, for example `outputs/merge`
    #[arg(long, value_name = "FOLDER")]
    model: PathBuf,

    /// The text to continue
    #[arg(long, required_unless_present = "ask", conflicts_with = "ask")]
    prompt: Option<String>,

    /// A message to answer, told by the chat template of the model's tokenizer
    #[arg(long, value_name = "MESSAGE")]
    ask: Option<String>,

    /// Stop after this many tokens
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_tokens: usize,

    /// 0 always takes the likeliest token; higher values take more risks
    #[arg(long, default_value_t = 0.0, value_parser = at_least_zero)]
    temperature: f64,

    /// Draw only from the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", value_parser = probability)]
    top_p: Option<f64>,

    /// Seed of the draws
    #[arg(long, default_value_t = 42)]
    seed: u64,

    /// Write the prompt's token ids and logits to this safetensors file, and generate nothing
    #[arg(long, value_name = "FILE")]
    logits: Option<PathBuf>,
}

impl Args {
    pub fn run(self, surroundings: &Surroundings) -> Result<()> {
        let folder = surroundings.located(&self.model);
        if !folder.exists() {
            return Err(Error::invalid(format!("there is no model folder {}", folder.display()))
                .hint("`cmx status` shows which stages have run"));
        }
        let model = Mixtral::open(&folder, &Device::Cpu)?;
        let tokenizer = Tokenizer::open(&folder)?;
        let (pieces, rows) = (tokenizer.vocab_size(), model.config().vocab_size);
        if pieces > rows {
            return Err(Error::invalid(format!(
                "the tokenizer has {pieces} tokens, but the model only {rows} rows"
            )));
        }
        let ids = self.ids(&folder, &tokenizer)?;
        if ids.is_empty() {
            return Err(Error::invalid("the prompt is empty, and the tokenizer has no token that begins a text"));
        }
        match &self.logits {
            Some(path) => write_logits(&model, ids, path),
            None => self.generate(&model, &tokenizer, ids),
        }
    }

    /// What is to be continued.
    fn ids(&self, folder: &Path, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        if let Some(prompt) = &self.prompt {
            ids.extend(tokenizer.bos());
            tokenizer.encode_into(prompt, &mut ids)?;
        }
        if let Some(content) = &self.ask {
            let template = chat_template(folder)?.ok_or_else(|| {
                Error::invalid(format!("the tokenizer in {} has no chat template", folder.display()))
                    .hint("give the whole text with `--prompt`")
            })?;
            let message = Message { role: "user".to_owned(), content: content.clone() };
            let text = ChatTemplate::new(&template, tokenizer.special_tokens())?.render_prompt(&[message])?;
            tokenizer.encode_dialogue(&text, None, &mut ids, None)?;
        }
        Ok(ids)
    }

    /// Prints the prompt, and its continuation as it comes; of a message's answer nothing but the answer.
    fn generate(&self, model: &Mixtral, tokenizer: &Tokenizer, ids: Vec<u32>) -> Result<()> {
        let mut out = io::stdout().lock();
        let mut print = |text: &str| match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // The reader has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            result => result.map(|()| true).context(|| "cannot print".to_owned()),
        };
        let prefix = ids.len();
        let mut all = ids.clone();
        let mut printed = tokenizer.decode(&all)?;
        print(self.prompt.as_deref().unwrap_or_default())?;
        let sampling = Sampling { temperature: self.temperature, top_p: self.top_p, seed: self.seed };
        for token in Generator::new(model, ids, tokenizer.eos(), sampling)?.take(self.max_tokens) {
            all.push(token?);
            let text = tokenizer.decode(&all)?;
            // A character may be spelt by several byte tokens: wait for all of it.
            if text.ends_with('\u{fffd}') && all.len() < prefix + self.max_tokens {
                continue;
            }
            if let Some(new) = text.strip_prefix(&printed)
                && !print(new)?
            {
                return Ok(());
            }
            printed = text;
        }
        print("\n").map(|_| ())
    }
}

/// `ids` [length] as int64 and `logits` [length, vocabulary] as float32.
fn write_logits(model: &Mixtral, ids: Vec<u32>, path: &Path) -> Result<()> {
    let ids = Tensor::new(ids, &Device::Cpu)?;
    let logits = model.forward(&ids.unsqueeze(0)?)?.squeeze(0)?;
    let tensors = HashMap::from([("ids", ids.to_dtype(DType::I64)?), ("logits", logits)]);
    candle_core::safetensors::save(&tensors, path).context(|| format!("cannot write {}", path.display()))
}

fn at_least_zero(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value >= 0.0 && value.is_finite() => Ok(value),
        _ => Err("a number of at least 0 is wanted".to_owned()),
    }
}

fn probability(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 1.0 => Ok(value),
        _ => Err("a number above 0 and at most 1 is wanted".to_owned()),
    }
}
