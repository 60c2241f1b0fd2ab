//! `train`: continues a model's training on a mix of encoded datasets.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use candle_core::Device;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Dataset, Fault, Input, Known, Outlook, Progress, Prospect, Share, Stage, Work};
use crate::corpus::{Block, Blocks};
use crate::error::{Context, Error, Result, nearest};
use crate::events::Unit;
use crate::model::{Mixtral, Precision, RouterLosses};
use crate::tokenizer::Tokenizer;
use crate::training::forecast::{Subject, Trained};
use crate::training::{
    self, Adam, Auxiliary, Host, Mix, Record, Report, ScheduleShape, Scheduler, Settings, Validation, tensorboard,
};
use crate::weights::adapter::{self, Adapter, AdapterConfig, is_named};
use crate::weights::rewrite::{Companions, Sharing, share_companions};

/// The split that is trained on, and the one whose loss is watched, as in the original project.
const TRAIN: &str = "train";
const DEV: &str = "dev";

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// The model to train, with its tokenizer.
    model: Input,
    /// An adapter to go on with, of `method = "lora"`: its ranks, factors, dropout and modules stand in place of `lora`.
    adapter: Option<Input>,
    /// What to train on: the `train` split of each dataset.
    mix: Vec<Share>,
    /// Whose loss is watched: the `dev` split of each dataset.
    valid: Vec<Dataset>,
    method: Method,
    precision: Precision,
    quantization: Quantization,
    recipe: Recipe,
    /// The peak.
    learning_rate: f64,
    /// That of embedding and output; `learning_rate` when left out.
    embedding_learning_rate: Option<f64>,
    scheduler: Scheduler,
    /// The part of all steps in which the learning rate rises from 0.
    warmup_ratio: f64,
    /// The part of all steps in which it falls, with `scheduler = "warmup_stable_decay"`.
    decay_ratio: f64,
    /// What is left of the peak at the end, with `"cosine"` and `"warmup_stable_decay"`.
    min_lr_ratio: f64,
    /// Passes over the mix.
    epochs: f64,
    /// Steps in all, in place of `epochs`.
    max_steps: Option<u64>,
    /// Blocks of a micro-batch.
    batch_size: usize,
    /// Micro-batches of a step.
    gradient_accumulation_steps: usize,
    weight_decay: f64,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    /// Gradients are scaled down to this norm; 0: not at all.
    max_grad_norm: f64,
    /// Strength of the noise on the embeddings (NEFTune); 0: none.
    neftune_alpha: f64,
    /// Coefficient of the load-balancing loss of the routers; 0: none.
    router_aux_loss: f64,
    /// Coefficient of the mean squared ln Z of the routers' logits; 0: none.
    router_z_loss: f64,
    /// Coefficient of the mean squared ln Z of the output's logits; 0: none.
    z_loss: f64,
    /// Steps between evaluations; 0: only before the first step and after the last.
    evaluation_steps: u64,
    /// Steps between checkpoints; 0: only when interrupted.
    checkpoint_steps: u64,
    /// Checkpoints that are kept, the newest.
    keep_checkpoints: usize,
    /// Layers keep only their inputs and run again on the way back.
    gradient_checkpointing: bool,
    seed: u64,
    /// Of `method = "lora"`.
    lora: LoraSettings,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Method {
    /// Low-rank adapters beside frozen weights; gives a PEFT adapter.
    Lora,
    /// Every weight; gives a model folder.
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Quantization {
    None,
    /// Linear layers but the output, packed to 4-bit NormalFloat in blocks of 64, without double quantisation: as the
    /// published run had them.
    Nf4,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Recipe {
    /// Every next token counts.
    Clean,
    /// `</s>` never counts: it was the padding token of the published run.
    AsPublished,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LoraSettings {
    rank: usize,
    /// The adapter's factor is alpha / rank.
    alpha: f64,
    /// Probability that a value of an adapter's input is dropped.
    dropout: f64,
    /// Linear layers that get an adapter, by the end of their names.
    target_modules: Vec<String>,
    /// Modules that are trained whole, by the end of their names.
    modules_to_save: Vec<String>,
}

impl Stage for Train {
    const KIND: &'static str = "train";
    const REVISION: u32 = 6;

    /// Numbers that no run can have.
    fn check(&self) -> Result<(), Fault> {
        let wrong = |name: &str, value: f64, what: &str| {
            Err(Fault::new(name, format!("`{name}` is {value}; it must be {what}")))
        };
        for (name, value) in [
            ("learning_rate", self.learning_rate),
            ("embedding_learning_rate", self.embedding_learning_rate.unwrap_or_default()),
            ("epochs", self.epochs),
            ("weight_decay", self.weight_decay),
            ("max_grad_norm", self.max_grad_norm),
            ("neftune_alpha", self.neftune_alpha),
            ("router_aux_loss", self.router_aux_loss),
            ("router_z_loss", self.router_z_loss),
            ("z_loss", self.z_loss),
            ("lora.alpha", self.lora.alpha),
        ] {
            if !(value >= 0.0 && value.is_finite()) {
                return wrong(name, value, "at least 0");
            }
        }
        if self.epsilon.is_nan() || self.epsilon <= 0.0 {
            return wrong("epsilon", self.epsilon, "above 0");
        }
        for (name, value) in [
            ("warmup_ratio", self.warmup_ratio),
            ("decay_ratio", self.decay_ratio),
            ("min_lr_ratio", self.min_lr_ratio),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return wrong(name, value, "between 0 and 1");
            }
        }
        if self.min_lr_ratio > 0.0 && !matches!(self.scheduler, Scheduler::Cosine | Scheduler::WarmupStableDecay) {
            let message = format!("`min_lr_ratio` is {}, but this scheduler has no floor", self.min_lr_ratio);
            return Err(Fault::new("min_lr_ratio", message)
                .hint("set `scheduler` to \"cosine\" or \"warmup_stable_decay\", or leave `min_lr_ratio` out"));
        }
        for (name, value) in [("beta1", self.beta1), ("beta2", self.beta2), ("lora.dropout", self.lora.dropout)] {
            if !(0.0..1.0).contains(&value) {
                return wrong(name, value, "at least 0 and below 1");
            }
        }
        if self.lora.rank == 0 {
            return wrong("lora.rank", 0.0, "at least 1");
        }
        if self.quantization == Quantization::Nf4 && self.method == Method::Full {
            return Err(Fault::new("quantization", "weights packed to NF4 cannot be trained")
                .hint("set `method = \"lora\"`, or `quantization = \"none\"`"));
        }
        if self.adapter.is_some() && self.method == Method::Full {
            return Err(Fault::new("adapter", "training all parameters cannot go on with an adapter")
                .hint("set `method = \"lora\"`, or merge the adapter first (`use = \"merge\"`)"));
        }
        Ok(())
    }

    fn prospect(&self, inputs: &dyn Outlook) -> Option<Prospect> {
        Some(match self.method {
            Method::Full => Prospect::model(inputs.model(&self.model)),
            Method::Lora => Prospect::adapter(self.adapter_of(inputs)),
        })
    }

    fn subject(&self, inputs: &dyn Outlook, length: usize) -> Option<Known<Subject>> {
        let subject = |config| {
            Ok(Subject {
                config,
                packed: self.quantization == Quantization::Nf4,
                precision: self.precision,
                trained: self.trained(&self.adapter_of(inputs)?),
                sequences: self.batch_size,
                length,
                recompute: self.gradient_checkpointing,
            })
        };
        Some(inputs.model(&self.model).and_then(subject))
    }

    fn run(&self, work: &mut Work) -> Result<()> {
        training::keep_freed_memory();
        let mix = self.open_mix()?;
        let validation = self.open_validation(work)?;
        let continued = self.adapter.as_ref().map(|adapter| Adapter::open(adapter.path())).transpose()?;
        let adapter = continued.as_ref().map_or_else(|| self.new_adapter(), |adapter| adapter.config.clone());
        let (trained, packed) = (self.trained(&adapter), self.quantization == Quantization::Nf4);
        let storage = |module: &str| trained.storage(module, packed, self.precision);
        let mut model = Mixtral::open_as(self.model.path(), &Device::Cpu, storage)?;
        model.set_precision(self.precision);
        self.choose_weights(&mut model, continued.as_ref())?;
        if continued.is_some() {
            let AdapterConfig { r, lora_alpha, lora_dropout, .. } = &adapter;
            work.info(format!("going on with an adapter: rank {r}, alpha {lora_alpha}, dropout {lora_dropout}"));
        }
        drop(continued);
        let settings = self.settings(&model);
        let plan = training::Plan::new(mix.blend(), &settings.extent())?;
        let trained: usize = model.trained().iter().map(|parameter| parameter.value.elem_count()).sum();
        work.info(format!(
            "{} steps, {} tokens, {trained} trained parameters in {} tensors",
            plan.steps,
            plan.tokens,
            model.trained().len()
        ));
        let longest = model.config().max_position_embeddings;
        let length = mix.blend().sequence_length();
        if length > longest {
            work.warn(format!("blocks of {length} tokens are longer than the model's {longest} positions"));
        }
        for (share, taken) in mix.blend().shares().iter().zip(mix.blend().taken()) {
            if *taken == 0 {
                work.warn(format!("nothing is taken of {}: its share is less than one block", share.name));
            }
        }
        for text in plan.repeated_passes(mix.blend(), &mix.passes()) {
            work.warn(text);
        }

        let progress = work.progress("training", Some(plan.steps), Unit::Steps);
        let started = Instant::now();
        let host = WorkHost { work, progress };
        let report = training::train(&model, &mix, &validation, &settings, work.scratch(), &host)?;
        host.progress.finish();
        let seconds = started.elapsed().as_secs_f64();
        let peak = training::peak_memory();

        self.write(&model, &adapter, work.output())?;
        write_records(&report, work.output())?;
        work.metric("steps", plan.steps);
        work.metric("tokens", plan.tokens);
        for (name, blocks) in report.records.blocks() {
            work.metric(format!("blocks_{name}"), blocks);
        }
        work.metric("trained_parameters", trained);
        if let (Some(first), Some(last)) = (report.records.losses().next(), report.records.losses().next_back()) {
            work.metric("loss_first", first);
            work.metric("loss_last", last);
        }
        let evaluated = |record: &&Record| record.validation.is_some();
        let records = &report.records.0;
        for (when, record) in [("before_", records.iter().find(evaluated)), ("", records.iter().rfind(evaluated))] {
            let Some(record) = record else { continue };
            for (figure, values) in
                [("validation_loss", &record.validation), ("bits_per_byte", &record.bits_per_byte)]
            {
                for (name, value) in values.iter().flatten() {
                    work.metric(format!("{figure}_{when}{name}"), *value);
                }
            }
        }
        let made = plan.tokens as f64 * (plan.steps - report.resumed_at) as f64 / plan.steps as f64;
        work.metric("tokens_per_second", (made / seconds).round());
        if let Some(peak) = peak {
            work.metric("peak_memory", peak);
        }
        Ok(())
    }
}

/// A stage's surroundings as the training sees them.
struct WorkHost<'a> {
    work: &'a Work,
    progress: Progress,
}

impl Host for WorkHost<'_> {
    fn check(&self) -> Result<()> {
        self.work.check()
    }
    fn step(&self, done: u64) {
        self.progress.set(done);
    }
    fn info(&self, text: String) {
        self.work.info(text);
    }
    fn warn(&self, text: String) {
        self.work.warn(text);
    }
}

