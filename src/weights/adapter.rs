//! LoRA adapters in PEFT's layout: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Tensors are named after the module that they adapt, with the adapter's own name left out:
//! `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight` [r, in], `….lora_B.weight` [out, r], and for modules
//! trained whole `base_model.model.model.embed_tokens.weight`, `base_model.model.lm_head.weight`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use regex::Regex;
use serde_json::{Map, Value, json};

use super::checkpoint::to_tensor;
use super::writer::save_file;
use super::{Shard, Spec};
use crate::error::{Context, Error, Result, nearest};

/// What every name begins with: PEFT's wrapper around the model.
pub const PREFIX: &str = "base_model.model.";

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// The same as `torch.save` writes it; read, not written.
const TORCH: &str = "adapter_model.bin";

/// `adapter_config.json` of a LoRA adapter: the fields that bear on its meaning. Others that PEFT writes are written
/// with PEFT's defaults, and ignored when read unless they change what the tensors mean.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// What the adapter was trained on, as a name for people; not a path of this machine.
    pub base_model_name_or_path: Option<String>,
    pub r: usize,
    pub lora_alpha: f64,
    pub lora_dropout: f64,
    /// Suffixes of module names: `q_proj`, `w1`.
    pub target_modules: Vec<String>,
    /// Modules trained whole: `embed_tokens`, `lm_head`.
    pub modules_to_save: Vec<String>,
    /// Scale by alpha/√r in place of alpha/r.
    pub use_rslora: bool,
    /// Ranks that differ from [`Self::r`]: suffix or regular expression of a module name → rank.
    pub rank_pattern: Map<String, Value>,
    /// The same for [`Self::lora_alpha`].
    pub alpha_pattern: Map<String, Value>,
}

