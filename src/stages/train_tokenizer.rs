//! `train-tokenizer`: documents → a byte-pair tokenizer.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Documents, Fault, Stage, Work};
use crate::corpus::each_text;
use crate::error::{Error, Result};
use crate::events::Unit;
use crate::tokenizer::trainer::{Alphabet, Rules, Words, train};
use crate::tokenizer::{Normalizer, Sample, SentencePiece, Tokenizer};

/// Every document is cut into lines, which are SentencePiece's sentences; the parameters are named as there.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainTokenizer {
    /// The text to train on.
    pub train: Vec<Documents>,
    /// Number of pieces, special ones included.
    pub vocab_size: usize,
    /// Unknown characters become bytes.
    pub byte_fallback: bool,
    /// The share of the text whose characters get a piece of their own, at most 1.
    pub character_coverage: f32,
    /// Every digit is a piece.
    pub split_digits: bool,
    /// Runs of spaces may be pieces.
    pub allow_whitespace_only_pieces: bool,
    /// A space is put before every text.
    pub add_dummy_prefix: bool,
    /// Spaces at the ends are dropped and runs of them made one.
    pub remove_extra_whitespaces: bool,
    /// What else happens to a text before it is encoded.
    pub normalization: Normalization,
    /// In characters.
    pub max_sentencepiece_length: usize,
    /// In bytes; longer lines are passed over.
    pub max_sentence_length: usize,
    /// At most this many lines are trained on, drawn evenly from all.
    pub lines: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Normalization {
    /// Nothing.
    Identity,
}

impl Stage for TrainTokenizer {
    const KIND: &'static str = "train-tokenizer";
    const REVISION: u32 = 2;

    fn check(&self) -> Result<(), Fault> {
        let wrong = |name: &str, why: &str| Err(Fault::new(name, format!("`{name}` {why}")));
        if !(self.character_coverage > 0.0 && self.character_coverage <= 1.0) {
            return wrong("character_coverage", "is a share of the text: above 0, at most 1");
        }
        for (name, value) in [
            ("max_sentencepiece_length", self.max_sentencepiece_length),
            ("max_sentence_length", self.max_sentence_length),
            ("lines", self.lines),
        ] {
            if value == 0 {
                return wrong(name, "must be at least 1");
            }
        }
        if self.train.is_empty() {
            return wrong("train", "must name at least one corpus");
        }
        let special = self.rules().meta_pieces().len();
        if self.vocab_size <= special {
            return wrong("vocab_size", &format!("must be above {special}, the number of special pieces"));
        }
        Ok(())
    }

    fn run(&self, work: &mut Work) -> Result<()> {
        let rules = self.rules();
        let sample = training_lines(&self.train, self.lines, self.max_sentence_length, work)?;
        let words = words_of(sample, rules, "train")?;

        let progress = work.progress("train", Some(self.vocab_size as u64), Unit::Items);
        let lines = words.lines();
        let trained = train(words, Alphabet::Coverage(self.character_coverage), self.vocab_size, |merges| {
            progress.set(merges.len() as u64);
            work.check().map(|()| false)
        })?;
        progress.set(self.vocab_size as u64);
        progress.finish();
        let model = trained.model(trained.merges.len());
        model.write_vocab(&work.output().join("tokenizer.vocab"))?;
        Tokenizer::from(SentencePiece::new(model)?).save(work.output())?;

        work.metric("pieces", trained.vocab_size());
        work.metric("merges", trained.merges.len());
        work.metric("single_characters", trained.characters.len());
        work.metric("lines", lines);
        Ok(())
    }
}

impl TrainTokenizer {
    fn rules(&self) -> Rules {
        let Normalization::Identity = self.normalization;
        Rules {
            normalizer: Normalizer {
                add_dummy_prefix: self.add_dummy_prefix,
                remove_extra_whitespaces: self.remove_extra_whitespaces,
                escape_whitespaces: true,
                whitespace_as_suffix: false,
            },
            byte_fallback: self.byte_fallback,
            split_digits: self.split_digits,
            allow_whitespace_only_pieces: self.allow_whitespace_only_pieces,
            max_sentencepiece_length: self.max_sentencepiece_length,
            max_sentence_length: self.max_sentence_length,
        }
    }
}

/// A sample of at most `limit` of the lines that a training takes: not empty, and of at most `longest` bytes.
pub(super) fn training_lines(from: &[Documents], limit: usize, longest: usize, work: &Work) -> Result<Sample> {
    let mut sample = Sample::new(limit);
    let mut too_long = 0_u64;
    each_line(from, "read", work, |line| {
        if line.len() > longest {
            too_long += 1;
        } else if !line.is_empty() {
            sample.add(line);
        }
    })?;
    if too_long > 0 {
        work.warn(format!("{too_long} lines of more than {longest} bytes are passed over"));
    }
    if sample.seen() > limit as u64 {
        work.info(format!("training on {limit} of {} lines", sample.seen()));
    }
    Ok(sample)
}

/// The words of a sample; an error that names the parameter when there are none.
pub(super) fn words_of(sample: Sample, rules: Rules, parameter: &str) -> Result<Words> {
    let words = Words::of(rules, &sample.lines());
    if words.lines() == 0 {
        return Err(Error::invalid(format!("`{parameter}`: the documents hold no text to train on")));
    }
    Ok(words)
}

/// Calls `each` with every line of every document, in order, one at a time.
pub(super) fn each_line(
    from: &[Documents],
    label: &str,
    work: &Work,
    mut each: impl FnMut(&str) + Send,
) -> Result<()> {
    let files: Vec<PathBuf> = from.iter().flat_map(|documents| documents.files.iter().cloned()).collect();
    let progress = work.progress(label, None, Unit::Documents);
    each_text(&files, work.threads(), |text| {
        work.check()?;
        text.split('\n').for_each(&mut each);
        progress.add(1);
        Ok(())
    })?;
    progress.finish();
    Ok(())
}
