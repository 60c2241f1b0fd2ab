//! The loop on a tiny model and a toy corpus: it learns, it resumes to the bit, it says what went wrong.

use std::cell::Cell;

use candle_core::Device;
use tempfile::TempDir;

use super::*;
use crate::corpus::mix::Amount;
use crate::corpus::{BlockWriter, Layout, Row};
use crate::model::fixture::{golden_adapter, golden_block, tiny_config, write_adapter, write_model};
use crate::model::{Precision, Storage};
use crate::training::Scheduler;
use crate::weights::adapter::Adapter;

/// A model folder, token blocks, and room for checkpoints.
struct Fixture {
    folder: TempDir,
    precision: Precision,
}

/// Stops the run when the check is asked for the n-th time.
struct StopAt {
    checks: Cell<u64>,
    at: Option<u64>,
}

impl Host for StopAt {
    fn check(&self) -> Result<()> {
        self.checks.set(self.checks.get() + 1);
        if self.at.is_some_and(|at| self.checks.get() >= at) { Err(Error::interrupted()) } else { Ok(()) }
    }
    fn step(&self, _: u64) {}
    fn info(&self, _: String) {}
    fn warn(&self, text: String) {
        println!("{text}");
    }
}

fn host(at: Option<u64>) -> StopAt {
    StopAt { checks: Cell::new(0), at }
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("model")).unwrap();
        write_model(&folder.path().join("model"), &tiny_config());
        for (name, rows) in [("train", 40), ("dev", 5)] {
            let layout = Layout::compact(40, 12);
            let mut writer = BlockWriter::create(&folder.path().join(name), &layout).unwrap();
            for row in 0..rows {
                // Counting in steps of 1, 2 or 3: easy to learn.
                let ids: Vec<u32> = (0..12).map(|i| (row * 7 + i * (1 + row % 3)) % 40).collect();
                writer.push(&Row::full(&ids, &[])).unwrap();
            }
            writer.finish(&layout).unwrap();
        }
        Self { folder, precision: Precision::Float32 }
    }

    fn blocks(&self, name: &str) -> Blocks {
        Blocks::open(&self.folder.path().join(name)).unwrap()
    }

    fn model(&self, lora: bool) -> Mixtral {
        let precision = self.precision;
        let storage = |module: &str| match precision {
            Precision::Bfloat16 if lora && module != "lm_head" => Storage::Bfloat16,
            _ => Storage::Float32,
        };
        let mut model = Mixtral::open_as(&self.folder.path().join("model"), &Device::Cpu, storage).unwrap();
        model.set_precision(precision);
        if lora {
            model.add_adapters(4, 8.0, 0.1, 5, |module| !module.ends_with("gate")).unwrap();
            model.train_only(|name| name.contains("lora_") || name.contains("embed") || name.contains("lm_head"));
        } else {
            model.train_only(|_| true);
        }
        model
    }

    /// Runs in `scratch`; what came out: bytes of every trained weight, and the records.
    fn run(
        &self,
        lora: bool,
        settings: &Settings,
        scratch: &Path,
        host: &StopAt,
    ) -> Result<(Vec<Vec<f32>>, String)> {
        let model = self.model(lora);
        let mix = Mix::new(vec![("toy".into(), vec![self.blocks("train")], Amount::Ratio(1.5))]).unwrap();
        let validation = [Validation { name: "toy".into(), blocks: self.blocks("dev"), bytes: None }];
        let report = train(&model, &mix, &validation, settings, scratch, host)?;
        let weights = model.trained().iter().map(|p| p.value.flatten_all().unwrap().to_vec1().unwrap()).collect();
        Ok((weights, report.records.to_jsonl()?))
    }
}

fn settings() -> Settings {
    Settings {
        epochs: 1.0,
        max_steps: Some(12),
        batch_size: 3,
        gradient_accumulation_steps: 2,
        learning_rate: 1e-2,
        embedding_learning_rate: Some(5e-3),
        schedule: Shape { scheduler: Scheduler::Cosine, warmup_ratio: 0.1, decay_ratio: 0.1, min_lr_ratio: 0.1 },
        adam: Adam { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.01 },
        max_grad_norm: 1.0,
        evaluation_steps: 5,
        checkpoint_steps: 4,
        keep_checkpoints: 2,
        seed: 42,
        neftune_alpha: 5.0,
        auxiliary: Auxiliary { z: 1e-4, router: RouterLosses { balance: 1e-2, z: 1e-3 } },
        gradient_checkpointing: false,
        ignored: None,
    }
}

