//! `config.json` of a Mixtral model folder.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::weights::nf4;

/// The sizes of a Mixtral, under the names that transformers gives them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    /// Values of one attention head.
    pub head_dim: usize,
    pub num_local_experts: usize,
    pub num_experts_per_tok: usize,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    /// Positions that a query sees; all before it when `None`.
    pub sliding_window: Option<usize>,
    pub bos_token_id: Option<u32>,
    pub eos_token_id: Option<u32>,
    /// The linear layers but the output are stored packed to 4 bits.
    pub packed: bool,
}

/// The file, as versions 4 and 5 of transformers write it. Fields that do not bear on the arithmetic are ignored.
#[derive(Deserialize)]
struct File {
    architectures: Option<Vec<String>>,
    model_type: Option<String>,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: Option<usize>,
    num_local_experts: usize,
    num_experts_per_tok: usize,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_parameters: Option<RopeParameters>,
    rope_scaling: Option<serde_json::Value>,
    sliding_window: Option<usize>,
    hidden_act: Option<String>,
    tie_word_embeddings: Option<bool>,
    quantization_config: Option<serde_json::Value>,
    bos_token_id: Option<u32>,
    eos_token_id: Option<u32>,
}

/// How version 5 writes the rotary embedding.
#[derive(Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
}

impl Config {
    /// Reads `config.json` of a model folder. A folder without one, another architecture, and features that change
    /// the arithmetic and are not built (other activations, tied embeddings, scaled RoPE, weights quantised otherwise than
    /// to bitsandbytes' NF4) are errors that say so.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        if !path.exists() {
            let error =
                Error::invalid(format!("{} is not a model folder: it has no config.json", folder.display()));
            return Err(if folder.join("adapter_config.json").exists() {
                error.hint("this is a LoRA adapter without its base model: merge it first (`use = \"merge\"`)")
            } else {
                error
            });
        }
        Self::read(&path)
    }

    /// Reads a `config.json` wherever it lies; the same errors.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).context(|| format!("cannot read {}", path.display()))?;
        let value: serde_json::Value = serde_json::from_str(&text)
            .map_err(|error| Error::invalid(format!("{} is not valid JSON", path.display())).caused_by(error))?;
        let wrong = |why: String| Error::invalid(format!("{}: {why}", path.display()));
        let named = |field: &str| value.get(field).cloned().unwrap_or_default();
        let mixtral = match (named("architectures"), named("model_type")) {
            (serde_json::Value::Array(names), _) => names.iter().any(|name| name == "MixtralForCausalLM"),
            (_, kind) => kind == "mixtral",
        };
        if !mixtral {
            return Err(wrong(format!(
                "the architecture is {}, but only MixtralForCausalLM is known here",
                match (named("architectures"), named("model_type")) {
                    (serde_json::Value::Null, serde_json::Value::Null) => "not named".to_owned(),
                    (serde_json::Value::Null, kind) => kind.to_string(),
                    (names, _) => names.to_string(),
                }
            )));
        }
        let file: File = serde_json::from_value(value)
            .map_err(|error| wrong("this is not the configuration of a Mixtral".to_owned()).caused_by(error))?;
        file.check().map_err(wrong)
    }

    /// Query heads that share one key head.
    pub fn group(&self) -> usize {
        self.num_attention_heads / self.num_key_value_heads
    }
}

