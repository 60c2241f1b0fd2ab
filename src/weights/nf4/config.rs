//! `quantization_config` of a model's `config.json`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Packing;

/// The type that transformers computes in with packed matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compute {
    Float32,
    Bfloat16,
    Float16,
}

/// What transformers writes for matrices that are packed so, all but those of the modules called `skipped`.
pub fn quantization_config(packing: Packing, compute: Compute, skipped: &[&str]) -> Value {
    json!({
        "_load_in_4bit": true,
        "_load_in_8bit": false,
        "bnb_4bit_compute_dtype": compute,
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": packing.double,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_skip_modules": skipped,
        "llm_int8_threshold": 6.0,
        "load_in_4bit": true,
        "load_in_8bit": false,
        "quant_method": "bitsandbytes",
    })
}

/// Fails, with what is wrong, if a model is quantised in a way that cannot be read here: otherwise than to NF4 by
/// bitsandbytes.
pub fn read_quantization_config(config: &Value) -> Result<(), String> {
    let text = |name: &str| config.get(name).and_then(Value::as_str);
    let method = text("quant_method").unwrap_or("of no name");
    if method != "bitsandbytes" {
        return Err(format!(
            "the weights are quantised by the method `{method}`; only bitsandbytes' NF4 is known here"
        ));
    }
    let four =
        ["load_in_4bit", "_load_in_4bit"].into_iter().any(|name| config.get(name) == Some(&Value::Bool(true)));
    // The type that bitsandbytes takes where none is given.
    match text("bnb_4bit_quant_type").unwrap_or("fp4") {
        "nf4" if four => Ok(()),
        kind if four => {
            Err(format!("the weights are quantised to the 4-bit type `{kind}`; only `nf4` is known here"))
        }
        _ => Err("the weights are quantised to 8 bits; only bitsandbytes' NF4 is known here".to_owned()),
    }
}
