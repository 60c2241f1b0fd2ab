//! The training loop.

use std::collections::BTreeMap;
use std::path::Path;

use super::batch::batch;
use super::checkpoint::Checkpoints;
use super::optimiser::{Adam, AdamW, clipping, global_norm};
use super::schedule::{Schedule, Shape};
use super::{Extent, Mix, Plan, Record, Records};
use crate::corpus::Blocks;
use crate::error::{Error, Result};
use crate::model::{Gradients, Loss, LossFactors, Mixtral, Objective, Pass, RouterLosses};

/// Everything that a run's course depends on, apart from model and data.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Passes over the mix; a part of one is allowed.
    pub epochs: f64,
    /// Steps in all, in place of `epochs`.
    pub max_steps: Option<u64>,
    /// Blocks of a micro-batch.
    pub batch_size: usize,
    /// Micro-batches of a step.
    pub gradient_accumulation_steps: usize,
    /// The peak.
    pub learning_rate: f64,
    /// That of embedding and output, where it is another one.
    pub embedding_learning_rate: Option<f64>,
    pub schedule: Shape,
    pub adam: Adam,
    /// 0: no clipping.
    pub max_grad_norm: f64,
    /// Steps between evaluations; 0: only before the first step and after the last.
    pub evaluation_steps: u64,
    /// Steps between checkpoints; 0: only when interrupted.
    pub checkpoint_steps: u64,
    pub keep_checkpoints: usize,
    pub seed: u64,
    /// Strength of NEFTune's noise; 0: none.
    pub neftune_alpha: f64,
    /// Coefficients of the losses beside the cross-entropy; 0: none.
    pub auxiliary: Auxiliary,
    /// Layers keep only their inputs and run again on the way back. Changes memory and time, no bit of the result.
    pub gradient_checkpointing: bool,
    /// A token that is never to be predicted.
    pub ignored: Option<u32>,
}

/// What is added to the cross-entropy, or its coefficients.
#[derive(Clone, Copy, Debug, Default)]
pub struct Auxiliary {
    /// The mean of (ln Z)² of the output, over the positions that count (PaLM).
    pub z: f64,
    pub router: RouterLosses,
}

/// A set of token blocks whose loss is watched.
pub struct Validation {
    pub name: String,
    pub blocks: Blocks,
    /// Bytes of the text that the predicted tokens stand for, where that is known: all but the first of each block.
    pub bytes: Option<u64>,
}

/// Who runs the training: is told how far it is, and may stop it.
pub trait Host {
    /// An error ends the run; a checkpoint is saved first.
    fn check(&self) -> Result<()>;
    /// `done` steps are made.
    fn step(&self, done: u64);
    /// A sentence for the log.
    fn info(&self, text: String);
    /// A sentence for the log and for the user.
    fn warn(&self, text: String);
}

/// What a run leaves beside the weights.
pub struct Report {
    pub plan: Plan,
    pub records: Records,
    /// Steps that an earlier attempt had made.
    pub resumed_at: u64,
}

impl Settings {
    /// How long the run is.
    pub fn extent(&self) -> Extent {
        let Self { epochs, max_steps, batch_size, gradient_accumulation_steps, seed, .. } = *self;
        Extent { epochs, max_steps, batch_size, gradient_accumulation_steps, seed }
    }
}

/// Trains the model's trained weights, in place. `scratch` keeps checkpoints between attempts: a run that was stopped,
/// in whatever way, continues from the newest and ends with the same bits.
pub fn train(
    model: &Mixtral,
    mix: &Mix,
    validation: &[Validation],
    settings: &Settings,
    scratch: &Path,
    host: &dyn Host,
) -> Result<Report> {
    let plan = Plan::new(mix.blend(), &settings.extent())?;
    let parameters = model.trained();
    let identity = identity(model, mix, validation, settings, &plan);
    let checkpoints = Checkpoints::new(scratch.join("checkpoints"), identity, settings.keep_checkpoints)?;
    let optimiser = AdamW::new(settings.adam, &parameters);
    let gradients = Gradients::of(&parameters)?;
    let mut run = Run {
        model,
        mix,
        validation,
        settings,
        plan,
        host,
        checkpoints,
        schedule: Schedule::new(settings.schedule, plan.steps),
        optimiser,
        gradients,
        records: Records::default(),
        step: 0,
    };
    let resumed = run.checkpoints.resume(&parameters, &mut run.optimiser, |text| host.warn(text))?;
    if let Some((step, records)) = resumed {
        host.info(format!("continuing after step {step} of {}", plan.steps));
        (run.step, run.records) = (step, records);
    }
    let resumed_at = run.step;
    match run.carry_on() {
        Ok(()) => Ok(Report { plan, records: run.records, resumed_at }),
        Err(error) => {
            // Nothing is lost by an interruption; a failure would only be repeated from here.
            if error.is_interruption() && run.step > resumed_at {
                run.save()?;
            }
            Err(error)
        }
    }
}

