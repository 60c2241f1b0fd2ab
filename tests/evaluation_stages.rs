//! `eval` and `compare`, run as a worker runs them, on a real trained model.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cmx::error::Result;
use cmx::evaluation::answers::Answers;
use cmx::evaluation::mixtral::MixtralModel;
use cmx::evaluation::tasks::{self, Selection, TaskKind};
use cmx::evaluation::texts::{self, Bound, Windows};
use cmx::stages::{Work, kind};
use serde::Deserialize;
use serde_json::{Value, json};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The trained model beside the project, if it is there.
fn stories() -> Option<PathBuf> {
    let folder = root().join("../shared/data/stories-moe");
    if !folder.is_dir() {
        println!("skipped: there is no {}", folder.display());
    }
    folder.is_dir().then_some(folder)
}

/// Where a stage's events go.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Events {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Events {
    fn all(&self, event: &str) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        events.filter(|found| found["event"] == event).collect()
    }
}

/// Runs a kind into `output` with the defaults of its manifest under `parameters`.
fn run(name: &str, output: &Path, parameters: Value) -> Result<Events> {
    let kind = kind(name).unwrap();
    let manifest: toml::Value = toml::from_str(kind.manifest).unwrap();
    let mut all = serde_json::to_value(&manifest["parameters"]).unwrap();
    for (key, value) in parameters.as_object().unwrap() {
        all[key] = value.clone();
    }
    fs::create_dir_all(output).unwrap();
    let events = Events::default();
    let scratch = output.with_extension("scratch");
    let mut work = Work::new(output.to_owned(), scratch, 2, Box::new(events.clone()), Arc::default());
    kind.run(all, &mut work)?;
    Ok(events)
}

fn dataset(name: &str, task: &str, path: &Path) -> Value {
    let source = json!({
        "repo": null, "revision": null, "include": [], "exclude": [], "urls": [], "task": task,
    });
    json!({ "name": name, "form": "raw", "path": path, "doc": {}, "encoded": {}, "source": source })
}

/// What `make_stories_scores.py` wrote, with transformers and the harness's rules.
#[derive(Deserialize)]
struct Golden {
    items: BTreeMap<usize, BTreeMap<String, Vec<Vec<f64>>>>,
    documents: Vec<String>,
    text: GoldenText,
}

#[derive(Deserialize)]
struct GoldenText {
    tokens: u64,
    negative_log_likelihood: f64,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/stories_moe_scores.json")).unwrap()
}

#[test]
fn log_likelihoods_are_those_of_the_harness() {
    let Some(folder) = stories() else { return };
    let model = MixtralModel::open(&folder, &folder).unwrap();
    for (shots, subjects) in golden().items {
        let mut seen = 0;
        for kind in [TaskKind::Ceval, TaskKind::Cmmlu, TaskKind::Mmlu, TaskKind::Hellaswag] {
            let selection = Selection::new(shots, Some(3), &[]).unwrap();
            let files = root().join("tests/golden/evaluation").join(kind.as_str());
            for subject in tasks::read(kind, kind.as_str(), &files, &selection).unwrap() {
                let expected = &subjects[&subject.name];
                for batch_tokens in [1, 4096] {
                    let answers = Answers::of(&model, &subject, batch_tokens, &mut |_, _| Ok(())).unwrap();
                    assert_eq!(answers.0.len(), expected.len());
                    for (answer, expected) in answers.0.iter().zip(expected) {
                        for (found, expected) in answer.log_likelihoods.iter().zip(expected) {
                            let difference = (found - expected).abs();
                            assert!(difference < 1e-4, "{} {shots}: {found} is not {expected}", subject.name);
                        }
                    }
                }
                seen += 1;
            }
        }
        assert_eq!(seen, subjects.len());
    }
}

#[test]
fn running_text_is_scored_as_transformers_scores_it() {
    let Some(folder) = stories() else { return };
    let model = MixtralModel::open(&folder, &folder).unwrap();
    let golden = golden();
    let windows = Windows::new(128, Some(96), &model).unwrap();
    for batch_tokens in [1, 4096] {
        let documents = golden.documents.iter().map(|text| Ok(text.clone()));
        let score =
            texts::score(&model, documents, Bound::default(), windows, batch_tokens, &mut |_| Ok(())).unwrap();
        assert_eq!(score.tokens, golden.text.tokens);
        let difference = score.negative_log_likelihood / golden.text.negative_log_likelihood - 1.0;
        assert!(difference.abs() < 1e-6, "{difference}");
    }
}