impl Train {
    fn open_mix(&self) -> Result<Mix> {
        let open = |share: &Share| {
            let passes = open_split(&share.dataset, TRAIN, Blocks::open_passes)?;
            Ok((share.dataset.name.clone(), passes, share.amount))
        };
        Mix::new(self.mix.iter().map(open).collect::<Result<_>>()?)
    }

    fn open_validation(&self, work: &Work) -> Result<Vec<Validation>> {
        let folder = self.model.path();
        let has_tokenizer = ["tokenizer.model", "tokenizer.json"].iter().any(|name| folder.join(name).exists());
        let tokenizer = has_tokenizer.then(|| Tokenizer::open(folder)).transpose()?;
        if tokenizer.is_none() && !self.valid.is_empty() {
            work.info("the model has no tokenizer: validation losses are not given in bits per byte");
        }
        let open = |dataset: &Dataset| {
            let blocks = open_split(dataset, DEV, Blocks::open)?;
            if blocks.is_empty() {
                return Err(Error::invalid(format!("the validation set of {} has no token blocks", dataset.name))
                    .hint("its split is shorter than one block: change the split's ratio or the sequence length"));
            }
            let bytes =
                tokenizer.as_ref().map(|tokenizer| predicted_bytes(&blocks, tokenizer)).transpose()?.flatten();
            Ok(Validation { name: dataset.name.clone(), blocks, bytes })
        };
        self.valid.iter().map(open).collect()
    }

