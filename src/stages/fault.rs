//! What a kind finds wrong with its parameters, and with which.

use crate::error::Error;

/// An error of the user's that a parameter is at fault for.
#[derive(Debug)]
pub struct Fault {
    /// Its dotted path (`lora.rank`); empty where it is the stage as a whole.
    pub parameter: String,
    pub error: Error,
}

impl Fault {
    /// The message is a sentence that names the parameter as well, for where no place of it can be shown.
    pub fn new(parameter: impl Into<String>, message: impl Into<String>) -> Self {
        Self { parameter: parameter.into(), error: Error::invalid(message) }
    }

    /// What to do next, printed as a line of its own.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { error: self.error.hint(hint), ..self }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        fault.error
    }
}
