//! `train-tokenizer` and `vocab-search`: a base from English text, extended by Chinese pieces; ids of the base stay.

mod workshop;

use std::io::Write;
use std::path::{Path, PathBuf};

use cmx::corpus::documents;
use cmx::error::ExitCode;
use cmx::tokenizer::{SentencePiece, Tokenizer};
use serde_json::{Value, json};
use workshop::{Workshop, shared};

const CHINESE: &str = "examples/hub/datasets/cmx/valley-zh/data/2023-0";

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn corpus(paths: &[PathBuf]) -> Value {
    json!({"from": "the corpus", "files": paths})
}

fn input(path: &Path) -> Value {
    json!({"from": "the base", "path": path})
}

fn texts(paths: &[PathBuf]) -> Vec<String> {
    documents(paths).map(|document| document.unwrap().text).collect()
}

fn english() -> PathBuf {
    root("examples/hub/datasets/cmx/valley-held-out/en.jsonl")
}

fn months(which: std::ops::RangeInclusive<u8>) -> Vec<PathBuf> {
    which.map(|month| root(&format!("{CHINESE}{month}.jsonl"))).collect()
}

/// Parameters of a search on the Chinese example, with `base`; `over` goes over them.
fn search(base: &Path, over: Value) -> Value {
    let mut parameters = json!({
        "base": input(base),
        "train": [corpus(&months(1..=3))],
        "score": [corpus(&months(4..=4))],
        "single_characters": [500, 800],
        "sizes": "1000..=2000 by 250",
    });
    for (name, value) in over.as_object().unwrap() {
        parameters[name] = value.clone();
    }
    parameters
}

/// A tokenizer trained on the English example, as the file of its model.
fn base(workshop: &Workshop) -> PathBuf {
    workshop.run("train-tokenizer", json!({"train": [corpus(&[english()])], "vocab_size": 700})).unwrap();
    workshop.write("base/tokenizer.model", &workshop.outputs()["tokenizer.model"])
}

fn search_json(workshop: &Workshop) -> Value {
    serde_json::from_slice(&workshop.outputs()["search.json"]).unwrap()
}

#[test]
fn a_base_is_trained_and_extended() {
    let workshop = Workshop::new();
    let base = base(&workshop);
    let before = Tokenizer::open(&base).unwrap();
    assert_eq!(before.vocab_size(), 700);
    assert_eq!((before.unk(), before.bos(), before.eos()), (Some(0), Some(1), Some(2)));
    let ids = |tokenizer: &Tokenizer, text: &str| tokenizer.encode(text).unwrap();
    assert!(texts(&[english()]).iter().all(|text| before.decode(&ids(&before, text)).unwrap() == *text));

    workshop.run("vocab-search", search(&base, json!({}))).unwrap();
    let files: Vec<_> = workshop.outputs().into_keys().collect();
    assert_eq!(
        files,
        ["search.json", "special_tokens_map.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"]
    );
    let after = Tokenizer::open(&workshop.output()).unwrap();
    let added = search_json(&workshop)["choice"]["added"].as_u64().unwrap() as usize;
    assert_eq!(after.vocab_size(), 700 + added);
    for id in 0..700 {
        assert_eq!(before.piece(id), after.piece(id));
    }
    let mut smaller = 0;
    for text in texts(&months(4..=4)) {
        let (old, new) = (ids(&before, &text), ids(&after, &text));
        assert_eq!(after.decode(&new).unwrap(), text);
        smaller += usize::from(new.len() < old.len());
    }
    assert_eq!(smaller, texts(&months(4..=4)).len());
    assert!(texts(&[english()]).iter().all(|text| ids(&before, text) == ids(&after, text)));

    let fast = Tokenizer::open(&workshop.output().join("tokenizer.json")).unwrap();
    for text in texts(&months(4..=4)).iter().chain(&texts(&[english()])) {
        assert_eq!(ids(&fast, text), ids(&after, text));
    }
    let metrics = workshop.metrics();
    assert!(metrics["cut_percent"].as_f64().unwrap() > 70.0, "{metrics:?}");
    assert_eq!(metrics["pieces_added"], added);
    assert!(workshop.said().contains("fewer tokens"));
}

#[test]
fn the_choice_follows_what_was_asked_for() {
    let workshop = Workshop::new();
    let base = base(&workshop);
    workshop.run("vocab-search", search(&base, json!({"add": 1111}))).unwrap();
    assert_eq!(search_json(&workshop)["choice"]["added"], 1111);
    assert_eq!(Tokenizer::open(&workshop.output()).unwrap().vocab_size(), 700 + 1111);

    workshop.run("vocab-search", search(&base, json!({"size": 1600}))).unwrap();
    let search_json = search_json(&workshop);
    assert_eq!(search_json["choice"]["size"], 1600);
    let points = search_json["curves"][0]["points"].as_array().unwrap();
    let sizes: Vec<u64> = points.iter().map(|point| point["size"].as_u64().unwrap()).collect();
    assert_eq!(sizes, [1000, 1250, 1500, 1600, 1750, 2000]);
    let tokens: Vec<u64> = points.iter().map(|point| point["tokens"][0].as_u64().unwrap()).collect();
    assert!(tokens.is_sorted_by(|a, b| a > b), "{tokens:?}");

    workshop
        .run("vocab-search", search(&base, json!({"single_characters": [500, 90_000], "sizes": [4000]})))
        .unwrap();
    assert!(workshop.said().contains("single characters, not 90000: all of them are taken"));
}

