//! `new-model`: a Mixtral from nothing, with the vocabulary of a tokenizer.

use std::collections::BTreeMap;

use safetensors::Dtype;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Fault, Input, Outlook, Prospect, Stage, Work};
use crate::error::{Context, Result};
use crate::events::Unit;
use crate::model::Config;
use crate::tokenizer::Tokenizer;
use crate::weights::float::python_float;
use crate::weights::{Float, Layout, MAX_SHARD_BYTES, Normal, Spec};

/// Sizes and constants are named as in transformers' `MixtralConfig`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewModel {
    /// Gives the model its vocabulary, and goes into its folder.
    tokenizer: Input,
    hidden_size: usize,
    /// Width of each expert.
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    num_local_experts: usize,
    num_experts_per_tok: usize,
    max_position_embeddings: usize,
    rope_theta: f64,
    rms_norm_eps: f64,
    /// Standard deviation of the weights; norms are 1.
    initializer_range: f64,
    /// Kept in `config.json`.
    router_aux_loss_coef: f64,
    torch_dtype: TorchDtype,
    seed: u64,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum TorchDtype {
    Float32,
    Bfloat16,
}

impl TorchDtype {
    fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Bfloat16 => "bfloat16",
        }
    }

    fn float(self) -> Float {
        match self {
            Self::Float32 => Float::F32,
            Self::Bfloat16 => Float::BF16,
        }
    }
}

impl Stage for NewModel {
    const KIND: &'static str = "new-model";
    const REVISION: u32 = 2;

    fn check(&self) -> Result<(), Fault> {
        let wrong = |parameter: &str, why: String| Err(Fault::new(parameter, why));
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("num_local_experts", self.num_local_experts),
            ("num_experts_per_tok", self.num_experts_per_tok),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return wrong(name, format!("`{name}` is 0; it must be at least 1"));
        }
        let reals = [
            ("rope_theta", self.rope_theta),
            ("rms_norm_eps", self.rms_norm_eps),
            ("initializer_range", self.initializer_range),
            ("router_aux_loss_coef", self.router_aux_loss_coef),
        ];
        if let Some((name, value)) = reals.iter().find(|(_, value)| !value.is_finite() || *value < 0.0) {
            return wrong(name, format!("`{name}` is {value}; it must be a number of at least 0"));
        }
        let (hidden, heads) = (self.hidden_size, self.num_attention_heads);
        if hidden % heads != 0 || (hidden / heads) % 2 != 0 {
            return wrong(
                "hidden_size",
                format!(
                    "`hidden_size` is {hidden}; it must be an even multiple of `num_attention_heads`, which is {heads}"
                ),
            );
        }
        if heads % self.num_key_value_heads != 0 {
            return wrong(
                "num_attention_heads",
                format!(
                    "`num_attention_heads` is {heads}; it must be a multiple of `num_key_value_heads`, which is {}",
                    self.num_key_value_heads
                ),
            );
        }
        if self.num_experts_per_tok > self.num_local_experts {
            return wrong(
                "num_experts_per_tok",
                format!(
                    "`num_experts_per_tok` is {}, more than `num_local_experts`, which is {}",
                    self.num_experts_per_tok, self.num_local_experts
                ),
            );
        }
        Ok(())
    }

    fn prospect(&self, inputs: &dyn Outlook) -> Option<Prospect> {
        Some(Prospect::model(inputs.vocabulary(&self.tokenizer).map(|vocabulary| self.shape(vocabulary))))
    }

    fn run(&self, work: &mut Work) -> Result<()> {
        let tokenizer = Tokenizer::open(self.tokenizer.path())?;
        let tensors = self.tensors(tokenizer.vocab_size());
        let bytes = tensors.values().map(|spec| spec.bytes() as u64).sum();
        let parameters: usize = tensors.values().map(Spec::elements).sum();
        let normal = Normal { seed: self.seed, deviation: self.initializer_range };
        let float = self.torch_dtype.float();
        let progress = work.progress("drawing weights", Some(bytes), Unit::Bytes);
        Layout::new(tensors, MAX_SHARD_BYTES).write(work.output(), |name, spec, writer| {
            let tick = |bytes| {
                progress.add(bytes);
                work.check()
            };
            if spec.shape.len() == 1 {
                return writer.write(&float.narrow(&vec![1.0; spec.elements()]));
            }
            normal.write(name, spec.elements(), float, writer, tick)
        })?;
        progress.finish();
        let write = |name: &str, text: String| {
            let path = work.output().join(name);
            std::fs::write(&path, text).context(|| format!("cannot write {}", path.display()))
        };
        write("config.json", self.config(&tokenizer))?;
        write("generation_config.json", generation_config(&tokenizer))?;
        tokenizer.save(work.output())?;
        work.metric("parameters", parameters);
        Ok(())
    }
}

