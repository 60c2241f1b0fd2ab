//! The pipeline of dialogues, made smaller, offline: messages in, a model that answers out.

mod support;

use std::fs;
use std::path::Path;

use support::{Project, copy};

/// The shipped pipeline in a project of its own, with few steps.
fn small() -> Project {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).expect("a file of the project");
    let project = Project::new()
        .file("datasets.toml", &read("datasets.toml"))
        .file("pipelines/huozi3.jinja", &read("pipelines/huozi3.jinja"));
    for name in ["valley-zh", "valley-dialogues-zh"] {
        let folder = format!("examples/hub/datasets/cmx/{name}");
        copy(&root.join(&folder), &project.path().join(&folder));
    }
    let mut manifest = read("pipelines/dialogues.toml");
    for (after, added) in [("[stage.base]\n", "max_steps = 10\n"), ("[stage.train]\n", "max_steps = 30\n")] {
        assert!(manifest.contains(after), "the pipeline has no {after}");
        manifest = manifest.replace(after, &format!("{after}{added}"));
    }
    project.file("p.toml", &manifest)
}

fn metric(project: &Project, stage: &str, name: &str) -> f64 {
    let latest = project.cmx(&["status", "p.toml", "--json"]).success();
    let status: serde_json::Value = serde_json::from_str(&latest.stdout).expect("JSON");
    let stages = status["stages"].as_array().expect("stages").iter();
    let found = stages.clone().find(|found| found["name"] == stage).unwrap_or_else(|| panic!("no stage {stage}"));
    assert_eq!(found["state"], "fresh");
    let receipts = fs::read_dir(project.path().join("cache/receipts")).expect("receipts");
    let texts = receipts.flatten().filter_map(|entry| fs::read(entry.path()).ok());
    let mut values = texts
        .filter_map(|text| serde_json::from_slice::<serde_json::Value>(&text).ok())
        .filter(|receipt| receipt["stage"] == stage)
        .filter_map(|receipt| receipt["metrics"][name].as_f64());
    values.next().unwrap_or_else(|| panic!("{stage} has no metric {name}"))
}

#[test]
fn messages_become_a_model_that_answers() {
    let project = small();
    project.run();
    // Only what the assistant says counts: less than half of each dialogue.
    let (tokens, answers) = (
        metric(&project, "encode-dialogues", "tokens.train"),
        metric(&project, "encode-dialogues", "answers.train"),
    );
    assert!(answers > 0.15 * tokens && answers < 0.7 * tokens, "{answers} of {tokens}");
    for pass in ["", "/pass-2", "/pass-3", "/pass-4"] {
        let folder = format!("outputs/encode-dialogues/encoded-valley-dialogues-zh-train{pass}/state.json");
        assert!(project.path().join(&folder).is_file(), "{folder}");
    }
    let loss = |when: &str| metric(&project, "train", &format!("validation_loss{when}_valley-dialogues-zh"));
    assert!(loss("") < 0.7 * loss("_before"), "{} {}", loss("_before"), loss(""));
    // The answer alone is printed, and ends by itself or at the limit.
    let ran = project
        .cmx(&["generate", "--model", "outputs/merge", "--ask", "赤杨村的桥是用什么造的？", "--max-tokens", "20"])
        .success();
    assert!(!ran.stdout.trim().is_empty());
    assert!(!ran.stdout.contains("utterance") && !ran.stdout.contains("什么造的"), "{}", ran.stdout);
    // Another rate draws other merges, and training follows; the corpus of the base model is left alone.
    project.edit("p.toml", "bpe_dropout     = 0.1", "bpe_dropout     = 0.2");
    assert_eq!(project.run().done(), ["encode-dialogues", "train", "merge"]);
}
