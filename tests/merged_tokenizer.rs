//! Mixtral's tokenizer with exactly 25,000 Chinese pieces more: nothing changes for English, and `tokenizer.json` gives
//! the ids of `tokenizer.model`. Without Python; `tests/parity/merged_tokenizer.py` asks the other programs.
//!
//! The first documents of every corpus; `CMX_ALL_DOCUMENTS=1` asks for all of `../shared/data`.

mod workshop;

use std::path::PathBuf;

use cmx::corpus::documents;
use cmx::tokenizer::Tokenizer;
use rayon::prelude::*;
use serde_json::{Value, json};
use workshop::{Workshop, shared};

const CHINESE: [&str; 6] = ["zh/books", "zh/laws", "zh/articles", "zh/python-docs", "zh/qa", "zh/instructions"];
const ENGLISH: [&str; 2] = ["en/python-docs", "en/rfcs"];

fn texts(corpus: &str, count: usize) -> Option<Vec<String>> {
    let path = shared(&format!("{corpus}.jsonl"))?;
    Some(documents(&[path]).take(count).map(|document| document.unwrap().text).collect())
}

/// Runs `vocab-search` for 25,000 pieces on real text, of which a part is enough here.
fn merge(shop: &Workshop, base: &PathBuf, scores: &str) -> Option<()> {
    let corpus = |names: &[&str]| -> Option<Value> {
        let files: Option<Vec<PathBuf>> = names.iter().map(|name| shared(&format!("{name}.jsonl"))).collect();
        Some(json!({"from": names.join(" "), "files": files?}))
    };
    let parameters = json!({
        "base": {"from": "mixtral", "path": base},
        "train": [corpus(&["zh/laws", "zh/articles"])?],
        "score": [corpus(&["zh/qa"])?],
        "single_characters": [4451],
        "sizes": [25000],
        "add": 25000,
        "lines": 60000,
        "scores": scores,
    });
    shop.run("vocab-search", parameters).unwrap();
    Some(())
}

#[test]
fn english_stays_and_both_files_agree() {
    let Some(base) = shared("tokenizers/mixtral-8x7b-v0.1.tokenizer.model") else { return };
    let shop = Workshop::new();
    let Some(()) = merge(&shop, &base, "distinct") else { return };
    let (old, new) = (Tokenizer::open(&base).unwrap(), Tokenizer::open(&shop.output()).unwrap());
    assert_eq!((old.vocab_size(), new.vocab_size()), (32_000, 57_000));
    let (before, after) = (old.sentencepiece().unwrap().model(), new.sentencepiece().unwrap().model());
    assert_eq!(before.pieces, after.pieces[..32_000]);
    let scores: Vec<f32> = after.pieces[32_000..].iter().map(|piece| piece.score()).collect();
    assert!(scores[0] < before.minimum_score() && scores.is_sorted_by(|a, b| a > b));

    let count = if std::env::var_os("CMX_ALL_DOCUMENTS").is_some() { usize::MAX } else { 60 };
    let fast = Tokenizer::open(&shop.output().join("tokenizer.json")).unwrap();
    for corpus in CHINESE.into_iter().chain(ENGLISH) {
        let Some(texts) = texts(corpus, count) else { return };
        let tokens: Vec<(usize, usize)> = texts
            .par_iter()
            .enumerate()
            .map(|(number, text)| {
                let [before, after, fast] = [&old, &new, &fast].map(|tokenizer| tokenizer.encode(text).unwrap());
                assert!(fast == after, "tokenizer.json on document {number} of {corpus}");
                assert_eq!(new.decode(&after).unwrap(), text.replace('▁', " "));
                if ENGLISH.contains(&corpus) {
                    assert!(before == after, "document {number} of {corpus} has other ids than before");
                }
                (before.len(), after.len())
            })
            .collect();
        let (before, after) = tokens.iter().fold((0, 0), |(b, a), (before, after)| (b + before, a + after));
        assert!(ENGLISH.contains(&corpus) || after * 10 < before * 8, "{corpus}: {before} tokens, now {after}");
    }
}

/// As published, with score 0 for all new pieces: SentencePiece resolves the ties from left to right, and the list of
/// merges cannot.
#[test]
fn with_equal_scores_the_two_files_part() {
    let Some(base) = shared("tokenizers/mixtral-8x7b-v0.1.tokenizer.model") else { return };
    let shop = Workshop::new();
    let Some(()) = merge(&shop, &base, "zero") else { return };
    let new = Tokenizer::open(&shop.output()).unwrap();
    let pieces = &new.sentencepiece().unwrap().model().pieces[32_000..];
    assert!(pieces.len() == 25_000 && pieces.iter().all(|piece| piece.score() == 0.0));
    let fast = Tokenizer::open(&shop.output().join("tokenizer.json")).unwrap();
    let Some(texts) = texts("zh/articles", 20) else { return };
    assert!(texts.iter().any(|text| fast.encode(text).unwrap() != new.encode(text).unwrap()));
}
