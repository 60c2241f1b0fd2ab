//! Encoding, decoding, training and ALP are those of Google's SentencePiece; `tests/golden/make_sentencepiece_ids.py`
//! wrote what it gave.

mod workshop;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cmx::corpus::documents;
use cmx::tokenizer::trainer::{Alphabet, Rules, Trained, Words, train};
use cmx::tokenizer::{ModelProto, SentencePiece, Tokenizer, alp};
use serde::Deserialize;
use sha2::{Digest, Sha256};

#[derive(Deserialize)]
struct Golden {
    awkward: BTreeMap<String, Vec<Encoded>>,
    real: BTreeMap<String, BTreeMap<String, Summary>>,
    first: usize,
    sizes: Vec<Size>,
}

#[derive(Deserialize)]
struct Encoded {
    text: String,
    ids: Vec<u32>,
    decoded: String,
}

#[derive(Deserialize)]
struct Summary {
    tokens: usize,
    sha256: String,
}

/// A vocabulary that was trained for this size alone.
#[derive(Deserialize)]
struct Size {
    size: usize,
    pieces: String,
    ids: String,
    tokens: u64,
    alp: f64,
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn golden() -> Golden {
    serde_json::from_slice(&std::fs::read(root("tests/golden/sentencepiece/ids.json")).unwrap()).unwrap()
}

fn model(name: &str) -> PathBuf {
    root(&format!("tests/golden/sentencepiece/{name}.model"))
}

/// The lines of all documents of files below `examples/hub`.
fn lines(files: &[&str]) -> Vec<String> {
    let files: Vec<_> = files.iter().map(|file| root("examples/hub/datasets/cmx").join(file)).collect();
    documents(&files)
        .flat_map(|document| document.unwrap().text.split('\n').map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

fn chinese() -> Vec<String> {
    lines(
        &["01", "02", "03", "04"]
            .map(|month| format!("valley-zh/data/2023-{month}.jsonl"))
            .each_ref()
            .map(|f| &**f),
    )
}

fn sha256(bytes: impl Iterator<Item = u8>) -> String {
    let bytes: Vec<u8> = bytes.collect();
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn trained(rules: Rules, coverage: f32, size: usize, lines: &[String]) -> Trained {
    train(Words::of(rules, lines), Alphabet::Coverage(coverage), size, |_| Ok(false)).unwrap()
}

fn same_pieces(ours: &ModelProto, name: &str) {
    let theirs = ModelProto::read(&model(name)).unwrap();
    for (id, (ours, theirs)) in ours.pieces.iter().zip(&theirs.pieces).enumerate() {
        assert_eq!(ours, theirs, "piece {id} of {name}");
    }
    assert_eq!(ours.pieces.len(), theirs.pieces.len());
}

#[test]
fn awkward_texts_get_the_same_ids_and_come_back_the_same() {
    for (name, texts) in golden().awkward {
        let tokenizer = Tokenizer::open(&model(&name)).unwrap();
        for Encoded { text, ids, decoded } in texts {
            assert_eq!(tokenizer.encode(&text).unwrap(), ids, "{name}: {text:?}");
            assert_eq!(tokenizer.decode(&ids).unwrap(), decoded, "{name}: {text:?}");
        }
    }
}

#[test]
fn published_models_encode_real_documents_the_same() {
    let golden = golden();
    for (name, corpora) in golden.real {
        let Some(path) = workshop::shared(&format!("tokenizers/{name}.model")) else { return };
        let tokenizer = Tokenizer::open(&path).unwrap();
        for (corpus, expected) in corpora {
            let Some(path) = workshop::shared(&format!("{corpus}.jsonl")) else { return };
            let files = [path];
            let documents = documents(&files).take(golden.first);
            let ids: Vec<_> =
                documents.map(|document| tokenizer.encode(&document.unwrap().text).unwrap()).collect();
            let tokens = ids.iter().map(Vec::len).sum();
            let bytes =
                ids.into_iter().flat_map(|ids| ids.into_iter().chain([u32::MAX]).flat_map(u32::to_le_bytes));
            assert_eq!((tokens, sha256(bytes)), (expected.tokens, expected.sha256), "{name} on {corpus}");
        }
    }
}

#[test]
fn a_model_survives_a_round_trip_to_the_byte() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["plain", "llama", "odd"] {
        let copy = folder.path().join("copy.model");
        ModelProto::read(&model(name)).unwrap().write(&copy).unwrap();
        assert_eq!(std::fs::read(copy).unwrap(), std::fs::read(model(name)).unwrap(), "{name}");
    }
}

#[test]
fn training_finds_the_same_pieces_in_the_same_order() {
    let chinese = chinese();
    same_pieces(&trained(Rules::SENTENCEPIECE, 0.998, 2600, &chinese).model(usize::MAX), "plain");

    let mut rules = Rules { byte_fallback: true, split_digits: true, ..Rules::SENTENCEPIECE };
    rules.allow_whitespace_only_pieces = true;
    rules.normalizer.remove_extra_whitespaces = false;
    let mixed = [&chinese[..1500], &lines(&["valley-held-out/en.jsonl"])].concat();
    same_pieces(&trained(rules, 0.995, 2400, &mixed).model(usize::MAX), "llama");
}

/// Each size was trained by SentencePiece alone; here all are the beginnings of one training.
#[test]
fn one_training_and_one_pass_give_the_pieces_the_ids_and_the_alp_of_every_size() {
    let trained = trained(Rules::SENTENCEPIECE, 0.998, 2600, &chinese());
    let expected = golden().sizes;
    assert!(expected.len() >= 4);
    let merges: Vec<usize> = expected.iter().map(|expected| expected.size - trained.size_with(0)).collect();
    let lines: Vec<String> = lines(&["valley-held-out/zh.jsonl"])
        .iter()
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect();
    let scores = alp::scores(&trained, &merges, &lines).unwrap();
    for ((expected, &merges), score) in expected.iter().zip(&merges).zip(&scores) {
        let model = trained.model(merges);
        let pieces = model
            .pieces
            .iter()
            .flat_map(|piece| [piece.text().as_bytes(), &[0], &piece.score().to_le_bytes()].concat());
        assert_eq!(sha256(pieces), expected.pieces, "pieces of {}", expected.size);
        let tokenizer = SentencePiece::new(model).unwrap();
        let ids = lines.iter().flat_map(|line| {
            let mut ids = Vec::new();
            tokenizer.encode_into(line, &mut ids);
            ids.into_iter().chain([u32::MAX]).flat_map(u32::to_le_bytes)
        });
        assert_eq!(sha256(ids), expected.ids, "ids under {} pieces", expected.size);
        assert_eq!(score.tokens, expected.tokens, "{} pieces", expected.size);
        assert!((score.alp - expected.alp).abs() < 1e-9, "{} pieces: {score:?}", expected.size);
    }
}

#[test]
fn tokenizer_json_gives_the_same_ids() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = Tokenizer::from(SentencePiece::open(&model("llama")).unwrap());
    tokenizer.save(folder.path()).unwrap();
    let fast = Tokenizer::open(&folder.path().join("tokenizer.json")).unwrap();
    assert_eq!((fast.bos(), fast.eos(), fast.unk()), (tokenizer.bos(), tokenizer.eos(), tokenizer.unk()));
    assert_eq!(fast.vocab_size(), tokenizer.vocab_size());
    let awkward = golden().awkward.remove("llama").unwrap();
    // `tokenizers` takes special tokens out of a text; SentencePiece has no such thing.
    let texts = awkward.into_iter().map(|encoded| encoded.text).filter(|text| !text.contains("<s>"));
    for text in texts.chain(chinese().into_iter().take(300)) {
        let ids = tokenizer.encode(&text).unwrap();
        assert_eq!(fast.encode(&text).unwrap(), ids, "{text:?}");
        assert_eq!(fast.decode(&ids).unwrap(), tokenizer.decode(&ids).unwrap(), "{text:?}");
    }
}