#[test]
fn a_run_stopped_anywhere_and_continued_ends_with_the_same_bits() {
    for (lora, precision) in [(true, Precision::Float32), (false, Precision::Float32), (true, Precision::Bfloat16)]
    {
        let fixture = Fixture { precision, ..Fixture::new() };
        let scratch = tempfile::tempdir().unwrap();
        let whole = fixture.run(lora, &settings(), scratch.path(), &host(None)).unwrap();
        for every in [1, 3, 8, 17] {
            let scratch = tempfile::tempdir().unwrap();
            let mut attempts = 0;
            let resumed = loop {
                // Stops within evaluations and between micro-batches; later each time, so that it ends.
                attempts += 1;
                match fixture.run(lora, &settings(), scratch.path(), &host(Some(every * attempts))) {
                    Ok(result) => break result,
                    Err(error) => assert!(error.is_interruption(), "{error:?}"),
                }
            };
            assert!(attempts > 1);
            assert!(whole == resumed, "stopped every {every} checks");
        }
    }
}

#[test]
fn a_run_killed_without_warning_continues_from_the_last_checkpoint() {
    let fixture = Fixture::new();
    let scratch = tempfile::tempdir().unwrap();
    let whole = fixture.run(true, &settings(), scratch.path(), &host(None)).unwrap();
    // As after a kill: checkpoints of steps 4 and 8, and an unfinished one.
    let folder = scratch.path().join("checkpoints");
    std::fs::create_dir(folder.join(".unfinished")).unwrap();
    std::fs::write(folder.join(".unfinished/state.json"), "{").unwrap();
    let steps = || {
        let mut names: Vec<_> =
            std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(steps(), [".unfinished", "step-00000004", "step-00000008"]);
    assert!(whole == fixture.run(true, &settings(), scratch.path(), &host(None)).unwrap());
    // A damaged checkpoint is passed over.
    let path = folder.join("step-00000008/state.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert!(whole == fixture.run(true, &settings(), scratch.path(), &host(None)).unwrap());
}

#[test]
fn thread_counts_and_recomputation_change_no_bit() {
    for precision in [Precision::Float32, Precision::Bfloat16] {
        let fixture = Fixture { precision, ..Fixture::new() };
        let run = |threads: usize, gradient_checkpointing: bool| {
            let settings = Settings { gradient_checkpointing, ..settings() };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let scratch = tempfile::tempdir().unwrap();
            // The pool runs a `Send` closure: everything else is made inside.
            let path = scratch.path().to_owned();
            pool.install(|| fixture.run(true, &settings, &path, &host(None)).unwrap())
        };
        let one = run(1, false);
        assert!(one == run(2, false) && one == run(3, false) && one == run(2, true));
    }
}

/// The course of `tests/golden/mixtral.py`: PEFT's model and torch's AdamW on the same blocks.
#[test]
fn fifty_steps_are_those_of_peft() {
    let golden = golden_adapter();
    let number = |group: &str, name: &str| golden[group][name].as_f64().unwrap();
    let (steps, batch_size) = (number("training", "steps") as u64, number("training", "batch_size") as usize);
    let settings = Settings {
        max_steps: Some(steps),
        batch_size,
        gradient_accumulation_steps: 1,
        learning_rate: number("training", "learning_rate"),
        embedding_learning_rate: None,
        schedule: Shape {
            scheduler: Scheduler::Cosine,
            warmup_ratio: number("training", "warmup_ratio"),
            decay_ratio: 0.0,
            min_lr_ratio: 0.0,
        },
        adam: Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: number("training", "weight_decay") },
        max_grad_norm: number("training", "max_grad_norm"),
        neftune_alpha: 0.0,
        auxiliary: Auxiliary {
            z: number("coefficients", "z_loss"),
            router: RouterLosses {
                balance: number("coefficients", "router_aux_loss"),
                z: number("coefficients", "router_z_loss"),
            },
        },
        ..settings()
    };

    // The blocks lie in the dataset so that the order of the run is that of the script.
    let fixture = Fixture::new();
    let folder = |name: &str| fixture.folder.path().join(name);
    let count = steps * batch_size as u64;
    let share = crate::training::Share {
        name: "counting".into(),
        available: count,
        length: 12,
        amount: Amount::Ratio(1.0),
    };
    let blend = crate::training::Blend::new(vec![share]).unwrap();
    let order = blend.pass(settings.seed, 0);
    let mut rows = vec![Vec::new(); count as usize];
    for position in 0..count {
        rows[order.at(position).row as usize] = golden_block(position as u32);
    }
    let layout = Layout::compact(40, 12);
    let mut writer = BlockWriter::create(&folder("counting"), &layout).unwrap();
    rows.iter().for_each(|row| drop(writer.push(&Row::full(row, &[])).unwrap()));
    writer.finish(&layout).unwrap();

    let mut model = fixture.model(false);
    std::fs::create_dir(folder("adapter")).unwrap();
    write_adapter(&folder("adapter"), &mut model);
    model.continue_adapter(&Adapter::open(&folder("adapter")).unwrap(), settings.seed).unwrap();
    let mix = Mix::new(vec![("counting".into(), vec![fixture.blocks("counting")], Amount::Ratio(1.0))]).unwrap();
    let report = train(&model, &mix, &[], &settings, &folder("scratch"), &host(None)).unwrap();

    let course = golden["course"].as_array().unwrap();
    assert_eq!(report.records.0.len(), course.len());
    for (record, golden) in report.records.0.iter().zip(course) {
        let ours = [record.loss, record.z_loss, record.router_aux_loss, record.router_z_loss, record.gradient_norm];
        for (place, ours) in ours.into_iter().enumerate() {
            let (ours, theirs) = (ours.unwrap(), golden[place].as_f64().unwrap());
            let bound = if place == 0 { 1e-4 } else { 1e-3 * theirs };
            assert!((ours - theirs).abs() <= bound, "step {}, {place}: {ours} {theirs}", record.step);
        }
    }
    assert!(course[49][0].as_f64() < Some(3.9), "the loss falls: {}", course[49]);
}

#[test]
fn the_loss_falls() {
    let fixture = Fixture::new();
    for lora in [true, false] {
        let scratch = tempfile::tempdir().unwrap();
        let settings =
            Settings { max_steps: Some(80), neftune_alpha: 0.0, embedding_learning_rate: None, ..settings() };
        let model = fixture.model(lora);
        let mix = Mix::new(vec![("toy".into(), vec![fixture.blocks("train")], Amount::Ratio(1.0))]).unwrap();
        let validation = [Validation { name: "toy".into(), blocks: fixture.blocks("dev"), bytes: None }];
        let report = train(&model, &mix, &validation, &settings, scratch.path(), &host(None)).unwrap();
        let losses: Vec<f64> = report.records.evaluations().map(|(_, losses)| losses["toy"]).collect();
        assert!(losses[0] > 3.0 && losses[losses.len() - 1] < 1.6, "{losses:?}");
        assert_eq!(report.plan, Plan { blocks_per_step: 6, steps_per_epoch: 6, steps: 80, tokens: 80 * 6 * 12 });
    }
}

#[test]
fn a_loss_that_is_not_finite_names_the_step_and_the_checkpoint() {
    let fixture = Fixture::new();
    let scratch = tempfile::tempdir().unwrap();
    let settings = Settings {
        learning_rate: 1e30,
        schedule: Shape { scheduler: Scheduler::Constant, ..settings().schedule },
        max_grad_norm: 0.0,
        checkpoint_steps: 1,
        evaluation_steps: 0,
        ..settings()
    };
    let error = fixture.run(false, &settings, scratch.path(), &host(None)).unwrap_err();
    assert!(
        error.message().ends_with("at step 2 of 12; the last checkpoint is that of step 1"),
        "{}",
        error.message()
    );
}

#[test]
fn a_checkpoint_of_another_run_is_an_error() {
    let fixture = Fixture::new();
    let scratch = tempfile::tempdir().unwrap();
    fixture.run(true, &settings(), scratch.path(), &host(Some(20))).unwrap_err();
    let error = fixture.run(true, &Settings { seed: 1, ..settings() }, scratch.path(), &host(None)).unwrap_err();
    assert!(error.message().ends_with("belongs to another run"), "{}", error.message());
}

#[test]
fn too_little_data_and_no_steps_are_errors() {
    let fixture = Fixture::new();
    let mix = Mix::new(vec![("toy".into(), vec![fixture.blocks("train")], Amount::Ratio(0.1))]).unwrap();
    let error = Plan::new(mix.blend(), &settings().extent()).unwrap_err();
    assert_eq!(error.message(), "the mix has 4 blocks, fewer than one step takes (6)");
    let mix = Mix::new(vec![("toy".into(), vec![fixture.blocks("train")], Amount::Ratio(1.0))]).unwrap();
    let plan = |epochs| Plan::new(mix.blend(), &Extent { max_steps: None, epochs, ..settings().extent() });
    assert!(plan(0.0).is_err());
    assert_eq!(plan(2.5).unwrap().steps, 15);
}
