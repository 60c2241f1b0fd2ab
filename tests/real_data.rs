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

/// The experiment of docs/experiments.md, smaller: a base that has met a little Chinese byte by byte, new rows begun as
/// means of subwords and at random.
const INITIALISATION: &str = r#"
name = "initialisation"

[stage.split]
foreach = ["books", "stories"]
dataset = "{each}"
ratio   = "49:1"

[stage.encode-bytes]
use       = "encode"
foreach   = ["books", "stories"]
dataset   = "{each}"
tokenizer = "base"
sequence_length = 128

[stage.met]
use    = "train"
model  = "base"
mix    = ["0.2:@encode-bytes[books]", "1:@encode-bytes[stories]"]
method = "full"
max_steps     = 100
batch_size    = 8
learning_rate = 3e-3

[stage.vocab]
use   = "vocab-search"
base  = "base"
train = ["dataset:books/train"]
score = ["dataset:books/dev"]
single_characters = [500]
sizes = "2000..=3000 by 500"
add   = 500

[stage.encode]
foreach   = ["books", "stories"]
dataset   = "{each}"
tokenizer = "@vocab"
sequence_length = 128

[stage.mean]
use       = "expand"
model     = "@met"
tokenizer = "@vocab"

[stage.normal]
use       = "expand"
model     = "@met"
tokenizer = "@vocab"
init      = "normal"

# Only what comes before its first step counts.
[stage.chance]
use       = "train"
model     = "@normal"
mix       = ["1:@encode[books]"]
valid     = ["@encode[books]"]
method    = "full"
max_steps = 1

[stage.train]
model   = "@mean"
mix     = ["1:@encode[books]", "4:@encode[stories]"]
valid   = ["@encode[books]", "@encode[stories]"]
method  = "full"
max_steps        = 80
evaluation_steps = 20
batch_size       = 8
learning_rate    = 2e-3
"#;

#[test]
fn chinese_falls_steadily_english_stays_and_means_begin_better_than_chance() {
    let Some(shared) = shared_data() else { return };
    let project = Project::new()
        .file("datasets.toml", "[books]\nroot = \"corpora/books\"\n[stories]\nroot = \"corpora/stories\"\n")
        .file("p.toml", INITIALISATION)
        .file("corpora/books/books.jsonl", &lines(&shared, "zh/books.jsonl", 0, 100));
    support::copy(&shared.join("stories-moe"), &project.path().join("base"));
    // The model was trained on stories alone: what it tells itself is the English that it knows.
    let stories = (0..150).map(|seed| {
        let seed = seed.to_string();
        let asked = ["--prompt", "Once upon a time", "--max-tokens", "300", "--temperature", "1", "--seed", &seed];
        let told = project.cmx(&[&["generate", "--model", "base"], &asked[..]].concat()).success().stdout;
        format!("{}\n", serde_json::json!({ "text": told.trim_end() }))
    });
    project.write("corpora/stories/stories.jsonl", &stories.collect::<String>());
    project.run();

    let bits = |stage: &str, corpus: &str| -> Vec<f64> {
        let text = project.read(&format!("outputs/{stage}/metrics.jsonl"));
        let records = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        records.filter_map(|record| record["bits_per_byte"][corpus].as_f64()).collect()
    };
    let (mean, chance, english) = (bits("train", "books"), bits("chance", "books"), bits("train", "stories"));
    eprintln!("Chinese, means {mean:.3?}, at random {:.3}; English {english:.3?} bits per byte", chance[0]);
    assert_eq!(mean.len(), 5);
    assert!(mean.windows(2).all(|pair| pair[1] < pair[0]), "Chinese does not fall at every evaluation: {mean:?}");
    assert!(mean[0] < chance[0], "{mean:?} {chance:?}");
    assert!(english[4] < 1.05 * english[0], "English is lost: {english:?}");
}