impl NewModel {
    /// The sizes as the model has them.
    fn shape(&self, vocabulary: usize) -> Config {
        Config {
            vocab_size: vocabulary,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads,
            head_dim: self.hidden_size / self.num_attention_heads,
            num_local_experts: self.num_local_experts,
            num_experts_per_tok: self.num_experts_per_tok,
            max_position_embeddings: self.max_position_embeddings,
            rms_norm_eps: self.rms_norm_eps,
            rope_theta: self.rope_theta,
            sliding_window: None,
            bos_token_id: None,
            eos_token_id: None,
            packed: false,
        }
    }

    fn tensors(&self, vocabulary: usize) -> BTreeMap<String, Spec> {
        let dtype: Dtype = self.torch_dtype.float().dtype();
        let weights = self.shape(vocabulary).weights().into_iter();
        weights.map(|(name, shape)| (name, Spec::new(dtype, shape))).collect()
    }

    /// `config.json` as transformers v4 writes it: keys sorted, two spaces, numbers as Python prints them.
    fn config(&self, tokenizer: &Tokenizer) -> String {
        let fields = [
            ("architectures", "[\n    \"MixtralForCausalLM\"\n  ]".to_owned()),
            ("attention_dropout", "0.0".to_owned()),
            ("bos_token_id", token(tokenizer.bos())),
            ("eos_token_id", token(tokenizer.eos())),
            ("hidden_act", "\"silu\"".to_owned()),
            ("hidden_size", self.hidden_size.to_string()),
            ("initializer_range", python_float(self.initializer_range)),
            ("intermediate_size", self.intermediate_size.to_string()),
            ("max_position_embeddings", self.max_position_embeddings.to_string()),
            ("model_type", "\"mixtral\"".to_owned()),
            ("num_attention_heads", self.num_attention_heads.to_string()),
            ("num_experts_per_tok", self.num_experts_per_tok.to_string()),
            ("num_hidden_layers", self.num_hidden_layers.to_string()),
            ("num_key_value_heads", self.num_key_value_heads.to_string()),
            ("num_local_experts", self.num_local_experts.to_string()),
            ("output_router_logits", "false".to_owned()),
            ("rms_norm_eps", python_float(self.rms_norm_eps)),
            ("rope_theta", python_float(self.rope_theta)),
            ("router_aux_loss_coef", python_float(self.router_aux_loss_coef)),
            ("sliding_window", "null".to_owned()),
            ("tie_word_embeddings", "false".to_owned()),
            ("torch_dtype", format!("\"{}\"", self.torch_dtype.name())),
            ("use_cache", "true".to_owned()),
            ("vocab_size", tokenizer.vocab_size().to_string()),
        ];
        object(&fields)
    }
}

fn generation_config(tokenizer: &Tokenizer) -> String {
    object(&[
        ("_from_model_config", "true".to_owned()),
        ("bos_token_id", token(tokenizer.bos())),
        ("eos_token_id", token(tokenizer.eos())),
    ])
}

fn object(fields: &[(&str, String)]) -> String {
    let lines: Vec<String> = fields.iter().map(|(name, value)| format!("  \"{name}\": {value}")).collect();
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

fn token(id: Option<u32>) -> String {
    id.map_or("null".to_owned(), |id| id.to_string())
}