/// Whether the module `name` is `end` or ends in `.end`: how PEFT matches the names of a list.
pub fn is_named(name: &str, end: &str) -> bool {
    name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

impl AdapterConfig {
    /// That of an adapter's folder.
    pub fn in_folder(folder: &Path) -> Result<Self> {
        Self::read(&folder.join(CONFIG))
    }

    /// Reads `adapter_config.json`, whatever PEFT's version; an adapter of another kind than plain LoRA is an error.
    pub fn read(path: &Path) -> Result<Self> {
        let wrong = |why: String| Error::invalid(format!("{}: {why}", path.display()));
        let text = std::fs::read(path).context(|| format!("cannot read {}", path.display()))?;
        let config: Value = serde_json::from_slice(&text)
            .map_err(|error| wrong("this is not valid JSON".to_owned()).caused_by(error))?;
        let fields = config.as_object().ok_or_else(|| wrong("an object was expected".to_owned()))?;
        let field = |name: &str| fields.get(name).filter(|value| !value.is_null());
        let number = |name: &str| {
            let value = field(name).ok_or_else(|| wrong(format!("`{name}` is missing")))?;
            let number = value.as_f64().filter(|number| number.is_finite() && *number >= 0.0);
            number.ok_or_else(|| wrong(format!("`{name}` is {value}, not a number of at least 0")))
        };
        match field("peft_type").and_then(Value::as_str) {
            Some("LORA") => {}
            Some(other) => return Err(wrong(format!("`peft_type` is {other}; only LORA can be used here"))),
            None => return Err(wrong("`peft_type` is missing: this is no adapter of PEFT".to_owned())),
        }
        for (name, plain) in [
            ("bias", json!("none")),
            ("fan_in_fan_out", json!(false)),
            ("use_dora", json!(false)),
            ("lora_bias", json!(false)),
        ] {
            if let Some(value) = field(name).filter(|value| **value != plain) {
                return Err(wrong(format!("`{name}` is {value}; only {plain} can be used here")));
            }
        }
        for name in ["layer_replication", "megatron_config"] {
            if field(name).is_some() {
                return Err(wrong(format!("`{name}` can't be used here")));
            }
        }
        let r = number("r")?;
        if r < 1.0 || r.fract() != 0.0 {
            return Err(wrong(format!("`r` is {r}, not a rank of at least 1")));
        }
        // A single string is a regular expression, or `all-linear`; it is kept as it is.
        let list = |name: &str| match field(name) {
            None => Ok(Vec::new()),
            Some(Value::String(one)) => Ok(vec![one.clone()]),
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect::<Option<Vec<_>>>()
                .ok_or_else(|| wrong(format!("`{name}` must be a list of strings"))),
            Some(_) => Err(wrong(format!("`{name}` must be a list of strings"))),
        };
        let map = |name: &str| field(name).and_then(Value::as_object).cloned().unwrap_or_default();
        Ok(Self {
            base_model_name_or_path: field("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned),
            r: r as usize,
            lora_alpha: number("lora_alpha")?,
            lora_dropout: number("lora_dropout")?,
            target_modules: list("target_modules")?,
            modules_to_save: list("modules_to_save")?,
            use_rslora: field("use_rslora") == Some(&Value::Bool(true)),
            rank_pattern: map("rank_pattern"),
            alpha_pattern: map("alpha_pattern"),
        })
    }

    /// As PEFT's `save_pretrained` writes it: keys sorted, two spaces, no line feed at the end. Lists keep their
    /// order. Fields that only later versions know are left out, so that every version reads it.
    fn to_json(&self) -> String {
        let modules_to_save =
            if self.modules_to_save.is_empty() { Value::Null } else { json!(self.modules_to_save) };
        let config = json!({
            "alpha_pattern": self.alpha_pattern,
            "auto_mapping": null,
            "base_model_name_or_path": self.base_model_name_or_path,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "layers_pattern": null,
            "layers_to_transform": null,
            "loftq_config": {},
            "lora_alpha": whole_or_real(self.lora_alpha),
            "lora_dropout": self.lora_dropout,
            "megatron_config": null,
            "megatron_core": "megatron.core",
            "modules_to_save": modules_to_save,
            "peft_type": "LORA",
            "r": self.r,
            "rank_pattern": self.rank_pattern,
            "revision": null,
            "target_modules": self.target_modules,
            "task_type": "CAUSAL_LM",
            "use_rslora": self.use_rslora,
        });
        format!("{config:#}")
    }

    /// The factor of B·A for a module: alpha/r, or alpha/√r, with the module's own alpha if a pattern gives one.
    /// PEFT takes the first pattern that matches the end of the name at a dot, ranks before alphas.
    ///
    /// `module` is the name in the base model (`model.layers.0.self_attn.q_proj`), `rank` that of its tensors.
    pub fn scale(&self, module: &str, rank: usize) -> Result<f64> {
        let mut alpha = self.lora_alpha;
        for pattern in self.rank_pattern.keys().chain(self.alpha_pattern.keys()) {
            let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$"))
                .map_err(|error| Error::invalid(format!("{CONFIG}: bad pattern `{pattern}`")).caused_by(error))?;
            if regex.is_match(module) {
                if let Some(own) = self.alpha_pattern.get(pattern) {
                    alpha = own.as_f64().ok_or_else(|| {
                        Error::invalid(format!("{CONFIG}: the alpha of `{pattern}` is {own}, not a number"))
                    })?;
                }
                break;
            }
        }
        let rank = rank as f64;
        Ok(alpha / if self.use_rslora { rank.sqrt() } else { rank })
    }
}

/// 128 rather than 128.0: PEFT writes an integer where it was given one.
fn whole_or_real(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 1e15 { json!(number as i64) } else { json!(number) }
}

/// Writes an adapter folder; tensors are named as the module's documentation says.
pub fn save(folder: &Path, config: &AdapterConfig, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    save_file(&folder.join(WEIGHTS), tensors)?;
    let path = folder.join(CONFIG);
    std::fs::write(&path, config.to_json()).context(|| format!("cannot write {}", path.display()))
}

/// An adapter folder, its tensors memory-mapped.
pub struct Adapter {
    pub config: AdapterConfig,
    folder: PathBuf,
    shard: Shard,
    /// Name as PEFT saves it → name in the file.
    names: BTreeMap<String, String>,
}

impl Adapter {
    /// Opens a folder that PEFT or [`save`] wrote. Names that still carry PEFT's wrappers
    /// (`.lora_A.default.weight`, `.modules_to_save.default.weight`) are accepted and presented without.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG);
        if !path.exists() {
            return Err(Error::invalid(format!("{} is no adapter: it has no {CONFIG}", folder.display())));
        }
        let config = AdapterConfig::read(&path)?;
        let weights = [WEIGHTS, TORCH].map(|name| folder.join(name)).into_iter().find(|path| path.exists());
        let shard = Shard::open(&weights.unwrap_or_else(|| folder.join(WEIGHTS)))?;
        let mut names = BTreeMap::new();
        for raw in shard.names() {
            let name = raw
                .replace(".lora_A.default.", ".lora_A.")
                .replace(".lora_B.default.", ".lora_B.")
                .replace(".modules_to_save.default.", ".");
            if names.insert(name.clone(), raw.to_owned()).is_some() {
                return Err(Error::invalid(format!("two tensors of {} are both `{name}`", shard.path().display())));
            }
        }
        Ok(Self { config, folder: folder.to_owned(), shard, names })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// In name order.
    pub fn names(&self) -> Vec<&str> {
        self.names.keys().map(String::as_str).collect()
    }

    pub fn contains(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    pub fn spec(&self, name: &str) -> Result<&Spec> {
        self.names.get(name).and_then(|raw| self.shard.spec(raw)).ok_or_else(|| self.missing(name))
    }

    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        Ok(self.spec(name)?.shape.clone())
    }

    /// The values as stored: row-major, little-endian.
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        self.names.get(name).and_then(|raw| self.shard.bytes(raw)).ok_or_else(|| self.missing(name))
    }

    /// Hands out the values as stored in pieces that hold whole ones, and keeps no more than a piece in memory.
    pub(super) fn stream(&self, name: &str, each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let range = self.names.get(name).and_then(|raw| self.shard.range(raw)).ok_or_else(|| self.missing(name))?;
        self.shard.stream(range, each)
    }

    /// The tensor in its stored type.
    pub fn tensor(&self, name: &str, device: &Device) -> Result<Tensor> {
        to_tensor(self.spec(name)?, self.bytes(name)?, device)
            .context(|| format!("cannot load `{name}` of {}", self.folder.display()))
    }

    /// Takes the pages of a tensor out of memory.
    pub(super) fn release(&self, name: &str) {
        if let Some(range) = self.names.get(name).and_then(|raw| self.shard.range(raw)) {
            self.shard.release(range);
        }
    }

    fn missing(&self, name: &str) -> Error {
        let error = Error::invalid(format!("{} has no tensor `{name}`", self.shard.path().display()));
        match nearest(name, self.names.keys().map(String::as_str)) {
            Some(near) => error.hint(format!("there is `{near}`")),
            None => error,
        }
    }
}