    fn settings(&self, model: &Mixtral) -> Settings {
        Settings {
            epochs: self.epochs,
            max_steps: self.max_steps,
            batch_size: self.batch_size,
            gradient_accumulation_steps: self.gradient_accumulation_steps,
            learning_rate: self.learning_rate,
            embedding_learning_rate: self.embedding_learning_rate,
            schedule: ScheduleShape {
                scheduler: self.scheduler,
                warmup_ratio: self.warmup_ratio,
                decay_ratio: self.decay_ratio,
                min_lr_ratio: self.min_lr_ratio,
            },
            adam: Adam {
                beta1: self.beta1,
                beta2: self.beta2,
                epsilon: self.epsilon,
                weight_decay: self.weight_decay,
            },
            max_grad_norm: self.max_grad_norm,
            evaluation_steps: self.evaluation_steps,
            checkpoint_steps: self.checkpoint_steps,
            keep_checkpoints: self.keep_checkpoints,
            seed: self.seed,
            neftune_alpha: self.neftune_alpha,
            auxiliary: Auxiliary {
                z: self.z_loss,
                router: RouterLosses { balance: self.router_aux_loss, z: self.router_z_loss },
            },
            gradient_checkpointing: self.gradient_checkpointing,
            ignored: match self.recipe {
                Recipe::Clean => None,
                Recipe::AsPublished => model.config().eos_token_id,
            },
        }
    }