#[test]
fn scores_and_recipe_as_published() {
    let workshop = Workshop::new();
    let base = base(&workshop);
    let published = json!({"add": 1500, "scores": "zero", "recipe": "as-published"});
    workshop.run("vocab-search", search(&base, published)).unwrap();
    let model = SentencePiece::open(&workshop.output().join("tokenizer.model")).unwrap();
    let new = &model.model().pieces[700..];
    assert_eq!(new.len(), 1500);
    assert!(new.iter().all(|piece| piece.score() == 0.0));
    assert!(new.iter().any(|piece| piece.text() == "”" || piece.text() == "“"));
}

#[test]
fn threads_do_not_change_a_byte() {
    let workshop = Workshop::new();
    let base = base(&workshop);
    let outputs = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| workshop.run("vocab-search", search(&base, json!({})))).unwrap();
        workshop.outputs()
    };
    assert!(outputs(1) == outputs(3));
}

#[test]
fn bad_input_is_told_before_the_work() {
    let workshop = Workshop::new();
    let base = base(&workshop);
    let fails = |over: Value, message: &str| {
        let error = workshop.run("vocab-search", search(&base, over)).unwrap_err();
        assert!(error.one_line().contains(message), "{error:?}");
        assert_eq!(error.code(), ExitCode::Invalid, "{error:?}");
    };
    fails(json!({"score": [corpus(&[english()])]}), "`score`: the corpus holds no Chinese character");
    fails(json!({"train": [corpus(&[english()])]}), "`train`: the documents hold no Chinese character");
    fails(
        json!({"single_characters": [800], "sizes": [700, 900]}),
        "a vocabulary of 700 pieces has no room for 800 single characters and 259 special pieces",
    );
    fails(json!({"size": 10, "add": 20}), "`size` and `add` both say how large the vocabulary is to be");
    fails(json!({"add": 20}), "new pieces, not the 20 asked for");
    fails(json!({"single_characters": []}), "`single_characters` must name at least one number");

    let small = workshop.write("small.jsonl", "{\"text\": \"山谷里的春天来了\"}\n");
    let tiny = corpus(&[small]);
    fails(
        json!({"train": [tiny]}),
        "the text to train on has 9 characters, too few for a vocabulary of 2000 pieces",
    );
    let repeated = "{\"text\": \"山谷里的春天来了\"}\n".repeat(500);
    let repeated = corpus(&[workshop.write("repeated.jsonl", repeated)]);
    fails(
        json!({"train": [repeated], "single_characters": [9]}),
        "the text gives a vocabulary of 20 pieces at most, not the 2000 asked for",
    );
    let json_base = workshop.write("only/tokenizer.json", {
        workshop.run("train-tokenizer", json!({"train": [corpus(&[english()])], "vocab_size": 700})).unwrap();
        workshop.outputs().remove("tokenizer.json").unwrap()
    });
    fails(json!({"base": input(&json_base)}), "`base`: the base is no SentencePiece BPE model");
}

#[test]
fn a_unigram_base_is_refused_with_advice() {
    let Some(unigram) = shared("tokenizers/ymcui-chinese_sp-20000.model") else { return };
    let error = Workshop::new().run("vocab-search", search(&unigram, json!({}))).unwrap_err();
    assert!(error.one_line().contains("is no SentencePiece BPE model"), "{error:?}");
    assert_eq!(error.code(), ExitCode::Invalid);
    assert!(error.advice().unwrap().contains("tokenizer.model"), "{error:?}");
}

#[test]
fn a_training_that_cannot_be_is_refused() {
    let workshop = Workshop::new();
    let fails = |over: Value, message: &str| {
        let mut parameters = json!({"train": [corpus(&[english()])], "vocab_size": 700});
        parameters.as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
        let error = workshop.run("train-tokenizer", parameters).unwrap_err();
        assert!(error.one_line().contains(message), "{error:?}");
    };
    fails(json!({"vocab_size": 300}), "a vocabulary of 300 pieces has no room for");
    fails(json!({"vocab_size": 90_000}), "pieces at most, not the 90000 asked for");
    fails(json!({"character_coverage": 1.5}), "`character_coverage` is a share of the text");
    let empty = corpus(&[workshop.write("empty.jsonl", "{\"text\": \"\"}\n")]);
    fails(json!({"train": [empty]}), "`train`: the documents hold no text to train on");
}

/// The published run cut Chinese tokens by 41.5 %; so must a vocabulary from a part of real books, on lines it has not
/// seen, against a real base.
#[test]
fn real_text_is_cut_by_more_than_the_published_share() {
    let (Some(books), Some(base)) = (shared("zh/books.jsonl"), shared("stories-moe/tokenizer.model")) else {
        return;
    };
    let workshop = Workshop::new();
    let documents = texts(&[books]);
    let (held_out, train) = documents[..600].split_at(60);
    let write = |name: &str, texts: &[String]| {
        let mut lines = Vec::new();
        for text in texts {
            writeln!(lines, "{}", json!({"text": text})).unwrap();
        }
        workshop.write(name, lines)
    };
    let (train, held_out) = (write("train.jsonl", train), write("held-out.jsonl", held_out));
    workshop
        .run(
            "vocab-search",
            json!({
                "base": input(&base),
                "train": [corpus(&[train])],
                "score": [corpus(&[held_out])],
                "single_characters": [2000, 3000],
                "sizes": "4000..=10000 by 1000",
            }),
        )
        .unwrap();
    let metrics = workshop.metrics();
    assert!(metrics["cut_percent"].as_f64().unwrap() >= 41.5, "{metrics:?}");
}
