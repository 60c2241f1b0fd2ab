//! The stage from its parameters to its artifact.

use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::corpus::{BlockWriter, Layout, Row};
use crate::model::fixture::{tiny_config, write_model};
use crate::weights::Checkpoint;
use crate::weights::adapter::Adapter;

struct Fixture {
    folder: TempDir,
    model: std::path::PathBuf,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("model")).unwrap();
        write_model(&at("model"), &tiny_config());
        std::fs::write(at("model/tokenizer_config.json"), "{}").unwrap();
        for (split, rows) in [("train", 30), ("dev", 3)] {
            let layout = Layout::compact(40, 10);
            let mut writer = BlockWriter::create(&at(&format!("encoded-toy-{split}")), &layout).unwrap();
            for row in 0..rows {
                let ids: Vec<u32> = (0..10).map(|i| (row + i) % 40).collect();
                writer.push(&Row::full(&ids, &[])).unwrap();
            }
            writer.finish(&layout).unwrap();
        }
        Self { model: folder.path().join("model"), folder }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// The shipped defaults with these changes.
    fn parameters(&self, changes: Value) -> Value {
        let manifest: toml::Table = toml::from_str(include_str!("../../../stages/train.toml")).unwrap();
        let mut parameters = serde_json::to_value(&manifest["parameters"]).unwrap();
        let dataset = json!({
            "name": "toy", "form": "encoded", "path": self.folder.path(), "doc": {},
            "encoded": {"train": "encoded-toy-train", "dev": "encoded-toy-dev"},
            "source": {"repo": null, "revision": null, "include": [], "exclude": [], "urls": [], "task": null}
        });
        parameters["model"] = json!({"from": "@expand", "path": self.model});
        parameters["mix"] = json!([{"amount": {"ratio": 1.0}, "dataset": dataset}]);
        parameters["valid"] = json!([dataset]);
        parameters["max_steps"] = 4.into();
        parameters["batch_size"] = 2.into();
        parameters["learning_rate"] = 1e-3.into();
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::Object(group) => group.iter().for_each(|(key, v)| parameters[name][key] = v.clone()),
                _ => parameters[name] = value.clone(),
            }
        }
        parameters
    }

    fn run(&self, name: &str, changes: Value) -> Result<std::path::PathBuf> {
        let (output, scratch) = (self.path(name), self.path(&format!("{name}-scratch")));
        for folder in [&output, &scratch] {
            std::fs::create_dir(folder).unwrap();
        }
        let mut work = Work::new(output.clone(), scratch, 1, Box::new(std::io::sink()), Arc::default());
        crate::stages::kind("train").unwrap().run(self.parameters(changes), &mut work)?;
        Ok(output)
    }
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()))
        .collect();
    all.sort();
    all
}

#[test]
fn lora_gives_an_adapter_as_peft_names_it() {
    let fixture = Fixture::new();
    let changes = json!({"lora": {"rank": 4, "alpha": 8.0}});
    let output = fixture.run("adapter", changes.clone()).unwrap();
    let adapter = Adapter::open(&output).unwrap();
    // A and B of 4 + 4·3 linear layers in 3 layers, embedding and head.
    assert_eq!(adapter.names().len(), 3 * 16 * 2 + 2);
    let name = "base_model.model.model.layers.2.block_sparse_moe.experts.3.w2.lora_A.weight";
    assert_eq!(adapter.shape(name).unwrap(), [4, 24]);
    let embedding = adapter.tensor("base_model.model.model.embed_tokens.weight", &Device::Cpu).unwrap();
    let base = Checkpoint::open(&fixture.path("model")).unwrap();
    let before = base.tensor("model.embed_tokens.weight", &Device::Cpu).unwrap();
    assert_ne!(embedding.to_vec2::<f32>().unwrap(), before.to_vec2::<f32>().unwrap());
    let names: Vec<String> = files(&output).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["adapter_config.json", "adapter_model.safetensors", "metrics.jsonl"]);
    let metrics = std::fs::read_to_string(output.join("metrics.jsonl")).unwrap();
    let lines: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 4 + 2);
    assert_eq!(lines[1]["learning_rate"], 0.0);
    assert!(lines[0]["validation"]["toy"].as_f64().unwrap() > lines[5]["validation"]["toy"].as_f64().unwrap());
    let again = fixture.run("again", changes).unwrap();
    assert!(files(&output) == files(&again));
    assert!(files(&output.join("tensorboard")) == files(&again.join("tensorboard")));
}

