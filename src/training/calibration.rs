//! How fast this machine trains a model: a few steps are timed, of the model itself where it is small, else of one and of
//! two layers of it on a few tokens, from which the rest follows.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use super::forecast::{Operations, Subject, Trained};
use super::memory::keep_freed_memory;
use super::optimiser::{Adam, AdamW, clipping, global_norm};
use crate::error::{Context, Error, Result};
use crate::model::ops::{Stream, uniform};
use crate::model::{Batch, Config, Gradients, Mixtral, Objective, Pass};
use crate::weights::{Float, Layout, MAX_SHARD_BYTES, Spec};

/// A micro-batch of at most so many operations is timed itself: a few seconds.
const SMALL: f64 = 2e11;

/// Tokens of the two timings of a larger model's layers.
const TOKENS: [usize; 2] = [64, 512];

/// What a step is made of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// Forward and backward.
    pub seconds_per_micro_batch: f64,
    /// The gradients' norm, and the optimiser.
    pub seconds_per_update: f64,
    /// The model itself was timed; else layers of it.
    pub whole: bool,
}

/// Times training of the subject. A model of its sizes and random weights is written into `folder` and removed; its
/// layers must fit in `memory` bytes.
pub fn calibrate(subject: &Subject, folder: &Path, memory: u64) -> Result<Speed> {
    let threads = rayon::current_num_threads();
    // As a training does.
    keep_freed_memory();
    let fits = |part: &Subject| {
        let needed = part.forecast(threads).memory.total();
        if needed <= memory {
            return Ok(());
        }
        let layers = part.config.num_hidden_layers;
        Err(Error::invalid(format!(
            "the speed cannot be measured here: {layers} of its layers would take {:.1} GiB of memory, and there are {:.1}",
            gib(needed),
            gib(memory)
        )))
    };
    let Operations { layers, output } = subject.forecast(1).operations;
    if layers + output <= SMALL {
        fits(subject)?;
        let Timed { steps, update } = time(subject, &[(subject.sequences, subject.length); 3], folder)?;
        let mut steps = steps;
        steps.sort_by(f64::total_cmp);
        return Ok(Speed { seconds_per_micro_batch: steps[1], seconds_per_update: update, whole: true });
    }
    let part = |layers: usize, tokens: usize| {
        let config = Config { num_hidden_layers: layers, ..subject.config.clone() };
        Subject { config, sequences: 1, length: tokens, ..subject.clone() }
    };
    let sizes = TOKENS.map(|tokens| (1, tokens));
    let mut timed = Vec::new();
    for layers in [1, 2] {
        let part = part(layers, TOKENS[1]);
        fits(&part)?;
        timed.push(time(&part, &sizes, folder)?);
    }
    let small = TOKENS.map(|tokens| part(1, tokens).forecast(1).operations);
    // One more layer, and what is not a layer: each some seconds that are there for any number of tokens (weights are
    // read, or unpacked), and the rest in proportion to the operations.
    let line = |seconds: [f64; 2], operations: [f64; 2]| {
        let slope = ((seconds[1] - seconds[0]) / (operations[1] - operations[0])).max(0.0);
        ((seconds[0] - slope * operations[0]).max(0.0), slope)
    };
    let layer = [0, 1].map(|at| (timed[1].steps[at] - timed[0].steps[at]).max(0.0));
    let rest = [0, 1].map(|at| (timed[0].steps[at] - layer[at]).max(0.0));
    let (layer_start, layer_slope) = line(layer, small.map(|operations| operations.layers));
    let (rest_start, rest_slope) = line(rest, small.map(|operations| operations.output));
    let count = subject.config.num_hidden_layers as f64;
    let trained = |subject: &Subject| subject.forecast(1).parameters() as f64;
    let per_parameter = timed[1].update / trained(&part(2, TOKENS[1]));
    Ok(Speed {
        seconds_per_micro_batch: count * layer_start + layer_slope * layers + rest_start + rest_slope * output,
        seconds_per_update: per_parameter * trained(subject),
        whole: false,
    })
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / (1u64 << 30) as f64
}

struct Timed {
    /// Seconds of a micro-batch of each size.
    steps: Vec<f64>,
    /// Seconds of an update.
    update: f64,
}

