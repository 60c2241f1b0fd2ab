//! What vocabularies are made of and measured on: a base tokenizer, lines to train on, lines to score.

use std::collections::HashSet;

use rayon::prelude::*;

use crate::error::{Error, ExitCode, Result};
use crate::stages::train_tokenizer::{each_line, training_lines, words_of};
use crate::stages::{Documents, Input, Work};
use crate::tokenizer::trainer::{Alphabet, Rules, Words};
use crate::tokenizer::{ModelProto, Sample, Scripts, SentencePiece, Tokenizer};

/// The rules of every vocabulary here: those of `spm_train --model_type=bpe --normalization_rule_name=identity`, with
/// `--byte_fallback` if wanted.
pub fn rules(byte_fallback: bool) -> Rules {
    Rules { byte_fallback, ..Rules::SENTENCEPIECE }
}

/// How many pieces are special under these rules: unknown, beginning, end, and the bytes.
pub fn special_pieces(byte_fallback: bool) -> usize {
    rules(byte_fallback).meta_pieces().len()
}

/// A tokenizer to which pieces can be appended, and its model.
pub struct Base {
    pub tokenizer: Tokenizer,
    pub model: ModelProto,
}

impl Base {
    pub fn open(input: &Input) -> Result<Self> {
        const ADVICE: &str = "pieces can be appended to a SentencePiece BPE model only: give the `tokenizer.model` of \
                              the model that you extend, or train a base with the stage kind `train-tokenizer`";
        let tokenizer = Tokenizer::open(input.path()).map_err(|error| match error.code() {
            ExitCode::Invalid => {
                let message = format!("`base`: {} cannot be extended", input.from);
                Error::invalid(message).caused_by(error).hint(ADVICE)
            }
            _ => error,
        })?;
        match tokenizer.sentencepiece().map(|model| model.model().clone()) {
            Some(model) => Ok(Self { tokenizer, model }),
            None => {
                Err(Error::invalid(format!("`base`: {} is no SentencePiece BPE model", input.from)).hint(ADVICE))
            }
        }
    }

    /// Says so if characters without a piece are scored as bytes, and the base will not encode them so.
    pub fn compare_fallback(&self, byte_fallback: bool, work: &Work) {
        let has_bytes = self.tokenizer.sentencepiece().is_some_and(SentencePiece::byte_fallback);
        if byte_fallback && !has_bytes {
            work.warn(
                "characters without a piece are scored as bytes, but are unknown to the base, which has no bytes: \
                 write `byte_fallback = false`",
            );
        }
    }
}

/// Lines that vocabularies are scored on.
pub struct Corpus {
    /// As written.
    pub name: String,
    pub lines: Sample,
    pub characters: usize,
}

impl Corpus {
    /// At most `limit` lines, drawn evenly from the documents' lines that are not blank. An error names `parameter`.
    pub fn read(parameter: &str, name: &str, documents: &[Documents], limit: usize, work: &Work) -> Result<Self> {
        let mut lines = Sample::new(limit);
        each_line(documents, "read", work, |line| {
            let line = line.trim();
            if !line.is_empty() {
                lines.add(line);
            }
        })?;
        if lines.lines().is_empty() {
            return Err(Error::invalid(format!("`{parameter}`: {name} holds no text")));
        }
        let characters = lines.lines().iter().map(|line| line.chars().count()).sum();
        Ok(Self { name: name.to_owned(), lines, characters })
    }

    /// Fails if the text is not in the scripts.
    pub fn check(&self, parameter: &str, scripts: &Scripts) -> Result<()> {
        if self.lines.lines().iter().any(|line| scripts.are_in(line)) {
            return Ok(());
        }
        Err(Error::invalid(format!("`{parameter}`: {} holds no {scripts} character", self.name))
            .hint("score on text of the language: what is measured is how well its vocabulary fits it"))
    }

    /// How many tokens the lines are.
    pub fn tokens(&self, tokenizer: &Tokenizer) -> Result<usize> {
        self.lines.lines().par_iter().map(|line| Ok(tokenizer.encode(line)?.len())).sum()
    }
}

/// Text to train on.
pub struct Training {
    pub words: Words,
    /// All characters, most frequent first, with their counts.
    pub characters: Vec<(char, u64)>,
    /// How many lines there were to choose from.
    pub lines_in_all: u64,
    /// No vocabulary of the text can have more merges.
    most_merges: usize,
}

impl Training {
    /// At most `limit` lines, drawn evenly. Errors name `parameter`.
    pub fn read(parameter: &str, documents: &[Documents], limit: usize, rules: Rules, work: &Work) -> Result<Self> {
        let sample = training_lines(documents, limit, rules.max_sentence_length, work)?;
        let lines_in_all = sample.seen();
        // A merge joins two neighbours in at least one of the lines that differ, which has one symbol less from then on.
        let distinct: HashSet<&str> = sample.lines().into_iter().collect();
        let most_merges = distinct.into_iter().map(|line| line.chars().count()).sum();
        let words = words_of(&sample, rules, parameter)?;
        let characters = words.alphabet(Alphabet::Characters(usize::MAX));
        Ok(Self { words, characters, lines_in_all, most_merges })
    }

    /// Fails if the text is not in the scripts.
    pub fn check(&self, parameter: &str, scripts: &Scripts) -> Result<()> {
        if self.characters.iter().any(|(c, _)| scripts.are_in(c.encode_utf8(&mut [0; 4]))) {
            return Ok(());
        }
        Err(Error::invalid(format!("`{parameter}`: the documents hold no {scripts} character"))
            .hint("train on text of the language whose pieces are to be appended"))
    }

    /// The size that no vocabulary with so many single characters can exceed.
    pub fn largest_size(&self, single: usize) -> usize {
        self.words.rules().meta_pieces().len() + single + self.most_merges
    }
}
