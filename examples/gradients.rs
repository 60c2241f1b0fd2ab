//! What a model folder computes, for comparisons with other programs: logits, losses and every gradient.
//! `tests/parity/gradients.py` is the other side.
//!
//! ```text
//! cargo run --release --example gradients -- FOLDER …
//!     FOLDER/config.json, *.safetensors   the model
//!     FOLDER/adapter/                     in PEFT's layout, if any: its weights are trained, else all
//!     FOLDER/batch.safetensors            int64 [sequences, length]: ids, labels (the token after each position, or
//!                                         −100), documents (the first position of each position's document) if any
//!     FOLDER/request.json                 {"packed", "bfloat16", "gradient_checkpointing", "z_loss", "router_aux_loss",
//!                                         "router_z_loss"}
//!     FOLDER/ours.safetensors             written: logits (each sequence one document), gradient.NAME
//!     FOLDER/ours.json                    written: the losses, without their coefficients
//! cargo run --release --example gradients -- --order BLOCKS SEED FOLDER
//!                                         prints the rows of a folder of token blocks in the order of a first pass
//! ```

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use cmx::corpus::Blocks;
use cmx::corpus::mix::Amount;
use cmx::error::{Context, Error, Result};
use cmx::model::{Batch, Gradients, LossFactors, Mixtral, Objective, Pass, Precision, RouterLosses, Storage};
use cmx::training::Mix;
use cmx::weights::adapter::Adapter;
use serde::Deserialize;

#[derive(Deserialize)]
struct Request {
    packed: bool,
    #[serde(default)]
    bfloat16: bool,
    gradient_checkpointing: bool,
    z_loss: f32,
    router_aux_loss: f64,
    router_z_loss: f64,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [flag, count, seed, folder] if flag == "--order" => order(Path::new(folder), number(count)?, number(seed)?),
        folders => folders.iter().try_for_each(|folder| {
            gradients(Path::new(folder)).context(|| format!("cannot compute the gradients of {folder}"))
        }),
    }
}

fn number(text: &str) -> Result<u64> {
    text.parse().map_err(|_| Error::invalid(format!("{text} is not a whole number")))
}

fn order(folder: &Path, count: u64, seed: u64) -> Result<()> {
    let mix = Mix::new(vec![("all".to_owned(), vec![Blocks::open(folder)?], Amount::Ratio(1.0))])?;
    let pass = mix.blend().pass(seed, 0);
    (0..count).for_each(|position| println!("{}", pass.at(position).row));
    Ok(())
}

fn gradients(folder: &Path) -> Result<()> {
    let path = folder.join("request.json");
    let text = std::fs::read(&path).context(|| format!("cannot read {}", path.display()))?;
    let request: Request =
        serde_json::from_slice(&text).context(|| format!("{} is not a request", path.display()))?;
    let storage = |module: &str| match module {
        "lm_head" => Storage::Float32,
        _ if request.packed => Storage::Nf4,
        _ if request.bfloat16 => Storage::Bfloat16,
        _ => Storage::Float32,
    };
    let mut model = Mixtral::open_as(folder, &Device::Cpu, storage)?;
    model.set_precision(if request.bfloat16 { Precision::Bfloat16 } else { Precision::Float32 });
    let adapter = folder.join("adapter");
    if adapter.exists() {
        model.continue_adapter(&Adapter::open(&adapter)?, 0)?;
    } else {
        model.train_only(|_| true);
    }

    let tensors = candle_core::safetensors::load(folder.join("batch.safetensors"), &Device::Cpu)?;
    let (_, length) = tensors["ids"].dims2()?;
    let flat = |name: &str| -> Result<Vec<i64>> { Ok(tensors[name].flatten_all()?.to_vec1()?) };
    let small = |values: Vec<i64>| values.into_iter().map(|value| value as u32).collect::<Vec<_>>();
    let documents = tensors.contains_key("documents").then(|| flat("documents")).transpose()?.map(small);
    let batch = Batch { ids: small(flat("ids")?), labels: flat("labels")?, length, documents, longest: length };

    let parameters = model.trained();
    let mut gradients = Gradients::of(&parameters)?;
    let factor = 1.0 / batch.predictions() as f32;
    let objective = Objective {
        predictions: LossFactors { sum: factor, z: request.z_loss * factor },
        router: RouterLosses { balance: request.router_aux_loss, z: request.router_z_loss },
    };
    let losses =
        model.train(&batch, objective, Pass::new(0, 0), 0.0, request.gradient_checkpointing, &gradients)?;
    let evaluated = model.loss(&batch)?;
    if evaluated != losses.predictions {
        return Err(Error::new(format!("{evaluated:?} in evaluation, {:?} in training", losses.predictions)));
    }

    let mut results: HashMap<String, Tensor> = HashMap::new();
    results.insert("logits".into(), model.forward(&tensors["ids"].to_dtype(DType::U32)?)?);
    for (index, parameter) in parameters.iter().enumerate() {
        results.insert(format!("gradient.{}", parameter.name), gradients.get(index)?.clone());
    }
    candle_core::safetensors::save(&results, folder.join("ours.safetensors"))?;
    let losses = serde_json::json!({
        "loss": losses.predictions.mean(), "z_loss": losses.predictions.mean_z(),
        "router_aux_loss": losses.router.balance, "router_z_loss": losses.router.z,
    });
    let path = folder.join("ours.json");
    std::fs::write(&path, losses.to_string()).context(|| format!("cannot write {}", path.display()))
}