/// What decides the course of a run. A checkpoint of another one must not be continued.
fn identity(model: &Mixtral, mix: &Mix, validation: &[Validation], settings: &Settings, plan: &Plan) -> String {
    let mut hasher = blake3::Hasher::new();
    // What only changes how the work is done is left out.
    let settings = Settings { keep_checkpoints: 0, gradient_checkpointing: false, ..settings.clone() };
    hasher.update(format!("{settings:?}{plan:?}{:?}{:?}", mix.blend(), mix.passes()).as_bytes());
    for parameter in model.trained() {
        hasher.update(format!("{} {:?}\n", parameter.name, parameter.value.dims()).as_bytes());
    }
    for set in validation {
        hasher.update(format!("{} {}\n", set.name, set.blocks.len()).as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

struct Run<'a> {
    model: &'a Mixtral,
    mix: &'a Mix,
    validation: &'a [Validation],
    settings: &'a Settings,
    plan: Plan,
    host: &'a dyn Host,
    checkpoints: Checkpoints,
    schedule: Schedule,
    optimiser: AdamW,
    gradients: Gradients,
    records: Records,
    /// Steps made.
    step: u64,
}

impl Run<'_> {
    fn carry_on(&mut self) -> Result<()> {
        loop {
            self.host.step(self.step);
            if self.is_due(self.settings.evaluation_steps) || self.step == 0 || self.step == self.plan.steps {
                self.evaluate()?;
            }
            if self.step == self.plan.steps {
                return Ok(());
            }
            if self.step > 0 && self.is_due(self.settings.checkpoint_steps) {
                self.save()?;
            }
            self.one_step()?;
        }
    }

    fn is_due(&self, interval: u64) -> bool {
        interval > 0 && self.step.is_multiple_of(interval)
    }

    fn save(&self) -> Result<()> {
        self.checkpoints.save(self.step, &self.model.trained(), &self.optimiser, &self.records)
    }

    /// The loss of every validation set, unless a resumed run has it already.
    fn evaluate(&mut self) -> Result<()> {
        let done = self.records.evaluations().next_back().is_some_and(|(step, _)| step == self.step);
        if done || self.validation.is_empty() {
            return Ok(());
        }
        let (mut losses, mut bits) = (BTreeMap::new(), BTreeMap::new());
        for set in self.validation {
            let mut total = Loss::default();
            let rows: Vec<usize> = (0..set.blocks.len()).collect();
            for rows in rows.chunks(self.settings.batch_size) {
                self.host.check()?;
                let blocks = rows.iter().map(|&row| set.blocks.block(row)).collect::<Result<Vec<_>>>()?;
                total += self.model.loss(&batch(&blocks, self.settings.ignored)?)?;
            }
            if total.count == 0 {
                let message = format!("nothing of the validation set {} is to be predicted", set.name);
                return Err(Error::invalid(message).hint("its blocks hold no answers; leave it out of `valid`"));
            }
            if !total.mean().is_finite() {
                return Err(self.diverged(format!("the loss on {}", set.name), total.mean()));
            }
            losses.insert(set.name.clone(), figure(total.mean()));
            if let Some(bytes) = set.bytes.filter(|&bytes| bytes > 0) {
                bits.insert(set.name.clone(), figure(total.sum / std::f64::consts::LN_2 / bytes as f64));
            }
        }
        let described: Vec<String> = losses.iter().map(|(name, loss)| format!("{name} {loss:.4}")).collect();
        self.host.info(format!("step {}: validation loss {}", self.step, described.join(", ")));
        self.records.0.push(Record {
            step: self.step,
            loss: None,
            learning_rate: None,
            embedding_learning_rate: None,
            gradient_norm: None,
            z_loss: None,
            router_aux_loss: None,
            router_z_loss: None,
            blocks: None,
            validation: Some(losses),
            bits_per_byte: Some(bits).filter(|bits| !bits.is_empty()),
        });
        Ok(())
    }

    fn one_step(&mut self) -> Result<()> {
        let Settings { batch_size, gradient_accumulation_steps, .. } = *self.settings;
        let (epoch, within) = (self.step / self.plan.steps_per_epoch, self.step % self.plan.steps_per_epoch);
        let order = self.mix.blend().pass(self.settings.seed, epoch);
        let mut drawn = BTreeMap::new();
        self.gradients.clear();
        let Settings { auxiliary, neftune_alpha, gradient_checkpointing, .. } = *self.settings;
        let mut mean = 0.0;
        let mut others = Auxiliary::default();
        for micro in 0..gradient_accumulation_steps {
            self.host.check()?;
            let first = (within * gradient_accumulation_steps as u64 + micro as u64) * batch_size as u64;
            let mut blocks = Vec::with_capacity(batch_size);
            for position in first..first + batch_size as u64 {
                let place = order.at(position);
                blocks.push(self.mix.block(place)?);
                *drawn.entry(self.mix.blend().shares()[place.share].name.clone()).or_default() += 1;
            }
            let batch = batch(&blocks, self.settings.ignored)?;
            let predictions = batch.predictions();
            if predictions == 0 {
                continue;
            }
            // The mean over the tokens of a micro-batch, and over the micro-batches, as transformers' Trainer.
            let factor = 1.0 / (predictions * gradient_accumulation_steps) as f32;
            let part = 1.0 / gradient_accumulation_steps as f64;
            let objective = Objective {
                predictions: LossFactors { sum: factor, z: auxiliary.z as f32 * factor },
                router: RouterLosses { balance: auxiliary.router.balance * part, z: auxiliary.router.z * part },
            };
            let pass = Pass::new(self.settings.seed, self.step * gradient_accumulation_steps as u64 + micro as u64);
            let losses = self.model.train(
                &batch,
                objective,
                pass,
                neftune_alpha,
                gradient_checkpointing,
                &self.gradients,
            )?;
            mean += losses.predictions.mean() * part;
            others.z += losses.predictions.mean_z() * part;
            others.router.balance += losses.router.balance * part;
            others.router.z += losses.router.z * part;
        }
        let norm = global_norm(&mut self.gradients)?;
        if !(mean.is_finite() && norm.is_finite()) {
            let (what, value) = if mean.is_finite() { ("the gradient's norm", norm) } else { ("the loss", mean) };
            return Err(self.diverged(what.to_owned(), value));
        }
        // A loss that does not enter the gradient is not noted.
        let noted = |coefficient: f64, value: f64| (coefficient > 0.0).then(|| figure(value));
        let factor = self.schedule.factor(self.step);
        let rate = factor * self.settings.learning_rate;
        let embedding_rate = self.settings.embedding_learning_rate.map(|peak| factor * peak);
        let scale = clipping(norm, self.settings.max_grad_norm);
        let rate_of = |name: &str| match embedding_rate {
            Some(rate) if is_embedding(name) => rate,
            _ => rate,
        };
        self.optimiser.step(&self.model.trained(), &mut self.gradients, scale, rate_of, self.step)?;
        self.step += 1;
        self.records.0.push(Record {
            step: self.step,
            loss: Some(figure(mean)),
            learning_rate: Some(figure(rate)),
            embedding_learning_rate: embedding_rate.map(figure),
            gradient_norm: Some(figure(norm)),
            z_loss: noted(auxiliary.z, others.z),
            router_aux_loss: noted(auxiliary.router.balance, others.router.balance),
            router_z_loss: noted(auxiliary.router.z, others.router.z),
            blocks: Some(drawn),
            validation: None,
            bits_per_byte: None,
        });
        Ok(())
    }

    /// The error for a number that is not finite. `step` is the one being made.
    fn diverged(&self, what: String, value: f64) -> Error {
        let saved = self.checkpoints.newest().map_or("there is no checkpoint before it".to_owned(), |step| {
            format!("the last checkpoint is that of step {step}")
        });
        Error::new(format!("{what} is {value} at step {} of {}; {saved}", self.step + 1, self.plan.steps))
            .hint("lower `learning_rate`, or lengthen the warm-up")
    }
}

/// Whether a parameter has a row for every token: the embedding and the output.
fn is_embedding(name: &str) -> bool {
    matches!(name, "model.embed_tokens.weight" | "lm_head.weight")
}

/// Seven digits, which is what float32 arithmetic gives: few enough to survive JSON exactly.
fn figure(value: f64) -> f64 {
    format!("{value:.6e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests;
