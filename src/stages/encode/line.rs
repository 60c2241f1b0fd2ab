//! A line of documents → its token ids: a text as it stands, or a dialogue as a chat template tells it.

use std::path::Path;

use crate::corpus::{ChatTemplate, Line, Rendered, bad_line, dialogue_of, text_of};
use crate::error::{Context, Error, Result};
use crate::model::ops::Stream;
use crate::tokenizer::Tokenizer;

/// Encodes the lines of one file, on any number of threads: what becomes of a line depends on nothing but its place.
pub(super) struct LineEncoder<'a> {
    pub tokenizer: &'a Tokenizer,
    pub file: &'a Path,
    pub form: &'a Form,
    /// Answers are told apart from what is asked.
    pub answers: bool,
    pub dropout: Option<Dropout>,
}

/// What stands on a line.
pub(super) enum Form {
    /// A text, in the field of this name.
    Text(String),
    /// Messages, in the field of this name.
    Dialogue(String, Box<ChatTemplate>),
}

/// Merges are left out at random.
pub(super) struct Dropout {
    /// The probability, in 2^-64.
    threshold: u64,
    stream: Stream,
}

/// Documents' ids, one behind the other.
#[derive(Default)]
pub(super) struct Encoded {
    pub ids: Vec<u32>,
    /// Whether each is part of an answer; empty where that is not asked.
    pub counted: Vec<bool>,
    pub documents: Vec<Measures>,
}

/// Of one document.
pub(super) struct Measures {
    pub ids: usize,
    /// Bytes of the line; the others are the text's.
    pub line: usize,
    pub bytes: usize,
    pub characters: usize,
}

impl Form {
    /// Dialogues for `template`, with the special tokens of `tokenizer`.
    pub fn dialogue(field: &str, template: &str, tokenizer: &Tokenizer) -> Result<Self> {
        let template = ChatTemplate::new(template, tokenizer.special_tokens())?;
        Ok(Self::Dialogue(field.to_owned(), Box::new(template)))
    }
}

impl Dropout {
    /// `rate` is at least 0 and below 1. Each pass over a corpus draws anew.
    pub fn new(rate: f64, seed: u64, pass: u64) -> Self {
        // The cast saturates.
        let threshold = (rate * 2f64.powi(64)) as u64;
        Self { threshold, stream: Stream::new(seed).named("bpe-dropout").numbered(pass) }
    }

    /// The draws of a document, one after the other.
    fn draws(&self, line: u64) -> impl FnMut() -> bool {
        let (stream, threshold, mut next) = (self.stream.numbered(line), self.threshold, 0);
        move || {
            next += 1;
            stream.word(next) < threshold
        }
    }
}

impl LineEncoder<'_> {
    /// Appends the document on a line; `bytes` are the line's. `buffer` is memory to work with.
    pub fn encode(&self, line: &Line, bytes: &[u8], buffer: &mut String, encoded: &mut Encoded) -> Result<()> {
        let before = encoded.ids.len();
        let at_line = || format!("{}, line {}", self.file.display(), line.number);
        let mut drops = self.dropout.as_ref().map(|dropout| dropout.draws(line.number));
        let mut drops = drops.as_mut().map(|drops| drops as &mut dyn FnMut() -> bool);
        let (length, characters) = match self.form {
            Form::Text(field) => {
                let text =
                    text_of(bytes, field, buffer).map_err(|fault| bad_line(self.file, line.number, &fault))?;
                encoded.ids.reserve(text.len() / 3);
                match &mut drops {
                    Some(drops) => self.tokenizer.sample_into(text, drops, &mut encoded.ids),
                    None => self.tokenizer.encode_into(text, &mut encoded.ids),
                }
                .context(at_line)?;
                (text.len(), text.chars().count())
            }
            Form::Dialogue(field, template) => {
                let messages =
                    dialogue_of(bytes, field).map_err(|fault| bad_line(self.file, line.number, &fault))?;
                let rendered = if self.answers {
                    template.render_answers(&messages)
                } else {
                    template.render(&messages).map(|text| Rendered { text, answers: Vec::new() })
                };
                let Rendered { text, answers } = rendered.map_err(|error| at_fault(error, at_line()))?;
                let mut spans = Vec::new();
                self.tokenizer
                    .encode_dialogue(&text, drops, &mut encoded.ids, self.answers.then_some(&mut spans))
                    .map_err(|error| at_fault(error, at_line()))?;
                // A token that stands for a part of an answer is one that the model says. One that stands for no
                // character belongs to what follows it.
                let in_answer = |span: &std::ops::Range<usize>| {
                    let next = answers.partition_point(|answer| answer.end <= span.start);
                    answers.get(next).is_some_and(|answer| answer.start < span.end.max(span.start + 1))
                };
                encoded.counted.extend(spans.iter().map(in_answer));
                (text.len(), text.chars().count())
            }
        };
        encoded.documents.push(Measures {
            ids: encoded.ids.len() - before,
            line: bytes.len(),
            bytes: length,
            characters,
        });
        Ok(())
    }
}

/// An error about a document, with its advice, and where the document stands.
fn at_fault(error: Error, place: String) -> Error {
    let advice = error.advice().map(str::to_owned);
    let placed = Error::invalid(place).caused_by(error);
    match advice {
        Some(advice) => placed.hint(advice),
        None => placed,
    }
}
