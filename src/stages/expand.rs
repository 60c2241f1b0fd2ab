//! `expand`: rows of embedding and output for the tokens that a larger tokenizer adds.

mod figures;

use std::path::Path;

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Input, Outlook, Prospect, Stage, Work};
use crate::error::{Context, Error, Result};
use crate::events::Unit;
use crate::tokenizer::Tokenizer;
use crate::weights::expansion::{EMBEDDING, Expansion, OUTPUT, Recipe, Row};
use crate::weights::rewrite::{Companions, Sharing, share_companions};
use crate::weights::{Checkpoint, Normal};

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Expand {
    /// The model to extend, with its tokenizer.
    model: Input,
    /// The larger tokenizer: the model's, with tokens appended.
    tokenizer: Input,
    init: Init,
    recipe: Recipe,
    /// Of `init = "normal"`.
    seed: u64,
    /// Whether heat maps of the matrices before and after are drawn.
    plots: bool,
}

/// How a new row starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Init {
    /// The mean of the rows of the old tokens that spell the new one.
    Mean,
    /// N(0, `initializer_range`²), as transformers extends a model.
    Normal,
}

impl Stage for Expand {
    const KIND: &'static str = "expand";
    const REVISION: u32 = 3;

    fn prospect(&self, inputs: &dyn Outlook) -> Option<Prospect> {
        let config = inputs.model(&self.model).and_then(|config| {
            let vocab_size = inputs.vocabulary(&self.tokenizer)?;
            Ok(crate::model::Config { vocab_size, ..config })
        });
        Some(Prospect::model(config))
    }

    fn run(&self, work: &mut Work) -> Result<()> {
        let folder = self.model.path();
        let sharing = Sharing::of(&self.model.from);
        let old = Tokenizer::open(folder)?;
        let new = Tokenizer::open(self.tokenizer.path())?;
        let base = Checkpoint::open(folder)?;
        let config = Config::read(folder)?;
        check(&base, &config, &old, &new)?;

        let rows = match self.init {
            Init::Mean => mean_rows(&old, &new, self.recipe)?,
            Init::Normal => vec![Row::Normal; new.vocab_size() - old.vocab_size()],
        };
        let normal = Normal { seed: self.seed, deviation: config.initializer_range()? };
        let progress = work.progress("expanding", Some(base.bytes_in_all()), Unit::Bytes);
        let rewritten = Expansion { base: &base, rows: &rows, recipe: self.recipe, normal }.write(
            work.output(),
            sharing,
            &mut |bytes| {
                progress.add(bytes);
                work.check()
            },
        )?;
        progress.finish();

        share_companions(folder, work.output(), sharing, Companions::ExceptConfigAndTokenizer)?;
        let path = work.output().join("config.json");
        std::fs::write(&path, config.with_vocabulary(new.vocab_size())?)
            .context(|| format!("cannot write {}", path.display()))?;
        new.save(work.output())?;
        if self.plots {
            figures::draw(&base, &Checkpoint::open(work.output())?, &work.output().join("report"))?;
        }

        let old_tokens: usize = rows.iter().map(|row| if let Row::Mean(ids) = row { ids.len() } else { 0 }).sum();
        work.metric("vocabulary_before", old.vocab_size());
        work.metric("vocabulary", new.vocab_size());
        if old_tokens > 0 {
            work.metric("old_tokens_per_new", old_tokens as f64 / rows.len() as f64);
        }
        work.metric("shards_written", rewritten.written.len());
        work.metric("shards_shared", rewritten.shared.len());
        let orphans = rows.iter().filter(|row| **row == Row::MeanOfAll).count();
        if orphans > 0 {
            work.warn(format!(
                "{orphans} new tokens have no text that old tokens spell: they start at the mean of all"
            ));
        }
        Ok(())
    }
}

