//! The loop on a tiny model and a toy corpus: it learns, it resumes to the bit, it says what went wrong.

use std::cell::Cell;

use candle_core::Device;
use tempfile::TempDir;

use super::*;
use crate::corpus::mix::Amount;
use crate::corpus::{BlockWriter, Layout, Row};
use crate::model::fixture::{tiny_config, write_model};
use crate::model::{Precision, Storage};
use crate::training::Scheduler;

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
