//! What trainings will take, before anything is downloaded or run: parameters, memory and time.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::mix::{Mix, TRAIN, size_of_folder};
use super::table;
use crate::error::{Context, Result};
use crate::model::{Config, Precision};
use crate::plan::{InputOrigin, Key, Node, Plan};
use crate::runner::display::{bytes, count, counted, seconds};
use crate::runner::{Assessment, State, host_memory};
use crate::stages::{self, Input, Known, Outlook, Prospect};
use crate::store::{Digest, Receipt, Store, host};
use crate::tokenizer::Tokenizer;
use crate::training::forecast::{self, Memory, Subject, Trained};
use crate::training::{Extent, Speed, calibrate};
use crate::weights::adapter::AdapterConfig;

/// What begins the reason why the time is not known.
const TIME: &str = "time: ";

/// What a training will take.
#[derive(Serialize)]
pub struct Forecast {
    pub stage: String,
    /// What is not known yet, and why.
    why: Vec<String>,
    steps: Option<u64>,
    tokens: Option<u64>,
    #[serde(flatten)]
    of_shape: Option<OfShape>,
    /// Absent until it was measured.
    time: Option<Time>,
    warnings: Vec<String>,
}

/// What the sizes of model and batch say.
#[derive(Serialize)]
struct OfShape {
    tokens_per_step: u64,
    parameters: Parameters,
    /// Bytes of the adapter, or of the trained model, as it is written and in half of that.
    on_disk: OnDisk,
    memory: Memory,
    memory_total: u64,
    /// Of the stage.
    threads: usize,
    #[serde(skip)]
    subject: Subject,
}

#[derive(Serialize)]
struct Parameters {
    adapter: u64,
    whole: u64,
}

#[derive(Serialize)]
struct OnDisk {
    float32: u64,
    bfloat16: u64,
}

#[derive(Serialize)]
struct Time {
    seconds_per_step: f64,
    /// Of the training; absent while its steps are not known.
    seconds: Option<f64>,
    from: String,
}

/// The forecasts of the trainings of a plan that will run, in run order. With `measure`, what is not known of this
/// machine's speed is measured.
pub fn forecasts(
    plan: &Plan,
    store: &Store,
    stages: &[Assessment],
    mixes: &[Mix],
    measure: bool,
) -> Result<Vec<Forecast>> {
    let stands = Stands {
        plan,
        store,
        states: stages.iter().map(|stage| (stage.name.as_str(), stage)).collect(),
        prospects: RefCell::default(),
    };
    let mut forecasts = Vec::new();
    for mix in mixes {
        let stage = &plan.graph[plan.node(&mix.stage)?];
        if stands.states[mix.stage.as_str()].state != State::Fresh {
            forecasts.push(forecast(stage, mix, &stands, measure)?);
        }
    }
    Ok(forecasts)
}

fn forecast(stage: &Node, mix: &Mix, stands: &Stands<'_>, measure: bool) -> Result<Forecast> {
    let extent: Extent = serde_json::from_value(stage.parameters.clone())
        .context(|| format!("the parameters of {} say not how long it trains", stage.name))?;
    let mut forecast = Forecast {
        stage: stage.name.clone(),
        why: Vec::new(),
        steps: mix.steps.or(extent.max_steps),
        tokens: mix.tokens,
        of_shape: None,
        time: None,
        warnings: Vec::new(),
    };
    if forecast.steps.is_none() {
        forecast.why.extend(mix.why.iter().map(|why| format!("steps: {why}")));
    }
    let subject = stands.length(stage).and_then(|length| {
        let kind = stages::kind(&stage.kind).ok_or_else(|| format!("there is no kind `{}`", stage.kind))?;
        let inputs = Inputs { stands, stage };
        kind.subject(&stands.plan.unresolved(stage), &inputs, length)
            .unwrap_or_else(|| Err("it trains nothing".into()))
    });
    let subject = match subject {
        Ok(subject) => subject,
        Err(why) => {
            forecast.why.push(format!("parameters and memory: {why}"));
            return Ok(forecast);
        }
    };
    let of_shape = OfShape::new(subject, extent.gradient_accumulation_steps, threads(stage));
    forecast.tokens = forecast.tokens.or(forecast.steps.map(|steps| steps * of_shape.tokens_per_step));
    forecast.warnings = of_shape.warnings(stage);
    match time(stage, &of_shape, &extent, stands, measure) {
        Ok(known) => {
            forecast.time = known.map(|(seconds_per_step, from)| Time {
                seconds_per_step,
                seconds: forecast.steps.map(|steps| steps as f64 * seconds_per_step),
                from,
            });
        }
        Err(error) => forecast.why.push(format!("{TIME}{}", error.one_line())),
    }
    forecast.of_shape = Some(of_shape);
    Ok(forecast)
}