/// The rows of the matrices must be the old tokens, and these must keep their numbers in the new tokenizer.
fn check(base: &Checkpoint, config: &Config, old: &Tokenizer, new: &Tokenizer) -> Result<()> {
    let folder = base.folder().display();
    let (before, after) = (old.vocab_size(), new.vocab_size());
    if !base.contains(OUTPUT) && !config.is_tied() {
        return Err(Error::invalid(format!(
            "{folder} has no `{OUTPUT}`, and its output is not tied to the embedding"
        )));
    }
    base.spec(EMBEDDING)?;
    for name in Expansion::matrices(base) {
        let rows = base.spec(name)?.shape.first().copied().unwrap_or(0);
        if rows != before {
            return Err(Error::invalid(format!(
                "`{name}` of {folder} has {rows} rows, its tokenizer has {before} tokens"
            ))
            .hint("model and tokenizer must belong together"));
        }
    }
    if config.vocabulary()? != before {
        return Err(Error::invalid(format!(
            "config.json of {folder} says vocab_size {}, its tokenizer has {before} tokens",
            config.vocabulary()?
        )));
    }
    if after < before {
        return Err(Error::invalid(format!(
            "the new tokenizer has {after} tokens, fewer than the model's own, which has {before}"
        ))
        .hint("give one that `vocab-search` made from the model's own"));
    }
    let moved = (0..before as u32).find(|&id| old.piece(id) != new.piece(id));
    if let Some(id) = moved {
        let piece = |tokenizer: &Tokenizer| tokenizer.piece(id).unwrap_or("(none)").to_owned();
        return Err(Error::invalid(format!(
            "the new tokenizer does not extend the model's: token {id} is `{}`, and was `{}`",
            piece(new),
            piece(old)
        ))
        .hint("new tokens must be appended to the model's own, whose numbers stay"));
    }
    Ok(())
}

/// For each new token, the old tokens that spell it.
fn mean_rows(old: &Tokenizer, new: &Tokenizer, recipe: Recipe) -> Result<Vec<Row>> {
    let spelling = Spelling::new(old, new)?;
    (old.vocab_size() as u32..new.vocab_size() as u32)
        .map(|id| match recipe {
            Recipe::Clean => Ok(match spelling.bare(id)? {
                ids if ids.is_empty() => Row::MeanOfAll,
                ids => Row::Mean(ids),
            }),
            Recipe::AsPublished => spelling.as_published(id),
        })
        .collect()
}

/// Spells new tokens with old ones.
struct Spelling<'a> {
    old: &'a Tokenizer,
    new: &'a Tokenizer,
    /// A text that no token shares with what follows it, and its tokens. It takes the dummy prefix upon itself.
    guard: (String, Vec<u32>),
}

impl<'a> Spelling<'a> {
    fn new(old: &'a Tokenizer, new: &'a Tokenizer) -> Result<Self> {
        let candidates = ['\n', '\u{e000}', '\u{e001}', '\u{f8ff}', '\u{1f}'];
        let blank = [old.encode("")?, old.encode(" ")?];
        for guard in candidates {
            let text = guard.to_string();
            let alone = |id| old.piece(id).is_none_or(|piece| !piece.contains(guard) || piece == text);
            let ids = old.encode(&text)?;
            if !blank.contains(&ids) && (0..old.vocab_size() as u32).all(alone) {
                return Ok(Self { old, new, guard: (text, ids) });
            }
        }
        Err(Error::new("the model's tokenizer joins every character to its neighbours"))
    }

