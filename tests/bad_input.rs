//! Input that can't be right, through the real program: which file, which line, and what to do next.

mod support;

use support::Project;

const REGISTRY: &str = r#"[notes]
root = "corpus"

[quiz]
root = "quiz"
task = "ceval"
"#;

/// A tokenizer and a very small model.
const MODEL: &str = r#"
[stage.tokenizer]
use = "train-tokenizer"
train = ["dataset:notes"]
vocab_size = 300

[stage.new]
use = "new-model"
tokenizer = "@tokenizer"
hidden_size = 16
intermediate_size = 16
num_hidden_layers = 1
num_attention_heads = 2
num_key_value_heads = 1
num_local_experts = 2
"#;

fn project(corpus: &str, pipeline: &str) -> Project {
    Project::new().file("datasets.toml", REGISTRY).file("corpus/a.jsonl", corpus).file("p.toml", pipeline)
}

/// A corpus that nothing is wrong with.
fn notes() -> String {
    (0..40).map(|n| format!("{{\"text\": \"note {n}: the mill by the river\"}}\n")).collect()
}

/// `cmx run p.toml` fails in `stage` with exactly these lines (the path of the log aside), and exit code 1.
fn assert_fails(project: &Project, stage: &str, expected: &[&str]) {
    let ran = project.cmx(&["run", "p.toml"]);
    let failed = format!("{stage}: failed: ");
    let lines: Vec<&str> = ran.stderr.lines().collect();
    let first = lines.iter().position(|line| line.contains(&failed)).unwrap_or_else(|| panic!("{}", ran.stderr));
    let last = first + expected.len();
    let mut told: Vec<&str> = lines[first..last].iter().map(|line| line.trim_start_matches("  ")).collect();
    told[0] = told[0].split_once(&failed).map_or("", |(_, message)| message);
    assert_eq!(told, expected, "\n{}", ran.stderr);
    assert!(lines[last].starts_with("  log: cache/runs/"), "{}", ran.stderr);
    assert_eq!(ran.code, 1);
    assert!(!ran.stderr.contains(&project.path().display().to_string()), "an absolute path: {}", ran.stderr);
}

/// `cmx check p.toml` answers with exactly this, and exit code 2.
fn assert_rejected(project: &Project, expected: &str) {
    let output = project.command(&["check", "p.toml"]).env("LC_ALL", "C.UTF-8").output().expect("the cmx program");
    let told = String::from_utf8_lossy(&output.stderr);
    let lines =
        |text: &str| text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_matches('\n').to_owned();
    assert_eq!(lines(&told), lines(expected), "\n{told}");
    assert_eq!(output.status.code(), Some(2));
}

const SPLIT: &str = "[stage.split]\ndataset = \"notes\"\nratio = \"9:1\"\n";

#[test]
fn a_missing_dataset() {
    let project = Project::new().file("datasets.toml", REGISTRY).file("p.toml", SPLIT);
    assert_rejected(
        &project,
        r#"
  × dataset "notes" has no jsonl form: no stage of this pipeline provides it,
  │ and corpus holds none
   ╭─[p.toml:2:12]
 1 │ [stage.split]
 2 │ dataset = "notes"
   ·            ──┬──
   ·              ╰── `split` needs it
 3 │ ratio = "9:1"
   ╰────
  help: put its *.jsonl files under corpus, or add a download stage for it
"#,
    );
}

#[test]
fn an_empty_corpus() {
    assert_fails(
        &project("", SPLIT),
        "split",
        &["cannot split the dataset `notes`: the corpus is empty: its files hold no line"],
    );
    assert_fails(&project("", MODEL), "tokenizer", &["`train`: the documents hold no text to train on"]);
}

#[test]
fn a_line_that_is_not_utf_8() {
    let project = project("", SPLIT);
    std::fs::write(project.path().join("corpus/a.jsonl"), b"{\"text\": \"good\"}\n{\"text\": \"\xff\"}\n").unwrap();
    assert_fails(
        &project,
        "split",
        &["cannot split the dataset `notes`: corpus/a.jsonl, line 2: not valid UTF-8 at byte 11"],
    );
    project.write("p.toml", MODEL);
    assert_fails(&project, "tokenizer", &["corpus/a.jsonl, line 2: not valid UTF-8 at byte 11"]);
}

#[test]
fn a_line_that_is_not_json() {
    let project = project("{\"text\": \"good\"}\n{\"text\": \"good\"}\nbad\n", SPLIT);
    let told = "corpus/a.jsonl, line 3: not valid JSON: expected value at column 1";
    assert_fails(&project, "split", &[&format!("cannot split the dataset `notes`: {told}")]);
    project.write("p.toml", MODEL);
    assert_fails(&project, "tokenizer", &[told]);
}

