//! `cmx plan` says what a training will take before anything of it is there, and what is missing where it cannot.

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::{Project, small_quickstart};

fn forecasts(project: &Project, arguments: &[&str]) -> Vec<Value> {
    let ran = project.cmx(&[&["plan", "p.toml", "--json"], arguments].concat()).success();
    let plan: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    plan["forecasts"].as_array().expect("forecasts").clone()
}

fn forecast(project: &Project, stage: &str) -> Value {
    let all = forecasts(project, &[]);
    all.into_iter().find(|forecast| forecast["stage"] == stage).unwrap_or_else(|| panic!("no forecast of {stage}"))
}

/// A shipped pipeline in a project of its own, without a byte of data.
fn shipped(name: &str) -> Project {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).expect("a file of the project");
    let project = Project::new().file("datasets.toml", &read("datasets.toml"));
    support::copy(&root.join("pipelines"), &project.path().join("pipelines"));
    support::copy(&root.join("pipelines/stages"), &project.path().join("stages"));
    project.file("p.toml", &read(name))
}

#[test]
fn the_published_run_before_anything_is_downloaded() {
    let project = shipped("pipelines/pretrain.toml");
    let train = forecast(&project, "train");
    assert_eq!(train["parameters"], json!({"adapter": 960_495_616u64, "whole": 466_944_000}));
    assert_eq!(train["on_disk"]["bfloat16"], 2 * 1_427_439_616u64);
    assert_eq!(train["tokens_per_step"], 1_048_576);
    assert_eq!(train["steps"], Value::Null);
    let why = train["why"][0].as_str().expect("a reason");
    assert!(why.starts_with("steps: not known yet: encode[SkyPile-150B-2022] waits for"), "{why}");
    let text = project.cmx(&["plan", "p.toml"]).success().stdout;
    for line in [
        "  a step              1,048,576 tokens\n",
        "  trained parameters  1,427,439,616: 960,495,616 of adapters + 466,944,000 of embed_tokens and lm_head\n",
        "  adapter on disk     5.32 GiB in float32, as it is written; 2.66 GiB in bfloat16\n",
        "  time                not known: `cmx plan --calibrate` measures it\n",
    ] {
        assert!(text.contains(line), "{text}");
    }

    project.edit("p.toml", "epochs        = 1", "max_steps     = 1000");
    assert_eq!(forecast(&project, "train")["tokens"], 1_048_576_000u64);
}

#[test]
fn fine_tuning_on_two_tokens_more() {
    let train = forecast(&shipped("pipelines/sft.toml"), "train");
    assert_eq!(train["parameters"], json!({"adapter": 960_495_616u64, "whole": 2 * 57_002 * 4096}));
    assert_eq!(train["tokens_per_step"], 20 * 32_768);
}

#[test]
fn what_is_missing_is_said() {
    let project = shipped("pipelines/pretrain.toml");
    project.edit("p.toml", "expect  = \"pipelines/models/mixtral-8x7b.json\"", "");
    let train = forecast(&project, "train");
    assert_eq!(train["memory"], Value::Null);
    let expected = "parameters and memory: not known until `base` has run; `expect` in [stage.base] can name the \
                    model's config.json";
    assert!(train["why"].as_array().expect("reasons").contains(&expected.into()), "{train:#}");

    project.edit("p.toml", "[stage.base]", "[stage.base]\nexpect = \"pipelines/models/mixtral.json\"");
    let error = project.cmx(&["plan", "p.toml"]);
    assert_eq!(error.code, 2);
    assert!(error.stderr.contains("\"pipelines/models/mixtral.json\" does not exist"), "{}", error.stderr);
}

#[test]
fn what_is_expected_is_no_reason_to_run_again() {
    let project = small_quickstart();
    project.cmx(&["run", "p.toml", "--only", "new"]).success();
    project.write("other.json", "{}");
    project.edit("p.toml", "[stage.new]\n", "[stage.new]\nexpect = \"other.json\"\n");
    assert_eq!(project.states()["new"], "fresh");
    // What is there is looked at, whatever was expected.
    let base = forecast(&project, "base");
    assert!(base["parameters"]["whole"].as_u64().expect("a number") > 500_000, "{base:#}");
}

#[test]
fn time_is_measured_once_or_taken_from_the_last_run() {
    let project = small_quickstart();
    let base = forecast(&project, "base");
    // Twelve steps of 16 blocks of 128 tokens, though nothing is encoded yet.
    assert_eq!((&base["steps"], &base["tokens"]), (&json!(12), &json!(12 * 16 * 128)));
    assert_eq!(base["time"], Value::Null);
    let train = forecast(&project, "train");
    assert!(train["why"].to_string().contains("not known until `vocab` has run"), "{train:#}");

    let measured = &forecasts(&project, &["--calibrate"])[0]["time"];
    let step = measured["seconds_per_step"].as_f64().expect("seconds");
    assert!(step > 0.0 && (measured["seconds"].as_f64().expect("seconds") - 12.0 * step).abs() < 1e-9 * step);
    assert!(measured["from"].as_str().expect("a source").starts_with("measured on a few steps of it here"));
    assert_eq!(&forecast(&project, "base")["time"], measured, "it is not measured twice");

    project.cmx(&["run", "p.toml", "--only", "base"]).success();
    project.edit("p.toml", "learning_rate = 3e-3", "learning_rate = 2e-3");
    let text = forecast(&project, "base")["time"]["from"].to_string();
    assert!(text.starts_with("\"as its run of ") && text.contains(" tokens/s"), "{text}");
    // Another batch is another speed.
    project.edit(
        "p.toml",
        "method        = \"full\"\n",
        "method        = \"full\"\ngradient_checkpointing = true\n",
    );
    assert_eq!(forecast(&project, "base")["time"], Value::Null);
}

#[test]
fn what_cannot_be_measured_is_said() {
    let project = shipped("pipelines/pretrain.toml");
    // One layer of more than a trillion parameters.
    project.edit("pipelines/models/mixtral-8x7b.json", "14336", "14336000");
    let text = project.cmx(&["plan", "p.toml", "--calibrate"]).success().stdout;
    assert!(text.contains("\n  time: the speed cannot be measured here: 1 of its layers would take "), "{text}");
    assert!(!text.contains("--calibrate"), "{text}");
}

#[test]
fn more_memory_than_there_is_comes_with_advice() {
    let project = shipped("pipelines/pretrain.toml");
    project.edit("p.toml", "batch_size    = 16", "batch_size    = 4096");
    project.edit("p.toml", "gradient_checkpointing = true", "gradient_checkpointing = false");
    let text = project.cmx(&["plan", "p.toml"]).success().stdout;
    let warning = text.lines().find(|line| line.contains("warning")).expect("a warning");
    assert!(warning.contains("train needs ") && warning.contains("and this host has "), "{warning}");
    assert!(warning.contains("with `gradient_checkpointing = true` and `batch_size = "), "{warning}");

    let project = small_quickstart();
    project.edit("p.toml", "[stage.base]\n", "[stage.base]\nresources = { memory = \"1 MiB\" }\n");
    let text = project.cmx(&["plan", "p.toml"]).success().stdout;
    assert!(text.contains("and its `resources.memory` is 1.00 MiB"), "{text}");
}