/// Trains a model of these sizes on random tokens: once for nothing, then a micro-batch of each size (sequences, length).
fn time(subject: &Subject, sizes: &[(usize, usize)], folder: &Path) -> Result<Timed> {
    let packed = subject.packed || subject.config.packed;
    let storage = |module: &str| subject.trained.storage(module, packed, subject.precision);
    let model = write(&subject.config, folder).and_then(|()| Mixtral::open_as(folder, &Device::Cpu, storage));
    let removed = std::fs::remove_dir_all(folder).context(|| format!("cannot remove {}", folder.display()));
    let mut model = model?;
    removed?;
    model.set_precision(subject.precision);
    subject.trained.choose(&mut model)?;
    let parameters = model.trained();
    let mut gradients = Gradients::of(&parameters)?;
    let adam = Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
    let mut optimiser = AdamW::new(adam, &parameters);
    let (mut steps, mut update) = (Vec::new(), 0.0);
    for (number, &(sequences, length)) in (0..).zip(sizes.iter().take(1).chain(sizes)) {
        let stream = |row: usize| Stream::new(number).numbered(row as u64);
        let id = |row, at| (stream(row).word(at) % subject.config.vocab_size as u64) as u32;
        let blocks: Vec<Vec<u32>> =
            (0..sequences).map(|row| (0..length as u64).map(|at| id(row, at)).collect()).collect();
        let batch = Batch::next_tokens(&blocks)?;
        gradients.clear();
        let started = Instant::now();
        model.train(
            &batch,
            Objective::cross_entropy(1e-3),
            Pass::new(0, number),
            0.0,
            subject.recompute,
            &gradients,
        )?;
        let step = started.elapsed().as_secs_f64();
        let norm = global_norm(&mut gradients)?;
        optimiser.step(&parameters, &mut gradients, clipping(norm, 1.0), |_| 1e-6, number)?;
        if number > 0 {
            steps.push(step);
            update = started.elapsed().as_secs_f64() - step;
        }
    }
    tracing::debug!(layers = subject.config.num_hidden_layers, ?sizes, ?steps, update, "timed");
    Ok(Timed { steps, update })
}

/// A model folder with random weights in bfloat16.
fn write(config: &Config, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).context(|| format!("cannot create {}", folder.display()))?;
    let mut fields = serde_json::to_value(config).context(|| "cannot write config.json".to_owned())?;
    fields["architectures"] = serde_json::json!(["MixtralForCausalLM"]);
    std::fs::write(folder.join("config.json"), fields.to_string())
        .context(|| format!("cannot write a model into {}", folder.display()))?;
    let specs: BTreeMap<String, Spec> =
        config.weights().into_iter().map(|(name, shape)| (name, Spec::new(Float::BF16.dtype(), shape))).collect();
    Layout::new(specs, MAX_SHARD_BYTES).write(folder, |name, spec, writer| {
        let values = match spec.shape.len() {
            1 => vec![1.0; spec.elements()],
            _ => uniform(Stream::new(0).named(name), spec.elements(), 0.035),
        };
        writer.write(&Float::BF16.narrow(&values))
    })
}

impl Trained {
    /// Adds adapters to a model, and says which of its weights are trained.
    fn choose(&self, model: &mut Mixtral) -> Result<()> {
        if let Self::Adapters { rank, dropout, .. } = self {
            let dropout = if *dropout { 0.05 } else { 0.0 };
            model.add_adapters(*rank, 2.0 * *rank as f64, dropout, 0, |module| self.rank(module) > 0)?;
        }
        model.train_only(|name| name.contains(".lora_") || self.whole(name.trim_end_matches(".weight")));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Precision;

    fn subject(layers: usize) -> Subject {
        let config = Config {
            vocab_size: 300,
            hidden_size: 64,
            intermediate_size: 128,
            num_hidden_layers: layers,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 16,
            num_local_experts: 4,
            num_experts_per_tok: 2,
            max_position_embeddings: 512,
            rms_norm_eps: 1e-5,
            rope_theta: 1e4,
            sliding_window: None,
            bos_token_id: None,
            eos_token_id: None,
            packed: false,
        };
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let (target_modules, modules_to_save) = (names(&["q_proj", "w1"]), names(&["lm_head"]));
        let trained = Trained::Adapters { rank: 4, dropout: true, target_modules, modules_to_save };
        Subject {
            config,
            packed: true,
            precision: Precision::Bfloat16,
            trained,
            sequences: 2,
            length: 32,
            recompute: true,
        }
    }

    #[test]
    fn a_small_model_is_timed_itself_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let speed = calibrate(&subject(2), &folder.path().join("model"), u64::MAX).unwrap();
        assert!(speed.whole && speed.seconds_per_micro_batch > 0.0 && speed.seconds_per_update > 0.0);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn of_a_large_model_layers_are_timed() {
        let folder = tempfile::tempdir().unwrap();
        let large = |layers| calibrate(&subject(layers), &folder.path().join("model"), u64::MAX).unwrap();
        let speed = large(20_000);
        assert!(!speed.whole && speed.seconds_per_micro_batch > 0.0, "{speed:?}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let error = calibrate(&subject(20_000), &folder.path().join("model"), 1 << 20).unwrap_err();
        assert!(
            error.message().starts_with("the speed cannot be measured here: 1 of its layers would take"),
            "{error}"
        );
    }
}
