//! The published sweep on real text: curves that cross, and 25,000 pieces that serve Chinese which the search never
//! trained on, beside Mixtral's tokenizer and a published one of 55,296 pieces.

mod workshop;

use std::path::{Path, PathBuf};

use cmx::corpus::documents;
use cmx::tokenizer::Tokenizer;
use serde_json::{Value, json};
use unicode_script::{Script, UnicodeScript};
use workshop::{Workshop, shared};

/// Where rare characters are: books hold classical Chinese, so that the text has all the published numbers of them.
const TRAINED_ON: [&str; 3] = ["articles", "books", "qa"];
const SCORED_ON: [&str; 2] = ["instructions", "python-docs"];

fn file(name: &str) -> Option<PathBuf> {
    shared(&format!("zh/{name}.jsonl"))
}

fn corpora(names: &[&str]) -> Option<Vec<Value>> {
    names.iter().map(|name| Some(json!({"from": name, "files": [file(name)?]}))).collect()
}

/// The lines of a corpus that are more Chinese than not: what is cut in code and English says nothing of a Chinese
/// vocabulary.
fn chinese_lines(name: &str) -> Vec<String> {
    let is_chinese = |line: &&str| {
        let han = line.chars().filter(|c| c.script() == Script::Han).count();
        2 * han > line.chars().count()
    };
    let texts = documents(&[file(name).unwrap()]).map(|document| document.unwrap().text).collect::<Vec<_>>();
    texts.iter().flat_map(|text| text.split('\n').filter(is_chinese)).map(str::to_owned).collect()
}

fn tokens(tokenizer: &Path, lines: &[String]) -> usize {
    let tokenizer = Tokenizer::open(tokenizer).unwrap();
    lines.iter().map(|line| tokenizer.encode(line).unwrap().len()).sum()
}

#[test]
fn the_published_sweep_on_text_of_our_own() {
    let (Some(base), Some(peer), Some(train), Some(score)) = (
        shared("tokenizers/mixtral-8x7b-v0.1.tokenizer.model"),
        shared("tokenizers/ymcui-chinese-llama2-55296.model"),
        corpora(&TRAINED_ON),
        corpora(&SCORED_ON),
    ) else {
        return;
    };
    let workshop = Workshop::new();
    let parameters =
        json!({"base": {"from": "Mixtral", "path": base}, "train": train, "score": score, "add": 25_000});
    workshop.run("vocab-search", parameters).unwrap();
    let search: Value = serde_json::from_slice(&workshop.outputs()["search.json"]).unwrap();
    assert_eq!(search["choice"]["vocabulary"], 57_000);

    // More single characters lose at small sizes and win at large ones.
    let curves = search["curves"].as_array().unwrap();
    let numbers: Vec<u64> = curves.iter().map(|curve| curve["single_characters"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [4451, 5435, 6414, 7434]);
    let alp = |curve: usize, size: u64| {
        let points = curves[curve]["points"].as_array().unwrap();
        let point = points.iter().find(|point| point["size"] == size).unwrap();
        point["alp"][0].as_f64().unwrap()
    };
    let order = |size: u64| {
        let mut order: Vec<usize> = (0..4).collect();
        order.sort_by(|a, b| alp(*b, size).total_cmp(&alp(*a, size)));
        order
    };
    assert_eq!(order(11_000), [0, 1, 2, 3], "fewer single characters are better at the smallest size");
    assert_eq!(order(41_000)[3], 0, "the fewest are worst at the largest");

    for name in SCORED_ON {
        let lines = chinese_lines(name);
        let [before, after, theirs] = [&base, &workshop.output(), &peer].map(|path| tokens(path, &lines));
        let cut = |tokens: usize| 100.0 * (1.0 - tokens as f64 / before as f64);
        eprintln!(
            "{name}: {before} tokens → {after}, cut by {:.1} %; the peer by {:.1} %",
            cut(after),
            cut(theirs)
        );
        assert!(after <= theirs, "{name}: {after} tokens, the peer {theirs}");
        if name == "instructions" {
            assert!(cut(after) >= 41.5, "{name}: cut by {:.1} %", cut(after));
        }
    }
}