#[test]
fn two_evaluations_and_their_comparison() {
    let Some(folder) = stories() else { return };
    let place = tempfile::tempdir().unwrap();
    let files = root().join("tests/golden/evaluation");
    let quiz = place.path().join("quiz");
    fs::create_dir(&quiz).unwrap();
    let line = |question: &str, answer: usize| {
        json!({ "question": question, "choices": ["park", "zzz"], "answer": answer }).to_string() + "\n"
    };
    fs::write(quiz.join("test.jsonl"), line("Lily loved to play in the", 0) + &line("Tom went to the", 0)).unwrap();
    let text = place.path().join("stories.jsonl");
    let story = "Once upon a time, there was a little girl named Lily. She loved to play outside.";
    fs::write(&text, format!("{}\n", json!({ "text": story }))).unwrap();
    let parameters = |shots: usize, batch_tokens: usize| {
        json!({
            "model": { "from": "@base", "path": folder },
            "tasks": [
                dataset("quiz", "multiple-choice", &quiz),
                dataset("mmlu", "mmlu", &files.join("mmlu")),
                dataset("hellaswag", "hellaswag", &files.join("hellaswag")),
            ],
            "texts": [{ "from": "dataset:stories/dev", "files": [text] }],
            "shots": shots,
            "limit": 2,
            "batch_tokens": batch_tokens,
        })
    };
    let first = place.path().join("first");
    let events = run("eval", &first, parameters(0, 2048)).unwrap();
    let results: Value = serde_json::from_slice(&fs::read(first.join("results.json")).unwrap()).unwrap();
    assert_eq!(results["results"]["quiz"]["acc,none"], json!(1.0));
    assert_eq!(results["tasks"][1]["items"], json!(4));
    let bits = results["texts"][0]["bits_per_byte"].as_f64().unwrap();
    assert!(bits > 0.1 && bits < 1.5, "{bits}");
    assert_eq!(results["texts"][0]["bytes"], json!(story.len()));
    assert_eq!(fs::read_to_string(first.join("samples.jsonl")).unwrap().lines().count(), 8);
    let names: Vec<Value> = events.all("metric").iter().map(|metric| metric["name"].clone()).collect();
    assert!(names.contains(&json!("accuracy.mmlu")) && names.contains(&json!("bits_per_byte.stories/dev")));
    assert!(fs::read_to_string(first.join("results.md")).unwrap().starts_with("# Evaluation of @base\n"));

    // The same again: the same bytes.
    let again = place.path().join("again");
    run("eval", &again, parameters(0, 2048)).unwrap();
    for name in ["results.json", "results.md", "samples.jsonl"] {
        assert_eq!(fs::read(first.join(name)).unwrap(), fs::read(again.join(name)).unwrap(), "{name}");
    }

    let compared = place.path().join("compared");
    let input = |from: &str, path: &Path| json!({ "from": from, "path": path });
    let rows = json!([input("@eval[base]", &first), input("@eval[merged]", &again)]);
    let events = run("compare", &compared, json!({ "results": rows })).unwrap();
    let comparison: Value = serde_json::from_slice(&fs::read(compared.join("compare.json")).unwrap()).unwrap();
    assert_eq!(comparison["baseline"], "base");
    assert_eq!(comparison["models"][1]["texts"]["stories/dev"]["saved"], json!(0.0));
    let note = events.all("note").remove(0)["text"].as_str().unwrap().to_owned();
    assert_eq!(note.lines().count(), 4, "{note}");
    assert!(note.contains("\nmerged  "), "{note}");
    assert_eq!(events.all("message").len(), 0);

    let refused =
        |parameters: Value| run("compare", &place.path().join("bad"), parameters).err().unwrap().one_line();
    assert_eq!(refused(json!({ "results": [] })), "there are no results to compare");
    let labels = json!({ "results": [input("@eval", &first)], "labels": ["a", "b"] });
    assert_eq!(refused(labels), "there are 2 `labels` for 1 `results`");
}

#[test]
fn what_cannot_be_evaluated_is_refused_before_the_model_is_opened() {
    let place = tempfile::tempdir().unwrap();
    let refused = |parameters: Value| {
        let mut all = json!({ "model": { "from": "@base", "path": place.path().join("no model") } });
        for (key, value) in parameters.as_object().unwrap() {
            all[key] = value.clone();
        }
        run("eval", &place.path().join("output"), all).err().unwrap().one_line()
    };
    assert_eq!(refused(json!({})), "there is nothing to evaluate: neither `tasks` nor `texts` are given");
    let mut corpus = dataset("books", "", place.path());
    corpus["source"]["task"] = Value::Null;
    assert_eq!(
        refused(json!({ "tasks": [corpus] })),
        "dataset books is no evaluation set: its registry entry has no `task`"
    );
    let mmlu = dataset("mmlu", "mmlu", &root().join("tests/golden/evaluation/mmlu"));
    assert_eq!(refused(json!({ "tasks": [mmlu, mmlu] })), "mmlu_astronomy is in two of the sets in `tasks`");
    assert_eq!(
        refused(json!({ "tasks": [mmlu], "batch_tokens": 0 })),
        "`batch_tokens` is 0: nothing could be computed"
    );
}
