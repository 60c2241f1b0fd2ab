//! Ids are those of the programs whose tokenizers they are, on whole real documents: SentencePiece for a
//! `tokenizer.model` (and transformers where that is asked for), the `tokenizers` library for a `tokenizer.json`.
//!
//! The first documents of every corpus; `CMX_ALL_DOCUMENTS=1` asks for all of `../shared/data`. What the programs in
//! Python gave is in `tests/golden/encoded_digests.json`, which `tests/golden/make_encoded_digests.py` wrote.

mod workshop;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cmx::corpus::documents;
use cmx::tokenizer::{Encoder, Tokenizer};
use rayon::prelude::*;
use serde::Deserialize;
use sha2::{Digest, Sha256};

#[derive(Deserialize)]
struct Golden {
    /// How many documents of a corpus `Given::first` is of.
    first: usize,
    /// By encoder, model and corpus.
    encoders: BTreeMap<String, BTreeMap<String, BTreeMap<String, Given>>>,
}

#[derive(Deserialize)]
struct Given {
    first: Summary,
    all: Option<Summary>,
    documents: Option<usize>,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Summary {
    tokens: usize,
    sha256: String,
}

fn golden() -> Golden {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/encoded_digests.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn all_documents() -> bool {
    std::env::var_os("CMX_ALL_DOCUMENTS").is_some()
}

/// The documents of a corpus, at most `count`; those of `eval` are its files.
fn texts(corpus: &str, count: usize) -> Option<Vec<String>> {
    if corpus != "eval" {
        let path = workshop::shared(&format!("{corpus}.jsonl"))?;
        return Some(documents(&[path]).take(count).map(|document| document.unwrap().text).collect());
    }
    let (mut files, mut folders) = (Vec::new(), vec![workshop::shared("eval")?]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    Some(files.iter().take(count).map(|path| std::fs::read_to_string(path).unwrap()).collect())
}

fn summary(tokenizer: &Tokenizer, texts: &[String]) -> Summary {
    let ids: Vec<Vec<u32>> = texts.par_iter().map(|text| tokenizer.encode(text).unwrap()).collect();
    let mut digest = Sha256::new();
    for id in ids.iter().flat_map(|ids| ids.iter().chain([&u32::MAX])) {
        digest.update(id.to_le_bytes());
    }
    let sha256 = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Summary { tokens: ids.iter().map(Vec::len).sum(), sha256 }
}

fn model(name: &str) -> Option<PathBuf> {
    workshop::shared(&format!("tokenizers/{name}.model"))
}

#[test]
fn a_model_gives_the_ids_of_sentencepiece_and_of_transformers() {
    let golden = golden();
    for (encoder, models) in &golden.encoders {
        let encoder: Encoder = serde_json::from_value(encoder.as_str().into()).unwrap();
        for (name, corpora) in models {
            let Some(path) = model(name) else { return };
            let tokenizer = Tokenizer::open_as(&path, encoder).unwrap();
            for (corpus, given) in corpora {
                let (count, expected) = match &given.all {
                    Some(all) if all_documents() => (usize::MAX, all),
                    _ => (golden.first, &given.first),
                };
                let Some(texts) = texts(corpus, count) else { return };
                assert_eq!(&summary(&tokenizer, &texts), expected, "{encoder:?}, {name} on {corpus}");
                if let (usize::MAX, Some(documents)) = (count, given.documents) {
                    assert_eq!(texts.len(), documents, "{corpus}");
                }
            }
        }
    }
}

/// A `tokenizer.json` is encoded with as `tokenizers` does it; and the one that is written beside a `tokenizer.model`
/// gives the model's ids there, unless the scores of the model's pieces tie, as those of the 55,296 do.
#[test]
fn a_tokenizer_json_gives_the_ids_of_tokenizers() {
    let folder = tempfile::tempdir().unwrap();
    let mut pairs = Vec::new();
    for name in ["mixtral-8x7b-v0.1.tokenizer", "llama-32000", "mistral-instruct-v3-32768"] {
        let Some(path) = model(name) else { return };
        let tokenizer = Tokenizer::open(&path).unwrap();
        tokenizer.save(folder.path()).unwrap();
        pairs.push((
            name,
            tokenizer,
            tokenizers::Tokenizer::from_file(folder.path().join("tokenizer.json")).unwrap(),
        ));
    }
    let Some(path) = workshop::shared("tokenizers/minimind-6400.tokenizer.json") else { return };
    let theirs = tokenizers::Tokenizer::from_file(&path).unwrap();
    pairs.push(("minimind-6400", Tokenizer::open(&path).unwrap(), theirs));
    let count = if all_documents() { usize::MAX } else { 20 };
    let corpora = [
        "zh/articles",
        "zh/books",
        "zh/instructions",
        "zh/laws",
        "zh/python-docs",
        "zh/qa",
        "en/python-docs",
        "en/rfcs",
        "eval",
    ];
    for corpus in corpora {
        let Some(texts) = texts(corpus, count) else { return };
        for (name, ours, theirs) in &pairs {
            texts.par_iter().enumerate().for_each(|(number, text)| {
                let expected = theirs.encode_fast(text.as_str(), false).unwrap();
                assert!(
                    ours.encode(text).unwrap() == expected.get_ids(),
                    "{name} on document {number} of {corpus}"
                );
            });
        }
    }
}

/// The least texts on which the programs part.
#[test]
fn where_the_encoders_part() {
    let Some(path) = model("mixtral-8x7b-v0.1.tokenizer") else { return };
    let [native, four, five] = [Encoder::Native, Encoder::Transformers4, Encoder::Transformers5]
        .map(|encoder| Tokenizer::open_as(&path, encoder).unwrap());
    let pieces = |tokenizer: &Tokenizer, text: &str| {
        tokenizer.encode(text).unwrap().iter().map(|&id| native.piece(id).unwrap().to_owned()).collect::<Vec<_>>()
    };
    // A run of spaces, whose piece has the least score and one of the first ids.
    assert_eq!(pieces(&native, "a.  The"), ["▁a", ".", "▁", "▁The"]);
    assert_eq!(pieces(&four, "a.  The"), ["▁a", ".", "▁", "▁The"]);
    assert_eq!(pieces(&five, "a.  The"), ["▁a", ".", "▁▁", "The"]);
    // A text that begins with a space.
    assert_eq!(pieces(&native, " a"), ["▁", "▁a"]);
    assert_eq!(pieces(&five, " a"), ["▁a"]);
    // A special token in a text: text for SentencePiece, and for transformers the token itself, behind which a new
    // text begins.
    assert_eq!(pieces(&native, "a</s>b"), ["▁a", "</", "s", ">", "b"]);
    assert_eq!(pieces(&four, "a</s>b"), ["▁a", "</s>", "▁b"]);
    assert_eq!(pieces(&five, "a</s>b"), ["▁a", "</s>", "▁b"]);
    // Pieces of equal score: SentencePiece merges from left to right, transformers by the lengths of the halves.
    let Some(path) = model("ymcui-chinese-llama2-55296") else { return };
    let [native, four] =
        [Encoder::Native, Encoder::Transformers4].map(|encoder| Tokenizer::open_as(&path, encoder).unwrap());
    let pieces = |tokenizer: &Tokenizer, text: &str| {
        tokenizer.encode(text).unwrap().iter().map(|&id| native.piece(id).unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(pieces(&native, "开源之上的"), ["▁", "开源", "之上", "的"]);
    assert_eq!(pieces(&four, "开源之上的"), ["▁", "开源", "之", "上的"]);
}