/// Threads that a stage will have if it has all that it asks for.
fn threads(stage: &Node) -> usize {
    let all = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    match stage.resources.cpus {
        0 => all,
        cpus => cpus.min(all),
    }
}

/// Seconds of a step, and how that is known: from the stage's last run, if that trained the same, or measured.
fn time(
    stage: &Node,
    of_shape: &OfShape,
    extent: &Extent,
    stands: &Stands<'_>,
    measure: bool,
) -> Result<Option<(f64, String)>> {
    let receipt = stands.states[stage.name.as_str()].receipt.as_ref();
    if let Some(receipt) = receipt.filter(|receipt| is_alike(receipt, stage, of_shape))
        && let Some(speed) =
            receipt.metrics.get("tokens_per_second").and_then(Value::as_f64).filter(|speed| *speed > 0.0)
    {
        let Receipt { host, started, threads, .. } = receipt;
        let day = started.get(..10).unwrap_or_default();
        let threads = counted(*threads as u64, "thread");
        let from = format!("as its run of {day} on {host} with {threads}: {} tokens/s", count(speed as u64));
        return Ok(Some((of_shape.tokens_per_step as f64 / speed, from)));
    }
    let threads = of_shape.threads;
    let subject = serde_json::to_string(&of_shape.subject).context(|| "cannot name what is trained".to_owned())?;
    let name = format!("{subject} {} {threads} {}", host(), env!("CARGO_PKG_VERSION"));
    let name = Digest::of(name.as_bytes());
    let speed = match stands.store.calibration::<Speed>(name) {
        Some(speed) => speed,
        None if !measure => return Ok(None),
        None => {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let pool = pool.context(|| format!("cannot start {threads} threads"))?;
            let folder = stands.store.calibration_folder();
            let speed = pool.install(|| calibrate(&of_shape.subject, &folder, host_memory()))?;
            stands.store.set_calibration(name, &speed)?;
            speed
        }
    };
    let step = extent.gradient_accumulation_steps as f64 * speed.seconds_per_micro_batch + speed.seconds_per_update;
    let what = if speed.whole { "a few steps of it" } else { "one and two of its layers" };
    let from =
        format!("measured on {what} here with {}; evaluations not counted", counted(threads as u64, "thread"));
    Ok(Some((step, from)))
}

/// Whether a run trained a model of the same size in the same way.
fn is_alike(receipt: &Receipt, stage: &Node, of_shape: &OfShape) -> bool {
    let Ok(key) = serde_json::from_value::<Key>(receipt.key.clone()) else { return false };
    let trained = receipt.metrics.get("trained_parameters").and_then(Value::as_u64);
    let Parameters { adapter, whole } = of_shape.parameters;
    let same = [
        "batch_size",
        "gradient_accumulation_steps",
        "gradient_checkpointing",
        "method",
        "precision",
        "quantization",
    ]
    .iter()
    .all(|name| key.items.iter().any(|item| item.name == *name && Some(&item.value) == stage.parameters.get(name)));
    same && trained == Some(adapter + whole)
}

impl OfShape {
    fn new(subject: Subject, accumulation: usize, threads: usize) -> Self {
        let forecast::Forecast { adapter_parameters: adapter, whole_parameters: whole, memory, .. } =
            subject.forecast(threads);
        let written = adapter + whole;
        Self {
            tokens_per_step: (subject.sequences * subject.length * accumulation) as u64,
            parameters: Parameters { adapter, whole },
            on_disk: OnDisk { float32: 4 * written, bfloat16: 2 * written },
            memory,
            memory_total: memory.total(),
            threads,
            subject,
        }
    }

