//! Where in a file something stands, so that an error can show the user's own line.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Context, Error, Result};

/// A file that people wrote, kept whole for the errors that point into it.
#[derive(Debug)]
pub struct TextFile {
    /// As errors should name it: the path that the user gave, or one relative to the workspace.
    pub name: PathBuf,
    pub text: String,
}

/// A byte range of a [`TextFile`].
#[derive(Clone, Debug)]
pub struct Place {
    file: Arc<TextFile>,
    span: Range<usize>,
}

impl TextFile {
    pub fn new(name: impl Into<PathBuf>, text: impl Into<String>) -> Arc<Self> {
        Arc::new(Self { name: name.into(), text: text.into() })
    }

    /// Reads `path`; errors will call the file `name`.
    pub fn read(path: &Path, name: impl Into<PathBuf>) -> Result<Arc<Self>> {
        let name = name.into();
        let text = std::fs::read(path).context(|| format!("cannot read {}", name.display()))?;
        let text = String::from_utf8(text).map_err(|error| {
            let line = error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|&&b| b == b'\n').count();
            Error::invalid(format!("{} is not valid UTF-8 (line {})", name.display(), line + 1))
        })?;
        Ok(Self::new(name, text))
    }
}

impl Place {
    pub fn new(file: &Arc<TextFile>, span: Range<usize>) -> Self {
        Self { file: file.clone(), span }
    }

    /// The name of the file.
    pub fn file(&self) -> &Path {
        &self.file.name
    }

    /// An error of the user's (exit code 2) that points here; `label` stands under the span.
    pub fn error(&self, message: impl Into<String>, label: impl Into<String>) -> Error {
        self.show(Error::invalid(message), label)
    }

    /// Lets an error point here.
    pub fn show(&self, error: Error, label: impl Into<String>) -> Error {
        error.at(&self.file.name, &self.file.text, self.span.clone(), label)
    }

    /// The place of `part` inside the string that stands here, if it stands there letter by letter; else all of it.
    pub fn of_part(&self, part: &str) -> Self {
        let text = &self.file.text[self.span.clone()];
        match text.find(part) {
            Some(at) if !part.is_empty() => {
                let start = self.span.start + at;
                Self { file: self.file.clone(), span: start..start + part.len() }
            }
            _ => self.clone(),
        }
    }
}
