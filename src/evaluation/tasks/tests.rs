//! Every task against what the harness makes of the same files, and what is wrong with files that are wrong.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::*;

/// What `make_lm_eval_prompts.py` wrote.
#[derive(Deserialize)]
struct Goldens {
    /// Shots → subject → items of the sets in `tests/golden/evaluation`.
    fixtures: BTreeMap<usize, BTreeMap<String, Golden>>,
    /// Subject → digest of all of its prompts with five shots, of the real sets.
    digests: BTreeMap<String, Golden>,
}

#[derive(Deserialize)]
struct Golden {
    items: usize,
    sha256: String,
    #[serde(default)]
    first: Vec<GoldenItem>,
}

#[derive(Deserialize)]
struct GoldenItem {
    context: String,
    continuations: Vec<String>,
    target: usize,
}

fn goldens() -> Goldens {
    serde_json::from_str(include_str!("../../../tests/golden/lm_eval_prompts.json")).unwrap()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The real sets, which are beside the project and not part of it.
fn real_sets() -> Option<PathBuf> {
    let folder = root().join("../shared/data/eval");
    if !folder.is_dir() {
        println!("skipped: there is no {}", folder.display());
    }
    folder.is_dir().then_some(folder)
}

fn digest(items: &[Item]) -> String {
    let mut hasher = Sha256::new();
    for item in items {
        let target = item.target.to_string();
        let continuations = item.continuations.iter().map(String::as_str);
        let fields: Vec<&str> =
            [item.context.as_str()].into_iter().chain(continuations).chain([&*target]).collect();
        hasher.update(fields.join("\u{1e}"));
        hasher.update("\u{1f}");
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn selection(shots: usize) -> Selection {
    Selection { shots, ..Selection::default() }
}

const SETS: [TaskKind; 4] = [TaskKind::Ceval, TaskKind::Cmmlu, TaskKind::Mmlu, TaskKind::Hellaswag];

#[test]
fn prompts_are_those_of_the_harness() {
    for (shots, mut expected) in goldens().fixtures {
        for kind in SETS {
            let folder = root().join("tests/golden/evaluation").join(kind.as_str());
            for subject in read(kind, kind.as_str(), &folder, &selection(shots)).unwrap() {
                let golden = expected.remove(&subject.name).unwrap();
                for (item, golden) in subject.items.iter().zip(&golden.first) {
                    assert_eq!(item.context, golden.context);
                    assert_eq!(item.continuations, golden.continuations);
                    assert_eq!(item.target, golden.target);
                    let lengths: Vec<_> = golden.continuations.iter().map(|c| c.chars().count() - 1).collect();
                    assert_eq!(item.characters, lengths);
                }
                assert_eq!(subject.items.len(), golden.items, "{}", subject.name);
                assert_eq!(digest(&subject.items), golden.sha256, "{} with {shots} shots", subject.name);
            }
        }
        assert_eq!(expected.into_keys().collect::<Vec<_>>(), Vec::<String>::new());
    }
}

#[test]
fn prompts_of_the_real_sets_are_those_of_the_harness() {
    let Some(folder) = real_sets() else { return };
    let expected = goldens().digests;
    for (kind, subjects, items) in
        [(TaskKind::Ceval, 52, 1346), (TaskKind::Cmmlu, 67, 11582), (TaskKind::Mmlu, 57, 14042)]
    {
        let set = read(kind, kind.as_str(), &folder.join(kind.as_str()), &selection(5)).unwrap();
        assert_eq!(set.len(), subjects);
        assert_eq!(set.iter().map(|subject| subject.items.len()).sum::<usize>(), items);
        for subject in set {
            let golden = &expected[&subject.name];
            assert_eq!(subject.items.len(), golden.items, "{}", subject.name);
            assert_eq!(digest(&subject.items), golden.sha256, "{}", subject.name);
        }
    }
}

#[test]
fn the_real_hellaswag_is_read_in_both_schemas() {
    let Some(folder) = real_sets() else { return };
    let real = folder.join("hellaswag");
    let raw = tempfile::tempdir().unwrap();
    for name in ["train.jsonl", "validation.jsonl"] {
        fs::copy(real.join("raw-1000.jsonl"), raw.path().join(name)).unwrap();
    }
    let golden = &goldens().digests["hellaswag raw-1000 on itself"];
    let subject = read(TaskKind::Hellaswag, "hellaswag", raw.path(), &selection(5)).unwrap().remove(0);
    assert_eq!(subject.items.len(), golden.items);
    assert_eq!(digest(&subject.items), golden.sha256);

    let preprocessed = tempfile::tempdir().unwrap();
    fs::copy(real.join("preprocessed-10042.jsonl"), preprocessed.path().join("val.jsonl")).unwrap();
    let all = read(TaskKind::Hellaswag, "hellaswag", preprocessed.path(), &selection(0)).unwrap().remove(0).items;
    assert_eq!(all.len(), 10042);
    // Where `ctx_b` begins is found again: items of the official file stand among these as the harness prompts them.
    let raw_items = read(TaskKind::Hellaswag, "hellaswag", raw.path(), &selection(0)).unwrap().remove(0).items;
    let found = raw_items.iter().filter(|item| all.iter().any(|other| other.context == item.context)).count();
    assert!(found >= 913, "{found}");
}

#[test]
fn subjects_and_items_can_be_limited() {
    let folder = root().join("tests/golden/evaluation/mmlu");
    let astronomy = Selection::new(1, Some(1), &["astro*".to_owned()]).unwrap();
    let set = read(TaskKind::Mmlu, "mmlu", &folder, &astronomy).unwrap();
    assert_eq!(set.len(), 1);
    assert_eq!((set[0].name.as_str(), set[0].items.len()), ("mmlu_astronomy", 1));
    let group = Group { name: "mmlu_stem", alias: "stem", parent: Some("mmlu") };
    assert_eq!((set[0].alias.as_str(), set[0].group), ("astronomy", Some(group)));
    let nothing = Selection::new(0, None, &["law".to_owned()]).unwrap();
    let error = read(TaskKind::Mmlu, "mmlu", &folder, &nothing).unwrap_err();
    assert_eq!(
        error.one_line(),
        "cannot read the evaluation set mmlu: none of its subjects is selected by `subjects`"
    );
    assert!(Selection::new(0, Some(0), &[]).is_err());
    assert!(Selection::new(0, None, &["[".to_owned()]).is_err());
}

/// The error of reading a folder with these files, with the folder's own name taken out.
fn error(kind: TaskKind, shots: usize, files: &[(&str, &[u8])]) -> String {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let error = read(kind, "set", folder.path(), &selection(shots)).unwrap_err();
    let hint = hint_of(&error);
    let text = format!("{}{hint}", error.one_line());
    text.replace(&folder.path().display().to_string(), "DIR").replace("cannot read the evaluation set set: ", "")
}

/// The advice of the error or of the one beneath it.
fn hint_of(error: &Error) -> String {
    let beneath = std::error::Error::source(error).and_then(|source| source.downcast_ref::<Error>());
    let advice = error.advice().or_else(|| beneath.and_then(Error::advice));
    advice.map_or_else(String::new, |advice| format!(" / {advice}"))
}

#[test]
fn bad_files_are_named_with_their_line() {
    let header = b"id,question,A,B,C,D,answer\n";
    let ceval = |rows: &[u8]| {
        let content = [header.as_slice(), rows].concat();
        error(TaskKind::Ceval, 0, &[("val/law_val.csv", &content)])
    };
    assert_eq!(ceval(b"0,q,a,b,c,d,E\n"), "DIR/val/law_val.csv:2: the answer is \"E\", not one of A, B, C, D");
    assert_eq!(ceval(b"0,\"q\nq\",a,b,c,d,A\n1,q,a\n"), "DIR/val/law_val.csv:4: the row has only 3 of its columns");
    assert_eq!(ceval(b"0,q,a,b,c,d,A\n0,\xff,"), "DIR/val/law_val.csv:3: invalid UTF-8");
    assert_eq!(ceval(b""), "DIR/val/law_val.csv has no questions");
    assert_eq!(
        error(TaskKind::Ceval, 0, &[("val/law_val.csv", b"id,question\n")]),
        "DIR/val/law_val.csv:1: there is no column \"A\" in the header"
    );
    assert_eq!(
        error(TaskKind::Ceval, 0, &[("val/loggic_val.csv", header)]),
        "DIR/val/loggic_val.csv: ceval has no subject \"loggic\" / did you mean \"logic\"?"
    );
    assert_eq!(
        error(TaskKind::Cmmlu, 0, &[]),
        "there is no test/*.csv in DIR / expected dev/SUBJECT.csv and test/SUBJECT.csv"
    );
    let mmlu: [(&str, &[u8]); 2] =
        [("test/virology_test.csv", b"q,a,b,c,d,A\n"), ("dev/virology_dev.csv", b"q,a,b,c,d,A\n")];
    assert_eq!(
        error(TaskKind::Mmlu, 5, &mmlu),
        "5 shots were asked for, but DIR/dev/virology_dev.csv has 1 examples / set `shots = 1` or fewer"
    );
}

#[test]
fn bad_lines_are_named_too() {
    let line = |content: &str| error(TaskKind::MultipleChoice, 0, &[("test.jsonl", content.as_bytes())]);
    let good = r#"{"question": "q", "choices": ["a", "b"], "answer": 1}"#;
    let bad = |bad: &str| line(&format!("{good}\n\n{bad}\n"));
    assert!(bad("{").starts_with("DIR/test.jsonl:3: invalid JSON: "));
    assert_eq!(bad("[]"), "DIR/test.jsonl:3: not a JSON object");
    assert_eq!(bad(r#"{"question": 1}"#), "DIR/test.jsonl:3: \"question\" is missing or not a string");
    assert_eq!(
        bad(r#"{"question": "q", "choices": ["a"]}"#),
        "DIR/test.jsonl:3: \"choices\" is not a list of two strings or more"
    );
    assert_eq!(
        bad(r#"{"question": "q", "choices": ["a", "b"], "answer": 2}"#),
        "DIR/test.jsonl:3: \"answer\" is not the index of one of the 2 choices"
    );
    assert_eq!(
        bad(r#"{"question": " ", "choices": ["a", "b"], "answer": 0}"#),
        "DIR/test.jsonl:3: the question or a choice is empty"
    );
    assert_eq!(line(""), "DIR/test.jsonl has no questions");
    assert_eq!(
        error(TaskKind::MultipleChoice, 0, &[]),
        "there is no test.jsonl in DIR / expected test.jsonl, and dev.jsonl for shots, of {\"question\", \"choices\", \"answer\"}"
    );
    let item = br#"{"activity_label": "a", "ctx_a": "b.", "ctx_b": "", "endings": ["c", "d"], "label": "1"}"#;
    assert_eq!(
        error(TaskKind::Hellaswag, 5, &[("val.jsonl", item)]),
        "there is no train.jsonl in DIR, from which HellaSwag draws its shots / add the training split, or evaluate it with `shots = 0` in a stage of its own"
    );
    assert_eq!(
        error(TaskKind::Hellaswag, 5, &[("val.jsonl", item), ("train.jsonl", item)]),
        "5 shots were asked for, but DIR/train.jsonl has 0 examples / set `shots = 0` or fewer"
    );
    let unclear: [(&str, &[u8]); 2] = [("a.jsonl", item), ("b.jsonl", item)];
    assert!(
        error(TaskKind::Hellaswag, 0, &unclear).starts_with("it is not clear which file of DIR to evaluate / ")
    );
}

#[test]
fn our_own_format_prompts_with_the_question_alone() {
    let folder = tempfile::tempdir().unwrap();
    let line = |question: &str, answer: usize| {
        format!("{{\"question\": {question:?}, \"choices\": [\"蓝色\", \"green \"], \"answer\": {answer}}}\n")
    };
    fs::write(folder.path().join("dev.jsonl"), line("天空是", 0) + &line("Grass is", 1)).unwrap();
    fs::write(folder.path().join("test.jsonl"), line("The sea is ", 0)).unwrap();
    let subject = read(TaskKind::MultipleChoice, "quiz", folder.path(), &selection(2)).unwrap().remove(0);
    assert_eq!((subject.name.as_str(), subject.group), ("quiz", None));
    let expected = Item {
        context: "天空是 蓝色\n\nGrass is green\n\nThe sea is".to_owned(),
        continuations: vec![" 蓝色".to_owned(), " green".to_owned()],
        characters: vec![2, 5],
        target: 0,
    };
    assert_eq!(subject.items, [expected]);
}

#[test]
fn tasks_are_named_as_serde_names_them() {
    for kind in TaskKind::ALL {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
    }
}