    /// What is asked for and what is there, held against the forecast.
    fn warnings(&self, stage: &Node) -> Vec<String> {
        let mut warnings = Vec::new();
        let (needed, asked, there) = (self.memory_total, stage.resources.memory, host_memory());
        if needed > there {
            let mut warning = format!("{} needs {}, and this host has {}", stage.name, bytes(needed), bytes(there));
            warning += &self.advice(there).map_or(String::new(), |advice| format!(": {advice}"));
            warnings.push(warning);
        } else if needed > asked {
            warnings.push(format!(
                "{} needs {}, and its `resources.memory` is {}: other stages may take what it lacks; set {}",
                stage.name,
                bytes(needed),
                bytes(asked),
                in_gib(needed)
            ));
        }
        warnings
    }

    /// The change of parameters, none of which alters what is learnt but the packing, that needs less; those that do not
    /// suffice together are all named.
    fn advice(&self, there: u64) -> Option<String> {
        let (mut subject, threads) = (self.subject.clone(), self.threads);
        let mut changes = Vec::new();
        let total = |subject: &Subject| subject.forecast(threads).memory.total();
        if !subject.recompute {
            subject.recompute = true;
            changes.push("`gradient_checkpointing = true`".to_owned());
        }
        if total(&subject) > there && subject.sequences > 1 {
            let least = (1..=subject.sequences).rev().find(|&sequences| {
                self.subject.sequences.is_multiple_of(sequences)
                    && total(&Subject { sequences, ..subject.clone() }) <= there
            });
            let factor = self.subject.sequences / least.unwrap_or(1);
            subject.sequences = least.unwrap_or(1);
            changes.push(format!(
                "`batch_size = {}` and {factor} times the `gradient_accumulation_steps`",
                subject.sequences
            ));
        }
        if total(&subject) > there && subject.precision == Precision::Float32 {
            subject.precision = Precision::Bfloat16;
            changes.push("`precision = \"bfloat16\"`".to_owned());
        }
        let packs = !subject.packed && !subject.config.packed && subject.trained != Trained::All;
        if total(&subject) > there && packs {
            subject.packed = true;
            changes.push("`quantization = \"nf4\"`".to_owned());
        }
        let needed = total(&subject);
        let changes = changes.join(" and ");
        (needed < self.memory_total).then(|| format!("with {changes} it would need {}", bytes(needed)))
    }
}

/// A size for `resources.memory` that holds these bytes.
fn in_gib(needed: u64) -> String {
    format!("\"{} GiB\"", needed.div_ceil(1 << 30))
}

impl Forecast {
    /// The text that `cmx plan` shows.
    pub fn show(&self) -> String {
        let mut text = format!("forecast of {}\n", self.stage);
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| rows.push(vec![format!("  {name}"), value]);
        if let Some(steps) = self.steps {
            let tokens = self.tokens.map_or(String::new(), |tokens| format!(", {}", counted(tokens, "token")));
            row("run", counted(steps, "step") + &tokens);
        }
        if let Some(of_shape) = &self.of_shape {
            let OfShape { parameters: Parameters { adapter, whole }, on_disk, memory, .. } = of_shape;
            row("a step", counted(of_shape.tokens_per_step, "token"));
            let trained = match &of_shape.subject.trained {
                Trained::All => format!("{}, all", count(*whole)),
                Trained::Adapters { modules_to_save, .. } => {
                    let saved = match modules_to_save.is_empty() {
                        true => String::new(),
                        false => format!(" + {} of {}", count(*whole), modules_to_save.join(" and ")),
                    };
                    format!("{}: {} of adapters{saved}", count(adapter + whole), count(*adapter))
                }
            };
            row("trained parameters", trained);
            let what = if of_shape.subject.trained == Trained::All { "model on disk" } else { "adapter on disk" };
            let OnDisk { float32, bfloat16 } = *on_disk;
            row(what, format!("{} in float32, as it is written; {} in bfloat16", bytes(float32), bytes(bfloat16)));
            for (name, amount) in memory.terms() {
                row(name, bytes(amount));
            }
            row("memory in all", bytes(of_shape.memory_total));
        }
        if let Some(Time { seconds_per_step, seconds: all, from }) = &self.time {
            let all = all.map_or(String::new(), |all| format!("{} in all, ", seconds(all)));
            row("time", format!("{all}{} a step ({from})", seconds(*seconds_per_step)));
        } else if self.of_shape.is_some() && !self.why.iter().any(|why| why.starts_with(TIME)) {
            row("time", "not known: `cmx plan --calibrate` measures it".to_owned());
        }
        // The header of the table is empty.
        text += table(&["", ""], rows.into_iter()).trim_start_matches('\n');
        for why in &self.why {
            text += &format!("  {why}\n");
        }
        for warning in &self.warnings {
            text += &format!("  warning: {warning}\n");
        }
        text
    }
}

