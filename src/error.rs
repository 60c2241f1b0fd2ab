//! The one error of the house: what happened, where, and what to do next.

use std::fmt;
use std::path::Path;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error as a user reads it: a lower-case sentence, the chain of what lay beneath it, an optional hint, and,
/// when a file that people write is at fault, the very place in it.
///
/// Boxed, so that `Result<T>` stays one word wide on the good path.
pub struct Error(Box<Inner>);

struct Inner {
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    place: Option<Place>,
    code: ExitCode,
}

/// A span in a text file, kept with the text so that the user's own line can be shown.
struct Place {
    text: miette::NamedSource<String>,
    span: std::ops::Range<usize>,
    label: String,
}

/// The exit codes of `cmx`. `sysexits` has no better ones that users know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCode {
    /// A stage failed, or the machine did (1).
    Failed = 1,
    /// What the user wrote cannot be carried out: manifests, arguments, input data (2).
    Invalid = 2,
    /// Interrupted by Ctrl-C or SIGTERM; the work done so far is kept (130).
    Interrupted = 130,
}

impl Error {
    /// A failure; exit code 1.
    pub fn new(message: impl Into<String>) -> Self {
        Self::with_code(message, ExitCode::Failed)
    }

    /// Something the user wrote or gave is wrong; exit code 2.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::with_code(message, ExitCode::Invalid)
    }

    /// The user asked to stop; exit code 130.
    pub fn interrupted() -> Self {
        Self::with_code("interrupted", ExitCode::Interrupted)
    }

    fn with_code(message: impl Into<String>, code: ExitCode) -> Self {
        Self(Box::new(Inner { message: message.into(), hint: None, source: None, place: None, code }))
    }

    /// What to do next, printed as a line of its own.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// The error beneath this one.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The place in a text that people write: `span` is a byte range of `text`; `label` stands under it.
    #[must_use]
    pub fn at(
        mut self,
        file: impl AsRef<Path>,
        text: &str,
        span: std::ops::Range<usize>,
        label: impl Into<String>,
    ) -> Self {
        let name = file.as_ref().display().to_string();
        self.0.place =
            Some(Place { text: miette::NamedSource::new(name, text.to_owned()), span, label: label.into() });
        self
    }

    pub fn code(&self) -> ExitCode {
        self.0.code
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The advice that goes with the error, if there is any.
    pub fn advice(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    pub fn is_interruption(&self) -> bool {
        self.0.code == ExitCode::Interrupted
    }

    /// What the operating system said, when that lies beneath.
    pub fn io_kind(&self) -> Option<std::io::ErrorKind> {
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            if let Some(io) = error.downcast_ref::<std::io::Error>() {
                return Some(io.kind());
            }
            source = error.source();
        }
        None
    }

    /// The message and everything beneath it on one line: `cannot read a.toml: permission denied`.
    pub fn one_line(&self) -> String {
        let mut line = self.0.message.clone();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            line.push_str(": ");
            line.push_str(&error.to_string());
            source = error.source();
        }
        line
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.one_line())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|error| error as _)
    }
}

impl miette::Diagnostic for Error {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.0.hint.as_ref().map(|hint| Box::new(hint) as _)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        self.0.place.as_ref().map(|place| &place.text as _)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = miette::LabeledSpan> + '_>> {
        let place = self.0.place.as_ref()?;
        let label = miette::LabeledSpan::new_with_span(Some(place.label.clone()), place.span.clone());
        Some(Box::new(std::iter::once(label)))
    }
}

/// Says what was being attempted when a lower error came up.
pub trait Context<T> {
    /// `context(|| format!("cannot read {path}"))`; the sentence is made only on failure.
    fn context(self, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn std::error::Error + Send + Sync>>> Context<T> for std::result::Result<T, E> {
    fn context(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::wrap(message(), error.into()))
    }
}

impl Error {
    /// A new sentence around `source`; an exit code that `source` carries is kept.
    fn wrap(message: String, source: Box<dyn std::error::Error + Send + Sync>) -> Self {
        let code = source.downcast_ref::<Error>().map_or(ExitCode::Failed, Error::code);
        Self::with_code(message, code).caused_by(source)
    }
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::new("a tensor operation failed").caused_by(error)
    }
}

/// The candidate nearest to `word`, if it is near enough to be what was meant (Damerau–Levenshtein distance of at
/// most a third of the word's length, at least 1).
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let bound = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= bound)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