    /// The adapter that this will train.
    fn adapter_of(&self, inputs: &dyn Outlook) -> Known<AdapterConfig> {
        self.adapter.as_ref().map_or_else(|| Ok(self.new_adapter()), |adapter| inputs.adapter(adapter))
    }

    /// Which weights are trained, where adapters are of this configuration.
    fn trained(&self, adapter: &AdapterConfig) -> Trained {
        match self.method {
            Method::Full => Trained::All,
            Method::Lora => Trained::adapters(adapter),
        }
    }

    /// The configuration of a new adapter.
    fn new_adapter(&self) -> AdapterConfig {
        let LoraSettings { rank, alpha, dropout, target_modules, modules_to_save } = &self.lora;
        AdapterConfig {
            base_model_name_or_path: None,
            r: *rank,
            lora_alpha: *alpha,
            lora_dropout: *dropout,
            target_modules: target_modules.clone(),
            modules_to_save: modules_to_save.clone(),
            use_rslora: false,
            rank_pattern: Default::default(),
            alpha_pattern: Default::default(),
        }
    }

    /// Adds new adapters, or those of the adapter to go on with, and says which weights are trained.
    fn choose_weights(&self, model: &mut Mixtral, adapter: Option<&Adapter>) -> Result<()> {
        if let Some(adapter) = adapter {
            return model.continue_adapter(adapter, self.seed);
        }
        if self.method == Method::Full {
            if model.is_packed() {
                return Err(Error::invalid("the model is packed to 4 bits, and packed weights cannot be trained")
                    .hint("set `method = \"lora\"`, or give the model that is not quantised"));
            }
            model.train_only(|_| true);
            return Ok(());
        }
        let LoraSettings { rank, alpha, dropout, target_modules, modules_to_save } = &self.lora;
        let linears = model.linear_modules();
        let others = ["model.embed_tokens".to_owned(), "lm_head".to_owned(), "model.norm".to_owned()];
        for target in target_modules {
            if is_named("lm_head", target) || is_named("model.embed_tokens", target) {
                return Err(Error::invalid(format!("`lora.target_modules`: `{target}` cannot have an adapter"))
                    .hint(format!("put `{target}` in `lora.modules_to_save`, which trains it whole")));
            }
            known("lora.target_modules", target, &linears)?;
        }
        for module in modules_to_save {
            known("lora.modules_to_save", module, linears.iter().chain(&others))?;
            if target_modules.contains(module) {
                return Err(Error::invalid(format!("`{module}` can't be trained whole and have an adapter")));
            }
        }
        let adapted = |module: &str| target_modules.iter().any(|target| is_named(module, target));
        model.add_adapters(*rank, *alpha, *dropout, self.seed, adapted)?;
        model.train_only(|name| {
            let whole = modules_to_save.iter().any(|module| is_named(name.trim_end_matches(".weight"), module));
            whole || name.ends_with(".lora_A.weight") || name.ends_with(".lora_B.weight")
        });
        Ok(())
    }