#[test]
fn adapters_train_on_packed_weights() {
    let fixture = Fixture::new();
    let output = fixture.run("packed", json!({"quantization": "nf4"})).unwrap();
    assert_eq!(Adapter::open(&output).unwrap().names().len(), 3 * 16 * 2 + 2);
    let plain = fixture.run("plain", json!({})).unwrap();
    assert!(files(&output) != files(&plain));
    let error = fixture.run("full", json!({"quantization": "nf4", "method": "full"})).unwrap_err();
    assert_eq!(error.message(), "weights packed to NF4 cannot be trained");
}

#[test]
fn an_adapter_is_trained_further() {
    let fixture = Fixture::new();
    let first = fixture.run("first", json!({"lora": {"rank": 4, "alpha": 8.0, "dropout": 0.1}})).unwrap();
    let adapter = json!({"from": "@first", "path": first});
    // What `lora` says has no part in it.
    let run = |name: &str, rate: f64| {
        fixture.run(name, json!({"learning_rate": rate, "lora": {"rank": 3}, "adapter": adapter})).unwrap()
    };
    let weights = |folder: &Path| {
        let mut all = files(folder);
        all.retain(|(name, _)| name.starts_with("adapter"));
        all
    };
    assert!(weights(&run("still", 0.0)) == weights(&first));
    let further = run("further", 1e-3);
    assert!(weights(&further) != weights(&first));
    assert_eq!(Adapter::open(&further).unwrap().config, Adapter::open(&first).unwrap().config);
    let loss = |folder: &Path, line: usize| {
        let metrics = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
        let record: Value = serde_json::from_str(metrics.lines().nth(line).unwrap()).unwrap();
        record["validation"]["toy"].as_f64().unwrap()
    };
    assert_eq!(loss(&further, 0), loss(&first, 5), "it begins where the other ended");
    let error = fixture.run("full", json!({"method": "full", "adapter": adapter})).unwrap_err();
    assert_eq!(error.message(), "training all parameters cannot go on with an adapter");
}

#[test]
fn losses_beside_the_cross_entropy_are_noted() {
    let fixture = Fixture::new();
    let changes = json!({"router_aux_loss": 0.02, "z_loss": 1e-4});
    let output = fixture.run("losses", changes).unwrap();
    let metrics = std::fs::read_to_string(output.join("metrics.jsonl")).unwrap();
    let step: Value = serde_json::from_str(metrics.lines().nth(1).unwrap()).unwrap();
    // About the two experts of a token.
    assert!(step["router_aux_loss"].as_f64().unwrap() > 1.0 && step["z_loss"].as_f64().unwrap() > 0.0, "{step}");
    assert!(step.get("router_z_loss").is_none());
    let events = std::fs::read(output.join("tensorboard").join(tensorboard::FILE)).unwrap();
    let has = |tag: &[u8]| events.windows(tag.len()).any(|window| window == tag);
    assert!(has(b"train/router_aux_loss") && has(b"train/z_loss") && !has(b"train/router_z_loss"));
}

