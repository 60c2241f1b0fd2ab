//! Every document of a corpus lands on exactly one side, the sides are as large as asked, and bad lines are named.

mod workshop;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use cmx::corpus::split::Ratio;
use cmx::error::{ExitCode, Result};
use serde_json::{Value, json};
use workshop::{Workshop, dataset, shared};

fn split(shop: &Workshop, parameters: Value) -> Result<()> {
    let mut all = json!({"dataset": dataset("books", Some("jsonl"), Some(&shop.input()))});
    for (name, value) in parameters.as_object().unwrap() {
        all[name] = value.clone();
    }
    shop.run("split", all)
}

fn lines(file: &[u8]) -> Vec<String> {
    String::from_utf8(file.to_vec()).unwrap().split_terminator('\n').map(str::to_owned).collect()
}

/// Train and dev lines.
fn sides(shop: &Workshop) -> (Vec<String>, Vec<String>) {
    let outputs = shop.outputs();
    assert_eq!(outputs.len(), 2);
    (lines(&outputs["books-train.jsonl"]), lines(&outputs["books-dev.jsonl"]))
}

fn document(number: usize) -> String {
    json!({"text": format!("document {number}"), "n": number}).to_string()
}

#[test]
fn hash_depends_on_text_alone() {
    let one = Workshop::new();
    one.write("all.jsonl", (0..5000).map(|n| document(n) + "\n").collect::<String>());
    split(&one, json!({"ratio": "99:1"})).unwrap();
    let (train, dev) = sides(&one);
    assert_eq!(train.len() + dev.len(), 5000);
    assert!((30..=75).contains(&dev.len()), "{} of 5,000 at 1 %", dev.len());
    let metrics = one.metrics();
    assert_eq!(metrics["documents.train"], json!(train.len()));
    assert_eq!(metrics["bytes.dev"], json!(dev.iter().map(|line| line.len() + 1).sum::<usize>()));

    // Other files, another order, other fields beside the text, another way to write it: the same documents.
    let two = Workshop::new();
    for file in 0..3 {
        let part = (0..5000).rev().filter(|n| n % 3 == file);
        let text = part.map(|n| format!("{{\"text\":\"\\u0064ocument {n}\"}}\r\n")).collect::<String>();
        two.write(&format!("data/{file}.jsonl"), text.trim_end());
    }
    split(&two, json!({"ratio": "99:1"})).unwrap();
    let texts = |lines: &[String]| {
        let text =
            |line: &String| serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().to_owned();
        let mut texts: Vec<String> = lines.iter().map(text).collect();
        texts.sort();
        texts
    };
    assert_eq!(texts(&sides(&two).1), texts(&dev));

    split(&one, json!({"ratio": "99:1", "seed": 43})).unwrap();
    assert_ne!(sides(&one).1, dev);
}

/// Which documents become dev is a promise; a change of it needs another revision of the kind. The numbers are those
/// for which Python's `(xxhash.xxh3_128_intdigest(text, seed) >> 64) * 200 >> 64` is 0.
#[test]
fn hash_chooses_the_same_documents_for_ever() {
    let shop = Workshop::new();
    shop.write("a.jsonl", (0..1000).map(|n| document(n) + "\n").collect::<String>());
    for (seed, expected) in [(42, vec![357, 377, 391, 475, 486]), (7, vec![152, 415, 715, 814])] {
        split(&shop, json!({"ratio": "199:1", "seed": seed})).unwrap();
        let (_, dev) = sides(&shop);
        let number = |line: &String| serde_json::from_str::<Value>(line).unwrap()["n"].as_u64().unwrap();
        assert_eq!(dev.iter().map(number).collect::<Vec<_>>(), expected, "seed {seed}");
    }
}

#[test]
fn both_sides_get_something_however_small_the_corpus() {
    for count in 1..40 {
        for ratio in ["999:1", "1:999", "1:1"] {
            for method in ["hash", "tail"] {
                let shop = Workshop::new();
                shop.write("a.jsonl", (0..count).map(|n| document(n) + "\n").collect::<String>());
                split(&shop, json!({"ratio": ratio, "method": method})).unwrap();
                let (train, dev) = sides(&shop);
                assert!(!train.is_empty());
                assert_eq!(dev.is_empty(), count == 1);
                let mut all: Vec<String> = train.iter().chain(&dev).cloned().collect();
                assert_eq!(shop.metrics()["documents.train"], json!(train.len()));
                // Each side keeps the order of the corpus.
                let expected: Vec<String> = (0..count).map(document).collect();
                for side in [&train, &dev] {
                    let ordered = expected.iter().filter(|line| side.contains(line)).collect::<Vec<_>>();
                    assert_eq!(side.iter().collect::<Vec<_>>(), ordered);
                }
                all.sort_by_key(|line| expected.iter().position(|other| other == line));
                assert_eq!(all, expected);
            }
        }
    }
}

#[test]
fn copies_stay_together_or_are_dropped() {
    let shop = Workshop::new();
    let text = (0..300).map(|n| document(n % 100) + "\n").collect::<String>();
    shop.write("a.jsonl", &text);
    split(&shop, json!({"ratio": "9:1"})).unwrap();
    let (train, dev) = sides(&shop);
    assert_eq!(train.len() + dev.len(), 300);
    assert!(dev.iter().all(|line| !train.contains(line)));
    // At 999:1 none of the hundred falls to dev by itself, and the one that is moved goes with its copies.
    split(&shop, json!({})).unwrap();
    let (train, dev) = sides(&shop);
    assert_eq!((train.len(), dev.len()), (297, 3));
    assert!(dev.iter().all(|line| !train.contains(line)));

    for method in ["hash", "tail"] {
        split(&shop, json!({"ratio": "9:1", "deduplicate": true, "method": method})).unwrap();
        let (train, dev) = sides(&shop);
        assert_eq!(train.len() + dev.len(), 100);
        assert_eq!(shop.metrics()["duplicates"], json!(200));
    }
    shop.write("a.jsonl", (document(1) + "\n").repeat(3));
    split(&shop, json!({})).unwrap();
    let (train, dev) = sides(&shop);
    assert_eq!((train.len(), dev.len()), (2, 1));
}