    /// The model folder, or the adapter.
    fn write(&self, model: &Mixtral, adapter: &AdapterConfig, output: &Path) -> Result<()> {
        match self.method {
            Method::Full => {
                let tensors: BTreeMap<_, _> =
                    model.parameters().iter().map(|p| (p.name.clone(), p.value.clone())).collect();
                share_companions(self.model.path(), output, Sharing::of(&self.model.from), Companions::All)?;
                name_dtype(output)?;
                crate::weights::save(output, &tensors, crate::weights::MAX_SHARD_BYTES)
            }
            Method::Lora => {
                let tensors: BTreeMap<_, _> = model
                    .trained()
                    .iter()
                    .map(|p| (format!("{}{}", adapter::PREFIX, p.name), p.value.clone()))
                    .collect();
                adapter::save(output, adapter, &tensors)
            }
        }
    }
}

/// That at least one module has this name.
fn known<'a>(parameter: &str, name: &str, modules: impl IntoIterator<Item = &'a String>) -> Result<()> {
    let mut ends = BTreeSet::new();
    for module in modules {
        if is_named(module, name) {
            return Ok(());
        }
        ends.insert(module.rsplit('.').next().unwrap_or(module));
    }
    let error = Error::invalid(format!("`{parameter}`: the model has no module `{name}`"));
    let all = ends.iter().copied().collect::<Vec<_>>().join(", ");
    Err(match nearest(name, ends) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error.hint(format!("there are {all}")),
    })
}

/// The token blocks of a dataset's split.
fn open_split<T>(dataset: &Dataset, split: &str, open: fn(&Path) -> Result<T>) -> Result<T> {
    let path = dataset.path.as_ref().ok_or_else(|| {
        Error::invalid(format!("the dataset {} is not encoded", dataset.name))
            .hint("add an `encode` stage for it to the pipeline")
    })?;
    let folder = dataset.encoded.get(split).ok_or_else(|| {
        let splits = dataset.encoded.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        Error::invalid(format!("the dataset {} has no split `{split}`", dataset.name))
            .hint(format!("its splits in datasets.toml are {splits}"))
    })?;
    open(&path.join(folder)).context(|| format!("cannot open the dataset {}", dataset.name))
}

/// Bytes of the text that the predicted tokens of all blocks stand for: of each document of a block all but the first. A
/// character that a block's border cuts counts as it is decoded. `None` where labels say that a part is not predicted.
fn predicted_bytes(blocks: &Blocks, tokenizer: &Tokenizer) -> Result<Option<u64>> {
    let mut bytes = 0;
    for row in 0..blocks.len() {
        let Block { ids, labels, documents, .. } = blocks.block(row)?;
        if ids.iter().zip(&labels).any(|(&id, &label)| i64::from(id) != label) {
            return Ok(None);
        }
        let first_of = |at: usize| documents.as_ref().map_or(0, |documents| documents[at]);
        let (mut start, mut end) = (0, 0);
        while start < ids.len() {
            while end < ids.len() && first_of(end) == first_of(start) {
                end += 1;
            }
            let begins = tokenizer.decode(&ids[start..=start])?.len();
            bytes += tokenizer.decode(&ids[start..end])?.len().saturating_sub(begins) as u64;
            start = end;
        }
    }
    Ok(Some(bytes))
}

/// `metrics.jsonl`, and the same figures as a TensorBoard event file.
fn write_records(report: &Report, output: &Path) -> Result<()> {
    let board = output.join("tensorboard");
    std::fs::create_dir(&board).context(|| format!("cannot create {}", board.display()))?;
    for (path, text) in [
        (output.join("metrics.jsonl"), report.records.to_jsonl()?.into_bytes()),
        (board.join(tensorboard::FILE), tensorboard::events(&report.records)),
    ] {
        std::fs::write(&path, text).context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Names the type of the weights in `config.json`: training makes float32 of whatever it was given.
fn name_dtype(folder: &Path) -> Result<()> {
    let path = folder.join("config.json");
    let text = std::fs::read(&path).context(|| format!("cannot read {}", path.display()))?;
    let mut config: Value = serde_json::from_slice(&text).context(|| format!("cannot read {}", path.display()))?;
    let named = if config.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    if config.get(named).is_some_and(|dtype| dtype == "float32") {
        return Ok(());
    }
    config[named] = "float32".into();
    // A new file: the old one may be a link to the model's own.
    crate::files::write_atomic(&path, format!("{config:#}\n").as_bytes())
        .context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests;