#[test]
fn a_line_without_the_text() {
    assert_fails(
        &project("{\"txt\": \"good\"}\n", SPLIT),
        "split",
        &["cannot split the dataset `notes`: corpus/a.jsonl, line 1: the object has no field `text`"],
    );
}

#[test]
fn a_ratio_that_is_none() {
    for (wrong, line) in [("0:1", "──┬──"), ("a:b", "──┬──"), ("999", "──┬──")] {
        let project = project(&notes(), &SPLIT.replace("9:1", wrong));
        assert_rejected(
            &project,
            &format!(
                r#"
  × stage `split`: `ratio` cannot be "{wrong}"
   ╭─[p.toml:3:9]
 2 │ dataset = "notes"
 3 │ ratio = "{wrong}"
   ·         {line}
   ·           ╰── wrong form
   ╰────
  help: write it as "999:1"
"#
            ),
        );
    }
}

#[test]
fn sizes_that_are_none() {
    let search =
        "[stage.vocab-search]\nbase = \"base\"\ntrain = [\"dataset:notes\"]\nscore = [\"dataset:notes\"]\n";
    let project = project(&notes(), &format!("{search}single_characters = [20]\nsizes = \"500\"\n"));
    project.write("base/tokenizer.model", "");
    assert_rejected(
        &project,
        r#"
  × stage `vocab-search`: `sizes` cannot be "500"
   ╭─[p.toml:6:9]
 5 │ single_characters = [20]
 6 │ sizes = "500"
   ·         ──┬──
   ·           ╰── wrong form
   ╰────
  help: write it as "11000..=41000 by 2000"
"#,
    );
}

#[test]
fn a_task_that_is_none() {
    let project = project(&notes(), SPLIT);
    project.edit("datasets.toml", "ceval", "cevall");
    assert_rejected(
        &project,
        r#"
  × dataset "quiz": `task` does not know "cevall"
   ╭─[datasets.toml:6:8]
 5 │ root = "quiz"
 6 │ task = "cevall"
   ·        ────┬───
   ·            ╰── unknown word
   ╰────
  help: did you mean `ceval`?
"#,
    );
}

#[test]
fn an_evaluation_set_in_another_layout() {
    let project =
        project(&notes(), &format!("{MODEL}[stage.eval]\nmodel = \"@new\"\ntasks = [\"quiz\"]\nshots = 0\n"));
    project.write("quiz/test.jsonl", "{}\n");
    assert_fails(&project, "eval", &["cannot read the evaluation set quiz: there is no val/*_val.csv in quiz"]);
}

#[test]
fn a_model_folder_that_is_none() {
    let project =
        project(&notes(), &format!("{MODEL}[stage.eval]\nmodel = \"@tokenizer\"\ntexts = [\"dataset:notes\"]\n"));
    assert_fails(
        &project,
        "eval",
        &["cannot open the model @tokenizer: @tokenizer is not a model folder: it has no config.json"],
    );
}

#[test]
fn truncated_weights() {
    let project = project(&notes(), MODEL);
    project.run();
    support::copy(&project.path().join("outputs/new"), &project.path().join("model"));
    let weights = project.path().join("model/model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    // A new file: the copy of an artifact's file is read-only.
    std::fs::remove_file(&weights).unwrap();
    std::fs::write(&weights, &bytes[..100]).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    project.write("p.toml", "[stage.eval]\nmodel = \"model\"\ntexts = [\"dataset:notes\"]\n");
    assert_fails(
        &project,
        "eval",
        &[&format!(
            "cannot open the model model: model/model.safetensors is truncated or no safetensors file: its header \
             claims {header} bytes, and the whole file has 100"
        )],
    );
}

#[test]
fn a_tokenizer_that_does_not_extend_the_models() {
    let other = "[stage.other]\nuse = \"train-tokenizer\"\ntrain = [\"dataset:notes\"]\nvocab_size = 295\n";
    let expand = "[stage.expand]\nmodel = \"@new\"\ntokenizer = \"@other\"\n";
    assert_fails(
        &project(&notes(), &format!("{MODEL}{other}{expand}")),
        "expand",
        &[
            "the new tokenizer has 295 tokens, fewer than the model's own, which has 300",
            "hint: give one that `vocab-search` made from the model's own",
        ],
    );
}

#[test]
fn a_program_that_is_not_there() {
    let project = project("", "[stage.filter]\nuse = \"command\"\ncommand = [\"no-such-program\", \"{output}\"]\n");
    assert_fails(
        &project,
        "filter",
        &[
            "cannot start no-such-program: No such file or directory (os error 2)",
            "hint: a program is looked for in PATH, or at its path in the workspace: tools/NAME",
        ],
    );
}