#[test]
fn embedding_and_output_have_a_rate_of_their_own() {
    let fixture = Fixture::new();
    let changes =
        json!({"embedding_learning_rate": 0.0, "lora": {"modules_to_save": ["embed_tokens", "lm_head", "norm"]}});
    let adapter = Adapter::open(&fixture.run("adapter", changes).unwrap()).unwrap();
    let base = Checkpoint::open(&fixture.path("model")).unwrap();
    for (name, changes) in [("model.embed_tokens", false), ("lm_head", false), ("model.norm", true)] {
        let before = base.tensor(&format!("{name}.weight"), &Device::Cpu).unwrap();
        let after = adapter.tensor(&format!("base_model.model.{name}.weight"), &Device::Cpu).unwrap();
        let flat = |tensor: Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(flat(before) != flat(after), changes, "{name}");
    }
    let metrics = std::fs::read_to_string(fixture.path("adapter/metrics.jsonl")).unwrap();
    let last: Value = serde_json::from_str(metrics.lines().rev().nth(1).unwrap()).unwrap();
    assert_eq!(last["embedding_learning_rate"], 0.0);
    assert!(last["learning_rate"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_model_that_is_packed_already_is_trained_as_if_packed_here() {
    let mut fixture = Fixture::new();
    let output = fixture.path("exported");
    std::fs::create_dir(&output).unwrap();
    let parameters = json!({
        "model": {"from": "@expand", "path": fixture.path("model")},
        "block_size": 64, "double_quant": false, "compute_dtype": "float32"
    });
    let mut work = Work::new(output.clone(), fixture.path("none"), 1, Box::new(std::io::sink()), Arc::default());
    crate::stages::kind("export").unwrap().run(parameters, &mut work).unwrap();
    let here = fixture.run("here", json!({"quantization": "nf4"})).unwrap();
    fixture.model = output;
    let there = fixture.run("there", json!({})).unwrap();
    assert!(files(&here) == files(&there));
    let error = fixture.run("full", json!({"method": "full"})).unwrap_err();
    assert!(error.message().contains("packed weights cannot be trained"), "{error:?}");
}

#[test]
fn full_gives_a_model_folder() {
    let fixture = Fixture::new();
    let output = fixture.run("full", json!({"method": "full"})).unwrap();
    Mixtral::open(&output, &Device::Cpu).unwrap();
    let names: Vec<String> = files(&output).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["config.json", "metrics.jsonl", "model.safetensors", "tokenizer_config.json"]);
}

#[test]
fn the_end_token_counts_unless_as_published() {
    let fixture = Fixture::new();
    let path = fixture.path("model/config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["eos_token_id"] = 5.into();
    std::fs::write(&path, config.to_string()).unwrap();
    let clean = fixture.run("clean", json!({})).unwrap();
    let published = fixture.run("published", json!({"recipe": "as-published"})).unwrap();
    assert!(files(&clean) != files(&published));
}

#[test]
fn wrong_parameters_are_named() {
    let fixture = Fixture::new();
    for (number, (changes, message, hint)) in [
        (
            json!({"lora": {"target_modules": ["q_porj"]}}),
            "`lora.target_modules`: the model has no module `q_porj`",
            "did you mean `q_proj`?",
        ),
        (
            json!({"lora": {"target_modules": ["lm_head"]}}),
            "`lora.target_modules`: `lm_head` cannot have an adapter",
            "put `lm_head` in `lora.modules_to_save`, which trains it whole",
        ),
        (
            json!({"scheduler": "linear", "min_lr_ratio": 0.1}),
            "`min_lr_ratio` is 0.1, but this scheduler has no floor",
            "set `scheduler` to \"cosine\" or \"warmup_stable_decay\", or leave `min_lr_ratio` out",
        ),
        (json!({"warmup_ratio": 1.5}), "`warmup_ratio` is 1.5; it must be between 0 and 1", ""),
        (json!({"lora": {"rank": 0}}), "`lora.rank` is 0; it must be at least 1", ""),
        (
            json!({"batch_size": 100}),
            "the mix has 30 blocks, fewer than one step takes (100)",
            "lower `batch_size` or `gradient_accumulation_steps`, or raise the ratios of the mix",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let error = fixture.run(&format!("wrong{number}"), changes).unwrap_err();
        assert_eq!((error.message(), error.advice().unwrap_or_default()), (message, hint));
    }
}
