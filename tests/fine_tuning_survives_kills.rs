//! SIGKILL in the middle of fine-tuning, again and again: the adapter of an undisturbed run, to the byte. The mix is of
//! dialogues with padding, answers alone counting, and merges dropped anew each pass; with NEFTune and dropout.
//!
//! `CMX_KILLS` asks for another number of kills.

mod killed_stage;
mod workshop;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cmx::stages;
use killed_stage::{KilledStage, Random};
use serde_json::{Value, json};
use workshop::{Workshop, dataset};

const KILLS: u64 = 30;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The stage, and what it makes.
struct Stage(KilledStage);

impl Stage {
    fn new(folder: PathBuf, parameters: Value) -> Self {
        let kind = stages::kind("train").expect("a kind");
        let manifest: toml::Table = kind.manifest.parse().expect("a manifest");
        let mut all = serde_json::to_value(&manifest["parameters"]).expect("parameters");
        for (name, value) in parameters.as_object().expect("parameters") {
            match value {
                Value::Object(group) if all[name].is_object() => {
                    group.iter().for_each(|(key, value)| all[name][key] = value.clone());
                }
                _ => all[name] = value.clone(),
            }
        }
        let task = json!({
            "stage": "train", "kind": "train", "threads": 2, "parameters": all,
        });
        Self(KilledStage::new(folder, task))
    }

    fn finish(&self) -> BTreeMap<String, blake3::Hash> {
        self.0.finish();
        self.digests()
    }

    fn digests(&self) -> BTreeMap<String, blake3::Hash> {
        let mut digests = BTreeMap::new();
        let output = self.0.folder().join("output");
        for folder in [output.clone(), output.join("tensorboard")] {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_file() {
                    let name = path.file_name().expect("a name").to_string_lossy().into_owned();
                    digests.insert(name, blake3::hash(&std::fs::read(&path).expect("a file")));
                }
            }
        }
        digests
    }

    /// The steps of the newest checkpoint.
    fn saved(&self) -> u64 {
        let folder = self.0.folder().join("kept/checkpoints");
        let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
        names
            .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("step-")?.parse().ok())
            .max()
            .unwrap_or_default()
    }
}

/// Runs a stage and gives the folder that it wrote.
fn made(shop: &Workshop, kind: &str, parameters: Value) -> PathBuf {
    shop.run(kind, parameters).expect("a stage that runs");
    shop.output()
}

/// Dialogues of lengths from a few tokens to more than a block.
fn dialogues(count: usize) -> String {
    let line = |number: usize| {
        let turns: Vec<Value> = (0..1 + number % 3)
            .flat_map(|turn| {
                let question = format!("第{number}个问题，第{turn}次：{} 加 {turn}？", number * 7);
                let answer = format!("答案是 {}。", number * 7 + turn).repeat(1 + number % 5);
                [json!({"from": "human", "value": question}), json!({"from": "gpt", "value": answer})]
            })
            .collect();
        json!({ "conversations": turns }).to_string() + "\n"
    };
    (0..count).map(line).collect()
}

#[test]
fn kills_change_no_bit_of_the_adapter() {
    let kills = std::env::var("CMX_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    let [tokens, data, new] = [(); 3].map(|()| Workshop::new());
    let input = |from: &str, path: &Path| json!({"from": from, "path": path});
    let tokenizer = made(
        &tokens,
        "add-tokens",
        json!({
            "tokenizer": input("llama", &root("tests/golden/sentencepiece/llama.model")),
            "tokens": ["<|beginofutterance|>", "<|endofutterance|>"],
            "eos_token": "<|endofutterance|>",
            "chat_template": input("huozi", &root("pipelines/huozi3.jinja")),
        }),
    );
    data.write("talk-train.jsonl", dialogues(60));
    data.write("talk-dev.jsonl", dialogues(5));
    let encoded = made(
        &data,
        "encode",
        json!({
            "dataset": dataset("talk", Some("split"), Some(&data.input())),
            "tokenizer": input("@tokenizer", &tokenizer),
            "messages_field": "conversations", "loss": "answers", "packing": "none", "sequence_length": 96,
            "bpe_dropout": 0.2, "passes": 2,
        }),
    );
    let model = made(
        &new,
        "new-model",
        json!({
            "tokenizer": input("@tokenizer", &tokenizer), "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_local_experts": 4,
        }),
    );
    let talk = dataset("talk", Some("encoded"), Some(&encoded));
    let parameters = json!({
        "model": input("@new", &model), "mix": [{"amount": {"ratio": 1.5}, "dataset": talk}], "valid": [talk],
        "quantization": "nf4", "learning_rate": 2e-3, "epochs": 4, "batch_size": 3, "neftune_alpha": 5.0,
        "evaluation_steps": 9, "checkpoint_steps": 2, "lora": {"rank": 4, "alpha": 8.0},
    });

    let folder = tempfile::tempdir().expect("a folder");
    let undisturbed = Stage::new(folder.path().join("undisturbed"), parameters.clone());
    let clock = Instant::now();
    let expected = undisturbed.finish();
    let whole = clock.elapsed().as_millis() as u64;
    assert!(expected.contains_key("adapter_model.safetensors"), "{expected:?}");

    let killed = Stage::new(folder.path().join("killed"), parameters);
    let mut random = Random(20_261_128);
    let (mut made, mut in_the_middle, mut before) = (0, 0, 0);
    while made < kills {
        let (mut worker, _pipe) = killed.0.start();
        std::thread::sleep(Duration::from_millis(20 + random.below(whole / 4)));
        let ended = worker.try_wait().expect("a worker");
        worker.kill().expect("a kill");
        worker.wait().expect("an end");
        let saved = killed.saved();
        assert!(saved >= before, "the steps up to {before} were lost");
        match ended {
            None => {
                made += 1;
                in_the_middle += u64::from(saved > before);
                before = saved;
            }
            // It was done before the kill: once more from the beginning.
            Some(status) => {
                assert!(status.success());
                assert_eq!(killed.digests(), expected);
                killed.0.forget();
                before = 0;
            }
        }
    }
    assert!(
        in_the_middle >= kills / 3,
        "only {in_the_middle} of {kills} kills met a training that had got further"
    );
    assert_eq!(killed.finish(), expected);
}
