//! Real data end to end: `stories-moe`, a small model that speaks English, learns Chinese from real books.

mod support;

use std::fs;
use std::path::Path;

use serde_json::Value;
use support::{Project, shared_data};

const REGISTRY: &str = r#"
[books]
root = "corpora/books"

[python-docs]
root = "corpora/python-docs"

[gsm8k]
root = "corpora/gsm8k"

[cmmlu]
root = "{SHARED}/eval/cmmlu"
task = "cmmlu"

[mmlu]
root = "{SHARED}/eval/mmlu"
task = "mmlu"
"#;

const PIPELINE: &str = r#"
name = "real"

[vars]
corpora = ["books", "python-docs", "gsm8k"]

[stage.jsonl]
use     = "parquet2jsonl"
dataset = "gsm8k"
columns = ["question"]
rename  = { question = "text" }

[stage.split]
foreach = "{corpora}"
dataset = "{each}"
ratio   = "99:1"

[stage.vocab]
use   = "vocab-search"
base  = "base"
train = ["dataset:books/train"]
score = ["dataset:books/dev"]
single_characters = [2000, 3000]
sizes = "5000..=9000 by 500"

[stage.encode]
foreach   = "{corpora}"
dataset   = "{each}"
tokenizer = "@vocab"
sequence_length = 256

[stage.expand]
model     = "base"
tokenizer = "@vocab"

[stage.train]
model = "@expand"
mix   = ["1:books", "0.1:python-docs", "0.2:gsm8k"]
valid = ["books"]
max_steps  = 60
batch_size = 8
learning_rate = 4e-3
lora = { rank = 16, alpha = 32 }

[stage.merge]
model   = "@expand"
adapter = "@train"

[stage.eval]
foreach  = ["expand", "merge"]
model    = "@{each}"
tasks    = ["cmmlu", "mmlu"]
subjects = ["agronomy", "ancient_chinese", "abstract_algebra", "astronomy"]
texts    = ["held-out/zh.jsonl"]
shots    = 1
limit    = 5

[stage.eval-base]
use   = "eval"
model = "base"
texts = ["held-out/zh.jsonl"]

[stage.compare]
results = ["@eval-base", "@eval[expand]", "@eval[merge]"]
"#;

/// Lines `from..to` of a file of the shared data.
fn lines(shared: &Path, file: &str, from: usize, to: usize) -> String {
    let text = fs::read_to_string(shared.join(file)).expect("a shared file");
    text.split_inclusive('\n').skip(from).take(to - from).collect()
}

#[test]
fn a_real_model_learns_chinese_from_real_books() {
    let Some(shared) = shared_data() else { return };
    let project = Project::new()
        .file("datasets.toml", &REGISTRY.replace("{SHARED}", &shared.display().to_string()))
        .file("p.toml", PIPELINE)
        .file("corpora/books/books.jsonl", &lines(&shared, "zh/books.jsonl", 0, 150))
        .file("corpora/python-docs/python-docs.jsonl", &lines(&shared, "en/python-docs.jsonl", 0, 60))
        .file("held-out/zh.jsonl", &lines(&shared, "zh/books.jsonl", 2000, 2005));
    support::copy(&shared.join("stories-moe"), &project.path().join("base"));
    fs::create_dir_all(project.path().join("corpora/gsm8k")).expect("a folder");
    fs::copy(shared.join("parquet/gsm8k.parquet"), project.path().join("corpora/gsm8k/gsm8k.parquet"))
        .expect("a copy");
    project.run();

    let text = |model: &str| -> Value {
        let results: Value =
            serde_json::from_str(&project.read(&format!("outputs/{model}/results.json"))).expect("JSON");
        results["texts"][0].clone()
    };
    let figure =
        |model: &str, name: &str| text(model)[name].as_f64().unwrap_or_else(|| panic!("{model} has no {name}"));
    let before = figure("eval-expand", "bits_per_byte");
    let after = figure("eval-merge", "bits_per_byte");
    assert!(after < before, "bits per byte {before} → {after}");
    // The published cut: 606 million tokens → 355 million on a slice of SkyPile.
    let cut = 1.0 - figure("eval-merge", "tokens") / figure("eval-base", "tokens");
    assert!(cut >= 0.415, "the new vocabulary cuts {:.1} % of the tokens", 100.0 * cut);

    let generated =
        project.cmx(&["generate", "--model", "base", "--prompt", "Once upon a time", "--max-tokens", "20"]);
    assert!(generated.success().stdout.contains("there was a little girl named Lily"));
    assert_eq!(project.run().done(), [""; 0]);
    eprintln!("bits per byte {before:.3} → {after:.3}; tokens cut by {:.1} %", 100.0 * cut);
}