/// The stages of a plan, and what they have made or will make.
struct Stands<'a> {
    plan: &'a Plan,
    store: &'a Store,
    states: BTreeMap<&'a str, &'a Assessment>,
    prospects: RefCell<BTreeMap<String, Prospect>>,
}

impl Stands<'_> {
    /// The artifact of a stage that need not run.
    fn artifact(&self, stage: &Node) -> Option<PathBuf> {
        let Assessment { state, receipt, .. } = self.states[stage.name.as_str()];
        let receipt = receipt.as_ref().filter(|_| *state == State::Fresh)?;
        Some(self.store.artifact_path(receipt.artifact))
    }

    /// What a stage that will run will make.
    fn prospect(&self, stage: &Node) -> Prospect {
        if let Some(known) = self.prospects.borrow().get(&stage.name) {
            return known.clone();
        }
        let prospect = match &stage.expect {
            Some(config) => Prospect::model(Config::read(config).map_err(|error| error.one_line())),
            None => stages::kind(&stage.kind)
                .and_then(|kind| kind.prospect(&self.plan.unresolved(stage), &Inputs { stands: self, stage }))
                .unwrap_or_else(|| Prospect::unknown(&unknown(stage))),
        };
        self.prospects.borrow_mut().insert(stage.name.clone(), prospect.clone());
        prospect
    }

    /// Tokens of the blocks that a stage trains on.
    fn length(&self, stage: &Node) -> Known<usize> {
        let mut why = "it trains on nothing".to_owned();
        for share in self.plan.shares(stage) {
            let folder = share.encoded.get(TRAIN).map_or("", String::as_str);
            let known = match share.provider {
                None => read(&share.root.join(folder)),
                Some(provider) => match self.artifact(provider) {
                    Some(artifact) => read(&artifact.join(folder)),
                    None => self.prospect(provider).sequence_length,
                },
            };
            match known {
                Ok(length) => return Ok(length),
                Err(unknown) => why = unknown,
            }
        }
        Err(why)
    }
}

fn read(folder: &Path) -> Known<usize> {
    size_of_folder(folder).map(|(_, length)| length).map_err(|error| error.one_line())
}

fn unknown(stage: &Node) -> String {
    let name = &stage.name;
    match stage.kind.as_str() {
        "download" => format!(
            "not known until `{name}` has run; `expect` in [stage.{}] can name the model's config.json",
            stage.stage
        ),
        _ => format!("not known until `{name}` has run"),
    }
}

/// The inputs of a stage, there or not.
struct Inputs<'a> {
    stands: &'a Stands<'a>,
    stage: &'a Node,
}

impl Inputs<'_> {
    /// A fact of an input: `open` finds it where the input lies, `later` in what is to be expected.
    fn look<T>(
        &self,
        input: &Input,
        open: impl Fn(&Path) -> Result<T>,
        later: impl Fn(Prospect) -> Known<T>,
    ) -> Known<T> {
        let opened = |path: &Path| open(path).map_err(|error| error.one_line());
        match self.stands.plan.origin(self.stage, &input.from) {
            Some(InputOrigin::Source(path)) => opened(&path),
            Some(InputOrigin::Stage(stage, part)) => match self.stands.artifact(stage) {
                Some(artifact) => opened(&part.map_or(artifact.clone(), |part| artifact.join(part))),
                None => later(self.stands.prospect(stage)),
            },
            None => Err(format!("`{}` is not an input", input.from)),
        }
    }
}

impl Outlook for Inputs<'_> {
    fn model(&self, input: &Input) -> Known<Config> {
        self.look(input, Config::open, |prospect| prospect.model)
    }

    fn adapter(&self, input: &Input) -> Known<AdapterConfig> {
        self.look(input, AdapterConfig::in_folder, |prospect| prospect.adapter)
    }

    fn vocabulary(&self, input: &Input) -> Known<usize> {
        self.look(input, |path| Ok(Tokenizer::open(path)?.vocab_size()), |prospect| prospect.vocabulary)
    }
}
