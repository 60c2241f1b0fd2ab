//! The published sweep on real text: curves that cross, and 25,000 pieces that serve Chinese which the search never
//! trained on, beside Mixtral's tokenizer and a published one of 55,296 pieces.
//!
//! Each search trains on three corpora and scores on two others. Which three decides how well an unseen one is served:
//! nothing here speaks of medicine but `qa`, where the published tokenizer, trained on far more text, stays ahead of a
//! search that has not seen it (`docs/benchmarks.md` has all the figures).

mod workshop;

use std::path::{Path, PathBuf};

use cmx::corpus::documents;
use cmx::tokenizer::Tokenizer;
use serde_json::{Value, json};
use unicode_script::{Script, UnicodeScript};
use workshop::{Workshop, shared};

const MIXTRAL: &str = "tokenizers/mixtral-8x7b-v0.1.tokenizer.model";

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

/// A search with the published single characters and sizes; its `search.json`. Books hold classical Chinese, so that
/// the text has as many characters. `None` without the shared data.
fn search(workshop: &Workshop, train: [&str; 3], score: [&str; 2]) -> Option<Value> {
    let base = shared(MIXTRAL)?;
    let (train, score) = (corpora(&train)?, corpora(&score)?);
    let parameters =
        json!({"base": {"from": "Mixtral", "path": base}, "train": train, "score": score, "add": 25_000});
    workshop.run("vocab-search", parameters).unwrap();
    let search: Value = serde_json::from_slice(&workshop.outputs()["search.json"]).unwrap();
    assert_eq!(search["choice"]["vocabulary"], 57_000);
    Some(search)
}

/// The curves by their ALP at a size on the first corpus, best first: their single characters.
fn ranking(search: &Value, size: u64) -> Vec<u64> {
    let alp = |curve: &&Value| {
        let point = curve["points"].as_array().unwrap().iter().find(|point| point["size"] == size).unwrap();
        point["alp"][0].as_f64().unwrap()
    };
    let mut curves: Vec<&Value> = search["curves"].as_array().unwrap().iter().collect();
    curves.sort_by(|a, b| alp(b).total_cmp(&alp(a)));
    curves.iter().map(|curve| curve["single_characters"].as_u64().unwrap()).collect()
}

#[test]
fn more_single_characters_lose_at_small_sizes_and_win_at_large_ones() {
    let workshop = Workshop::new();
    let Some(search) = search(&workshop, ["books", "laws", "articles"], ["qa", "instructions"]) else { return };
    assert_eq!(ranking(&search, 11_000), [5435, 6414, 4451, 7434]);
    assert_eq!(ranking(&search, 41_000), [7434, 6414, 5435, 4451]);
    assert_eq!(search["choice"]["single_characters"], 6414, "as published");
    let metrics = workshop.metrics();
    eprintln!("both unseen corpora, whole: cut by {:.1} %", metrics["cut_percent"].as_f64().unwrap());
    assert!(metrics["cut_percent"].as_f64().unwrap() >= 41.5, "{metrics:?}");
}

#[test]
fn unseen_text_takes_no_more_tokens_than_with_a_published_tokenizer() {
    let scored_on = ["instructions", "python-docs"];
    let workshop = Workshop::new();
    let Some(search) = search(&workshop, ["articles", "books", "qa"], scored_on) else { return };
    assert_eq!(ranking(&search, 11_000), [4451, 5435, 6414, 7434]);
    assert_eq!(ranking(&search, 41_000)[3], 4451);

    let (base, peer) = (shared(MIXTRAL).unwrap(), shared("tokenizers/ymcui-chinese-llama2-55296.model").unwrap());
    for name in scored_on {
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
