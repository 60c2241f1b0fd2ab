//! What a stage will make, as far as it is known before the stage has run: a plan asks, to forecast what comes after.

use super::Input;
use crate::model::Config;
use crate::weights::adapter::AdapterConfig;

/// A fact, or why it is not known: a sentence such as "unknown until `base` has run".
pub type Known<T> = std::result::Result<T, String>;

/// An artifact that need not be there yet.
#[derive(Clone, Debug)]
pub struct Prospect {
    /// The configuration of the model in it.
    pub model: Known<Config>,
    /// Tokens of the tokenizer in it.
    pub vocabulary: Known<usize>,
    /// The configuration of the adapter that it is.
    pub adapter: Known<AdapterConfig>,
    /// Tokens of its blocks.
    pub sequence_length: Known<usize>,
}

/// What the inputs of a stage are, or will be.
pub trait Outlook {
    fn model(&self, input: &Input) -> Known<Config>;
    fn adapter(&self, input: &Input) -> Known<AdapterConfig>;
    /// Tokens of a tokenizer.
    fn vocabulary(&self, input: &Input) -> Known<usize>;
}

impl Prospect {
    /// Nothing is known, for one reason.
    pub fn unknown(why: &str) -> Self {
        let why = why.to_owned();
        Self {
            model: Err(why.clone()),
            vocabulary: Err(why.clone()),
            adapter: Err(why.clone()),
            sequence_length: Err(why),
        }
    }

    /// A model with a tokenizer of as many tokens.
    pub fn model(config: Known<Config>) -> Self {
        let vocabulary = config.as_ref().map(|config| config.vocab_size).map_err(Clone::clone);
        Self { model: config, vocabulary, ..Self::unknown("a model has no token blocks") }
    }

    pub fn adapter(config: Known<AdapterConfig>) -> Self {
        Self { adapter: config, ..Self::unknown("an adapter is no model: merge it first (`use = \"merge\"`)") }
    }

    pub fn tokenizer(vocabulary: Known<usize>) -> Self {
        Self { vocabulary, ..Self::unknown("a tokenizer is no model") }
    }

    pub fn blocks(sequence_length: usize) -> Self {
        Self { sequence_length: Ok(sequence_length), ..Self::unknown("token blocks are no model") }
    }
}
