//! `cmx tokenizers`: the figures of a table are those of the encoders, whatever form the text has.

mod support;

use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use cmx::tokenizer::Tokenizer;
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};
use support::{Project, shared_data};

/// A project with tokenizers of `tests/golden/sentencepiece`.
fn project() -> Project {
    let project = Project::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::create_dir_all(project.path().join("models/unigram")).unwrap();
    for (from, to) in [("llama.model", "llama.model"), ("unigram.model", "unigram/tokenizer.model")] {
        let from = root.join("tests/golden/sentencepiece").join(from);
        std::fs::copy(from, project.path().join("models").join(to)).unwrap();
    }
    project
}

fn lines(texts: &[&str]) -> String {
    texts.iter().map(|text| format!("{}\n", json!({"text": text}))).collect()
}

fn compare(project: &Project, arguments: &[&str]) -> Value {
    let ran = project.cmx(&[&["tokenizers", "--json"], arguments].concat()).success();
    serde_json::from_str(&ran.stdout).expect("JSON")
}

fn told(project: &Project, arguments: &[&str]) -> String {
    let ran = project.cmx(&[&["tokenizers"], arguments].concat());
    assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{}", ran.stderr);
    ran.stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

const TEXTS: [&str; 4] = ["The valley and the river", "山谷里的春天来了，花都开了。", "𠀀𠀁 is rare\n", ""];

#[test]
fn the_figures_are_counts_of_ids() {
    let project = project().file("a.jsonl", &lines(&TEXTS[..3])).file("b.txt", TEXTS[1]);
    let found = compare(&project, &["models/llama.model", "models/unigram", "--on", "a.jsonl", "b.txt"]);
    let names = ["models/llama.model", "models/unigram"];
    let tokenizers = names.map(|name| Tokenizer::open(&project.path().join(name)).unwrap());

    let vocabularies = names.iter().zip(&tokenizers);
    let vocabularies: Vec<Value> =
        vocabularies.map(|(name, tokenizer)| json!({"name": name, "vocabulary": tokenizer.vocab_size()})).collect();
    assert_eq!(found["tokenizers"], json!(vocabularies));

    let expected = |texts: &[&str]| {
        let characters: usize = texts.iter().map(|text| text.chars().count()).sum();
        let bytes: usize = texts.iter().map(|text| text.len()).sum();
        let ids = |tokenizer: &Tokenizer| -> Vec<u32> {
            texts.iter().flat_map(|text| tokenizer.encode(text).unwrap()).collect()
        };
        let first = ids(&tokenizers[0]).len();
        let of_one = |(name, tokenizer): (&&str, &Tokenizer)| {
            let ids = ids(tokenizer);
            let pieces = ids.iter().map(|&id| tokenizer.piece(id).unwrap());
            let byte_tokens = pieces.clone().filter(|piece| piece.starts_with("<0x")).count();
            let unknown_tokens = pieces.filter(|piece| *piece == "<unk>").count();
            let ratio = |of: usize, to: usize| of as f64 / to as f64;
            json!({
                "tokenizer": name,
                "tokens": ids.len(),
                "byte_tokens": byte_tokens,
                "unknown_tokens": unknown_tokens,
                "tokens_per_character": ratio(ids.len(), characters),
                "characters_per_token": ratio(characters, ids.len()),
                "bytes_per_token": ratio(bytes, ids.len()),
                "byte_token_share": ratio(byte_tokens, ids.len()),
                "unknown_token_share": ratio(unknown_tokens, ids.len()),
                "saved": 1.0 - ratio(ids.len(), first),
            })
        };
        let of_all: Vec<Value> = names.iter().zip(&tokenizers).map(of_one).collect();
        json!({"documents": texts.len(), "bytes": bytes, "characters": characters, "tokenizers": of_all})
    };
    let named = |name: &str, mut expected: Value| {
        expected["name"] = name.into();
        expected
    };
    assert_eq!(found["corpora"][0], named("a.jsonl", expected(&TEXTS[..3])));
    assert_eq!(found["corpora"][1], named("b.txt", expected(&TEXTS[1..2])));
    assert_eq!(found["in_all"], named("in all", expected(&[TEXTS[0], TEXTS[1], TEXTS[2], TEXTS[1]])));
    // What the two have none of, the other has.
    let [llama, unigram] = [0, 1].map(|at| &found["in_all"]["tokenizers"][at]);
    assert!(llama["byte_tokens"].as_u64() > Some(8) && unigram["byte_tokens"] == 0, "{found:#}");
    assert!(unigram["unknown_tokens"].as_u64() > Some(0) && llama["unknown_tokens"] == 0, "{found:#}");
}

#[test]
fn the_form_of_the_text_changes_nothing() {
    let project = project().file("a.jsonl", &lines(&TEXTS));
    let content = TEXTS.map(|text| format!("{}\n", json!({"n": 1, "content": text}))).concat();
    project.write("named.jsonl", &content);
    for (number, text) in TEXTS.iter().enumerate() {
        project.write(&format!("folder/deep/{number}.txt"), text);
    }
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("n", Arc::new(Int32Array::from_iter_values(0..4))),
        ("content", Arc::new(StringArray::from_iter_values(TEXTS))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let file = std::fs::File::create(project.path().join("rows.parquet")).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    // A row group for every two rows.
    for start in [0, 2] {
        writer.write(&batch.slice(start, 2)).unwrap();
        writer.flush().unwrap();
    }
    writer.close().unwrap();
    project.write("datasets.toml", "[a]\nroot = \"data/a\"\n");
    project.write("data/a/a-train.jsonl", &lines(&TEXTS));
    project.write("data/a/a-dev.jsonl", "");

    let of = |arguments: &[&str]| {
        let found = compare(&project, &[&["models/llama.model", "models/unigram"], arguments].concat());
        let mut all = found["in_all"].clone();
        assert_eq!(all["documents"], found["corpora"][0]["documents"]);
        all.as_object_mut().unwrap().remove("name");
        all
    };
    let expected = of(&["--on", "a.jsonl"]);
    for corpus in ["folder", "dataset:a", "dataset:a/train"] {
        assert_eq!(of(&["--on", corpus]), expected, "{corpus}");
    }
    for corpus in ["named.jsonl", "rows.parquet"] {
        assert_eq!(of(&["--text-field", "content", "--on", corpus]), expected, "{corpus}");
    }
    // Reading stops in the middle of a row group, too.
    for limit in ["1", "3"] {
        let first = of(&["--limit", limit, "--on", "a.jsonl"]);
        assert_eq!(first["documents"].to_string(), limit);
        assert_eq!(of(&["--limit", limit, "--text-field", "content", "--on", "rows.parquet"]), first);
    }
}

#[test]
fn the_table() {
    let project = project().file("zh.jsonl", &lines(&TEXTS[1..2])).file("en.jsonl", &lines(&TEXTS[..1]));
    let one = project.cmx(&["tokenizers", "models/llama.model", "--on", "en.jsonl"]).success();
    let expected = "                           en.jsonl: 1 document, 24 characters
tokenizer     vocabulary   tokens  tokens/char  chars/token  bytes/token  bytes  unknown
llama.model        2,400        9        0.375        2.667        2.667    0 %      0 %
";
    assert_eq!(one.stdout, expected);
    let both = ["models/llama.model", "models/unigram", "--on", "zh.jsonl", "en.jsonl"];
    let table = project.cmx(&[&["tokenizers"], &both[..]].concat()).success().stdout;
    let titles = ["zh.jsonl: 1 document, 14 characters", "en.jsonl: 1 document, 24", "in all: 2 documents, 38"];
    assert!(titles.iter().all(|title| table.contains(title)), "{table}");
    assert_eq!(table.matches("saved").count(), 3, "{table}");
}

#[test]
fn threads_change_nothing() {
    let Some(data) = shared_data() else { return };
    let project = project();
    let corpora = ["zh/qa.jsonl", "en/rfcs.jsonl"].map(|name| data.join(name).display().to_string());
    let on = ["models/llama.model", "models/unigram", "--limit", "700", "--on", &corpora[0], &corpora[1]];
    let run = |threads: &str| {
        let mut command = project.command(&[&["tokenizers", "--json"], &on[..]].concat());
        let output = command.env("RAYON_NUM_THREADS", threads).output().unwrap();
        assert!(output.status.success());
        output.stdout
    };
    assert!(run("1") == run("3"));
}

#[test]
fn what_cannot_be_read_is_told() {
    let project = project().file("a.jsonl", "{\"text\": \"a\"}\n{\"txt\": \"b\"}\n").file("a.csv", "text\n");
    let on = |corpus: &str| told(&project, &["models/llama.model", "--on", corpus]);
    assert_eq!(on("a.jsonl"), "× a.jsonl, line 2: the object has no field `text`");
    assert!(on("a.csv").starts_with("× a.csv is no file of text\nhelp: documents are files *.jsonl"));
    assert!(on("nowhere").starts_with("× there is no file or folder nowhere\nhelp: `--on` takes files"));
    assert_eq!(on("models"), "× models holds no file of text (*.jsonl, *.parquet, *.txt)");
    project.write("empty/a.jsonl", "");
    assert_eq!(on("empty"), "× empty holds no documents");
    project.write("datasets.toml", "[books]\n");
    assert_eq!(on("dataset:bokos"), "× datasets.toml has no dataset `bokos`\nhelp: did you mean `books`?");
    let splits = "× the dataset `books` has no split `test`\nhelp: its splits are: train, dev";
    assert_eq!(on("dataset:books/test"), splits);
    assert!(
        told(&project, &["vocab", "--on", "a.jsonl"]).starts_with("× there is no tokenizer vocab\nhelp: name a")
    );
    assert!(project.cmx(&["tokenizers", "models/llama.model"]).stderr.contains("--on"));
}

/// The published tokenizers beside SentencePiece and `tokenizers` in Python.
#[test]
fn published_tokenizers_on_real_documents() {
    let Some(data) = shared_data() else { return };
    let golden: Value = serde_json::from_str(include_str!("golden/tokenizer_table.json")).unwrap();
    let models: Vec<&String> = golden["vocabulary"].as_object().unwrap().keys().collect();
    let corpora: Vec<&String> = golden["corpora"].as_object().unwrap().keys().collect();
    let paths: Vec<String> =
        models.iter().map(|name| data.join("tokenizers").join(name).display().to_string()).collect();
    let files: Vec<String> =
        corpora.iter().map(|name| data.join(format!("{name}.jsonl")).display().to_string()).collect();
    let limit = golden["limit"].to_string();
    let mut arguments: Vec<&str> = paths.iter().map(String::as_str).collect();
    arguments.extend(["--limit", &limit, "--on"]);
    arguments.extend(files.iter().map(String::as_str));
    let found = compare(&project(), &arguments);
    for (corpus, found) in corpora.iter().zip(found["corpora"].as_array().unwrap()) {
        let expected = &golden["corpora"][corpus.as_str()];
        for size in ["documents", "bytes", "characters"] {
            assert_eq!(found[size], expected[size], "{corpus}");
        }
        for (model, found) in models.iter().zip(found["tokenizers"].as_array().unwrap()) {
            let counts = json!([found["tokens"], found["byte_tokens"], found["unknown_tokens"]]);
            assert_eq!(counts, expected["tokens"][model.as_str()], "{model} on {corpus}");
        }
    }
    for (model, found) in models.iter().zip(found["tokenizers"].as_array().unwrap()) {
        assert_eq!(found["vocabulary"], golden["vocabulary"][model.as_str()]);
    }
}