impl File {
    fn check(self) -> Result<Config, String> {
        debug_assert!(self.architectures.is_some() || self.model_type.is_some());
        for (name, value) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("num_local_experts", self.num_local_experts),
            ("num_experts_per_tok", self.num_experts_per_tok),
        ] {
            if value == 0 {
                return Err(format!("`{name}` is 0"));
            }
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return Err(format!(
                "{} attention heads cannot share {} key-value heads evenly",
                self.num_attention_heads, self.num_key_value_heads
            ));
        }
        if self.num_experts_per_tok > self.num_local_experts {
            return Err(format!(
                "`num_experts_per_tok` is {}, but there are {} experts",
                self.num_experts_per_tok, self.num_local_experts
            ));
        }
        let head_dim = match self.head_dim {
            Some(width) => width,
            None if self.hidden_size.is_multiple_of(self.num_attention_heads) => {
                self.hidden_size / self.num_attention_heads
            }
            None => {
                return Err(format!(
                    "a width of {} cannot be cut into {} heads",
                    self.hidden_size, self.num_attention_heads
                ));
            }
        };
        if head_dim % 2 != 0 || head_dim == 0 {
            return Err(format!("heads of {head_dim} values cannot be rotated: the width must be even"));
        }
        if let Some(activation) = self.hidden_act.filter(|name| name != "silu") {
            return Err(format!("the activation is `{activation}`; only `silu` is known here"));
        }
        if self.tie_word_embeddings == Some(true) {
            return Err("`tie_word_embeddings` is true; Mixtral's embeddings are untied".to_owned());
        }
        if let Some(config) = &self.quantization_config {
            nf4::read_quantization_config(config)?;
        }
        let scaled = |kind: &Option<String>| kind.as_deref().is_some_and(|kind| kind != "default");
        if self.rope_scaling.is_some_and(|value| !value.is_null())
            || self.rope_parameters.as_ref().is_some_and(|rope| scaled(&rope.rope_type))
        {
            return Err("the rotary embedding is scaled; only the plain one is known here".to_owned());
        }
        let rope_theta = self
            .rope_parameters
            .and_then(|rope| rope.rope_theta)
            .or(self.rope_theta)
            .ok_or_else(|| "neither `rope_theta` nor `rope_parameters.rope_theta` is given".to_owned())?;
        Ok(Config {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads,
            head_dim,
            num_local_experts: self.num_local_experts,
            num_experts_per_tok: self.num_experts_per_tok,
            max_position_embeddings: self.max_position_embeddings,
            rms_norm_eps: self.rms_norm_eps,
            rope_theta,
            sliding_window: self.sliding_window,
            bos_token_id: self.bos_token_id,
            eos_token_id: self.eos_token_id,
            packed: self.quantization_config.is_some(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(change: impl Fn(&mut serde_json::Value)) -> Result<Config> {
        let folder = tempfile::tempdir().unwrap();
        let mut value = serde_json::json!({
            "architectures": ["MixtralForCausalLM"], "vocab_size": 10, "hidden_size": 8, "intermediate_size": 12,
            "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 2,
            "num_experts_per_tok": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
            "sliding_window": null
        });
        change(&mut value);
        std::fs::write(folder.path().join("config.json"), value.to_string()).unwrap();
        Config::open(folder.path())
    }

    #[test]
    fn reads_both_versions() {
        let v4 = open(|_| {}).unwrap();
        let v5 = open(|value| {
            value.as_object_mut().unwrap().remove("rope_theta");
            value["rope_parameters"] = serde_json::json!({"rope_theta": 1e4, "rope_type": "default"});
        });
        assert_eq!(v4, v5.unwrap());
        assert_eq!((v4.head_dim, v4.sliding_window), (4, None));
    }

    #[test]
    fn says_what_it_cannot_read() {
        let message = |change: &dyn Fn(&mut serde_json::Value)| open(change).unwrap_err().one_line();
        let llama = message(&|value| value["architectures"] = serde_json::json!(["LlamaForCausalLM"]));
        assert!(
            llama
                .ends_with("the architecture is [\"LlamaForCausalLM\"], but only MixtralForCausalLM is known here"),
            "{llama}"
        );
        assert!(message(&|value| value["num_experts_per_tok"] = 3.into()).contains("there are 2 experts"));
        assert!(message(&|value| value["hidden_size"] = "x".into()).contains("not the configuration of a Mixtral"));
        assert!(message(&|value| value["tie_word_embeddings"] = true.into()).contains("untied"));
    }

    #[test]
    fn an_adapter_is_no_model() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("adapter_config.json"), "{}").unwrap();
        let error = Config::open(folder.path()).unwrap_err();
        assert!(error.advice().unwrap().contains("merge"));
    }
}