/// `cat *.jsonl > all.jsonl; split -l` with the line count that `wc -l` and the ratio give.
#[test]
fn tail_is_what_the_shell_gives() {
    let Some(books) = shared("zh/laws.jsonl") else { return };
    let shop = Workshop::new();
    let text = std::fs::read(books).unwrap();
    let middle = text.len() / 2 + text[text.len() / 2..].iter().position(|byte| *byte == b'\n').unwrap() + 1;
    shop.write("1.jsonl", &text[..middle]);
    shop.write("2.jsonl", &text[middle..]);
    split(&shop, json!({"method": "tail"})).unwrap();
    let script = "cat *.jsonl > all; split -l $(($(wc -l < all) * 999 / 1000)) all part-";
    assert!(Command::new("sh").args(["-c", script]).current_dir(shop.input()).status().unwrap().success());
    let part = |name| std::fs::read(shop.input().join(name)).unwrap();
    let expected: BTreeMap<String, Vec<u8>> =
        [("books-train.jsonl", part("part-aa")), ("books-dev.jsonl", part("part-ab"))]
            .map(|(name, content)| (name.to_owned(), content))
            .into();
    assert!(!shop.input().join("part-ac").exists());
    assert!(shop.outputs() == expected);
}

#[test]
fn one_thread_or_many_give_the_same_bytes() {
    let Some(laws) = shared("zh/laws.jsonl") else { return };
    let shop = Workshop::new();
    std::fs::copy(&laws, shop.input().join("a.jsonl")).unwrap();
    std::fs::copy(&laws, shop.input().join("b.jsonl")).unwrap();
    for parameters in [
        json!({"ratio": "9:1"}),
        json!({"ratio": "1:1", "deduplicate": true}),
        json!({"ratio": "2:1", "method": "tail", "deduplicate": true}),
    ] {
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| split(&shop, parameters.clone())).unwrap();
            shop.outputs()
        };
        let one = on(1);
        assert!(one == on(3));
        if parameters["deduplicate"] == json!(true) {
            // The second file, at least, is all copies; what stays is the first of each, in order.
            let text = std::fs::read(&laws).unwrap();
            let mut seen = BTreeSet::new();
            let first: Vec<String> = lines(&text).into_iter().filter(|line| seen.insert(line.clone())).collect();
            let (train, dev) = sides(&shop);
            assert_eq!(train.len() + dev.len(), first.len());
            if parameters["method"] == json!("tail") {
                assert!([train, dev].concat() == first);
            }
        }
    }
}

#[test]
fn a_bad_line_is_named() {
    let message = |content: &[u8]| {
        let shop = Workshop::new();
        shop.write("a.jsonl", document(0) + "\n");
        let path = shop.write("b.jsonl", [document(1).as_bytes(), b"\n", content, b"\n"].concat());
        let error = split(&shop, json!({})).unwrap_err();
        assert_eq!(error.code(), ExitCode::Invalid);
        error.one_line().replace(&path.display().to_string(), "b.jsonl")
    };
    let begin = "cannot split the dataset `books`: b.jsonl, line 2:";
    assert_eq!(message(b"{\"text\": \"\xff\"}"), format!("{begin} not valid UTF-8 at byte 11"));
    assert_eq!(
        message(b"{\"text\": \"a\""),
        format!("{begin} not valid JSON: EOF while parsing an object at column 12")
    );
    assert_eq!(message(b"{\"text\" \"a\"}"), format!("{begin} not valid JSON: expected `:` at column 9"));
    assert_eq!(message(b""), format!("{begin} not valid JSON: the line is empty"));
    assert_eq!(message(b"{\"content\": \"a\"}"), format!("{begin} the object has no field `text`"));
    assert_eq!(message(b"{\"text\": 5}"), format!("{begin} `text` is a number, not a string"));
    assert_eq!(message(b"[1]"), format!("{begin} an array where an object was expected"));
}

#[test]
fn an_empty_corpus_is_an_error() {
    let shop = Workshop::new();
    let error = split(&shop, json!({})).unwrap_err();
    assert_eq!(error.message(), format!("the dataset `books` has no *.jsonl file in {}", shop.input().display()));
    shop.write("a.jsonl", "");
    let error = split(&shop, json!({})).unwrap_err();
    assert_eq!(error.one_line(), "cannot split the dataset `books`: the corpus is empty: its files hold no line");
    assert_eq!(error.code(), ExitCode::Invalid);
}

#[test]
fn a_ratio_is_two_whole_numbers_above_0() {
    for wrong in ["999", "0:1", "1:0", "-9:1", "9:many", "9:0.5", "9999999999:1", ""] {
        let error = Ratio::try_from(wrong.to_owned()).unwrap_err();
        assert_eq!(error.code(), ExitCode::Invalid);
        assert_eq!(error.message(), format!("the ratio `{wrong}` is not made of two whole numbers above 0"));
        assert_eq!(error.advice(), Some("write train:dev, for example \"999:1\""));
    }
    assert_eq!(Ratio::try_from("999:1".to_owned()).unwrap(), Ratio { train: 999, dev: 1 });
}
