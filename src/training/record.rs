//! What a run notes at each step: `metrics.jsonl`, one object a line, without times.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};

/// One line of `metrics.jsonl`: a training step, or an evaluation after that many steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Steps made.
    pub step: u64,
    /// Mean cross-entropy of the step's batch, in nats per token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// That of embedding and output, where it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding_learning_rate: Option<f64>,
    /// Before clipping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gradient_norm: Option<f64>,
    /// The losses beside the cross-entropy, where they have a coefficient, and before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub z_loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub router_aux_loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub router_z_loss: Option<f64>,
    /// Of each dataset of the mix, the blocks that the step read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocks: Option<BTreeMap<String, u64>>,
    /// Mean cross-entropy of each validation set, in nats per token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<BTreeMap<String, f64>>,
    /// The same in bits per byte of text, which compares models with different vocabularies; where the model's tokenizer
    /// is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits_per_byte: Option<BTreeMap<String, f64>>,
}

/// The records of a run so far, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Records(pub Vec<Record>);

impl Records {
    pub fn to_jsonl(&self) -> Result<String> {
        let mut text = String::new();
        for record in &self.0 {
            text += &serde_json::to_string(record).context(|| "cannot write a record".to_owned())?;
            text.push('\n');
        }
        Ok(text)
    }

    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).context(|| format!("cannot read {}", path.display()))?;
        let parse = |(number, line): (usize, &str)| {
            serde_json::from_str(line).map_err(|error| {
                Error::invalid(format!("{}, line {}: not a record", path.display(), number + 1)).caused_by(error)
            })
        };
        Ok(Self(text.lines().enumerate().map(parse).collect::<Result<_>>()?))
    }

    /// Of each dataset of the mix, the blocks that all steps read.
    pub fn blocks(&self) -> BTreeMap<&str, u64> {
        let mut blocks = BTreeMap::new();
        for (name, read) in self.0.iter().filter_map(|record| record.blocks.as_ref()).flatten() {
            *blocks.entry(name.as_str()).or_default() += read;
        }
        blocks
    }

    /// The losses of the training steps.
    pub fn losses(&self) -> impl DoubleEndedIterator<Item = f64> {
        self.0.iter().filter_map(|record| record.loss)
    }

    /// The evaluations: steps made, and the loss of each set.
    pub fn evaluations(&self) -> impl DoubleEndedIterator<Item = (u64, &BTreeMap<String, f64>)> {
        self.0.iter().filter_map(|record| Some((record.step, record.validation.as_ref()?)))
    }
}