    /// The old tokens of a new token's text alone: no BOS, no dummy prefix. A leading ▁ counts as the space it is.
    fn bare(&self, id: u32) -> Result<Vec<u32>> {
        let (guard, guard_ids) = &self.guard;
        // Decoded behind the guard, so that a leading space is not taken for the dummy prefix.
        let decoded = self.new.decode(&[guard_ids.as_slice(), &[id]].concat())?;
        let text = match decoded.strip_prefix(&self.new.decode(guard_ids)?) {
            Some(text) if !text.is_empty() => text.to_owned(),
            _ => self.new.piece(id).unwrap_or_default().replace('▁', " "),
        };
        let ids = self.old.encode(&format!("{guard}{text}"))?;
        ids.strip_prefix(guard_ids.as_slice()).map(<[u32]>::to_vec).ok_or_else(|| {
            Error::new(format!("cannot spell the new token {id} (`{text}`) with the model's own tokens"))
        })
    }

    /// What the published run did: the mean over BOS and the text as the old tokenizer sees a whole text, dummy prefix
    /// included. Its rows for added tokens, which decode to nothing here, stayed zero.
    fn as_published(&self, id: u32) -> Result<Row> {
        let text = self.new.decode(&[id])?;
        if text.is_empty() && !self.is_space(id) {
            return Ok(Row::Zero);
        }
        let mut ids: Vec<u32> = self.old.bos().into_iter().collect();
        self.old.encode_into(&text, &mut ids)?;
        Ok(Row::Mean(ids))
    }

    /// A token that is nothing but the space which a decoder takes for the dummy prefix.
    fn is_space(&self, id: u32) -> bool {
        self.new.piece(id) == Some("▁")
    }
}

/// `config.json`, kept as text so that everything but the vocabulary stays as it was written.
struct Config {
    text: String,
    value: Value,
}

impl Config {
    fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path).context(|| format!("cannot read {}", path.display()))?;
        let value = serde_json::from_str(&text)
            .map_err(|error| Error::invalid(format!("{} is not valid JSON", path.display())).caused_by(error))?;
        Ok(Self { text, value })
    }

    fn vocabulary(&self) -> Result<usize> {
        let size = self.value.get("vocab_size").and_then(Value::as_u64);
        size.map(|size| size as usize).ok_or_else(|| Error::invalid("config.json of the model has no `vocab_size`"))
    }

    fn is_tied(&self) -> bool {
        self.value.get("tie_word_embeddings") == Some(&Value::Bool(true))
    }

    /// `initializer_range`; where the model does not say, transformers takes 0.02.
    fn initializer_range(&self) -> Result<f64> {
        match self.value.get("initializer_range") {
            None => Ok(0.02),
            Some(value) => value.as_f64().filter(|range| range.is_finite() && *range >= 0.0).ok_or_else(|| {
                Error::invalid(format!("config.json of the model says initializer_range {value}, not a number"))
            }),
        }
    }

    /// The text with another `vocab_size` at its top level.
    fn with_vocabulary(&self, size: usize) -> Result<String> {
        let mut wanted = self.value.clone();
        wanted["vocab_size"] = size.into();
        let number =
            Regex::new(r#""vocab_size"\s*:\s*(\d+)"#).context(|| "cannot look for vocab_size".to_owned())?;
        number
            .captures_iter(&self.text)
            .filter_map(|found| found.get(1))
            .map(|digits| format!("{}{size}{}", &self.text[..digits.start()], &self.text[digits.end()..]))
            .find(|text| serde_json::from_str::<Value>(text).is_ok_and(|value| value == wanted))
            .ok_or_else(|| Error::invalid("config.json of the model has no `vocab_size` that can be changed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_vocabulary_of_a_config_changes() {
        let text = "{ \"z\": 1e-05,\n \"nested\": {\"vocab_size\": 8}, \"vocab_size\" : 8, \"a\": [1,2] }\n";
        let config = Config { text: text.to_owned(), value: serde_json::from_str(text).unwrap() };
        assert_eq!(config.vocabulary().unwrap(), 8);
        let expected = "{ \"z\": 1e-05,\n \"nested\": {\"vocab_size\": 8}, \"vocab_size\" : 11, \"a\": [1,2] }\n";
        assert_eq!(config.with_vocabulary(11).unwrap(), expected);
    }
}
