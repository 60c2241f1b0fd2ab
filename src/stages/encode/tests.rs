//! Stopped anywhere and begun again: the bytes of a run that nobody disturbed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::json;

use super::*;

fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.join("train"), folder.join("dev")];
    while let Some(inner) = folders.pop() {
        for entry in std::fs::read_dir(inner).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_path_buf(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// A tokenizer of single characters and a few words.
fn tokenizer(folder: &Path) -> PathBuf {
    let pieces: Vec<String> = ('a'..='z').map(String::from).chain(["▁".to_owned()]).collect();
    let mut vocabulary = serde_json::Map::new();
    for piece in ["<unk>", "<s>", "</s>"].into_iter().chain(pieces.iter().map(String::as_str)) {
        vocabulary.insert(piece.to_owned(), json!(vocabulary.len()));
    }
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let file = folder.join("tokenizer.json");
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                  "vocab": vocabulary, "merges": []},
    });
    std::fs::write(&file, tokenizer.to_string()).unwrap();
    file
}

/// Stopped after every batch, and begun again until it is done: the bytes of a run that nobody disturbed, and
/// no document encoded twice but those of the shard that was not whole.
#[test]
fn what_is_stopped_goes_on_at_its_last_shard() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let model = tokenizer(folder);
    let line = |n: u32| {
        let words = "some words of a document ".repeat((n * 7 % 23) as usize);
        format!("{{\"text\": \"{words}{}\"}}\n", char::from(b'a' + (n % 26) as u8))
    };
    std::fs::write(folder.join("d-train.jsonl"), (0..2500).map(line).collect::<String>()).unwrap();
    std::fs::write(folder.join("d-dev.jsonl"), (0..40).map(line).collect::<String>().trim_end()).unwrap();
    let sizes = Sizes { batch: 64 << 10, portion: 4 << 10 };
    let llama = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sentencepiece/llama.model");
    for (recipe, storage, packing, length, bytes, bpe_dropout) in [
        ("clean", "compact", "stream", 16, 3, 0.0),
        ("as-published", "as-published", "stream", 16, 7, 0.0),
        ("clean", "compact", "whole", 700, 9, 0.0),
        ("clean", "compact", "none", 400, 9, 0.0),
        ("as-published", "compact", "stream", 32, 3, 0.2),
    ] {
        let (model, passes) = if bpe_dropout > 0.0 { (&llama, 2) } else { (&model, 1) };
        let stage: Encode = serde_json::from_value(json!({
            "dataset": {
                "name": "d", "form": "split", "path": folder,
                "doc": {"train": "d-train", "dev": "d-dev"}, "encoded": {"train": "train", "dev": "dev"},
                "source": {"repo": null, "revision": null, "include": [], "exclude": [], "urls": [], "task": null},
            },
            "tokenizer": {"from": "t", "path": model},
            "encoder": "native", "sequence_length": length, "recipe": recipe, "text_field": "text",
            "storage": storage, "packing": packing, "loss": "all", "bpe_dropout": bpe_dropout, "passes": passes,
            "seed": 1, "position_ids": true, "document_ids": true, "max_shard_bytes": (100 << 10) / 13 * bytes,
        }))
        .unwrap();
        let attempt = |name: &str, sizes: Sizes, stopped: bool| {
            let (output, scratch) = (
                folder.join(format!("{recipe}-{packing}-{bpe_dropout}-{name}")),
                folder.join(format!("{recipe}-{packing}-{bpe_dropout}-{name}-kept")),
            );
            for fresh in [&output, &scratch] {
                std::fs::create_dir_all(fresh).unwrap();
            }
            let cancelled = Arc::new(AtomicBool::new(stopped));
            let work = Work::new(output.clone(), scratch, 2, Box::new(std::io::sink()), cancelled);
            stage.run_with(sizes, &work).map(|()| files(&output))
        };
        let undisturbed = attempt("whole", Sizes { batch: 1 << 20, ..sizes }, false).unwrap();
        let shards = undisturbed
            .keys()
            .filter(|path| path.starts_with("train") && path.extension() == Some("arrow".as_ref()))
            .count();
        assert!(shards > 20, "{shards}");
        let mut attempts = 1;
        let stopped = loop {
            match attempt("stopped", sizes, true) {
                Ok(files) => break files,
                Err(error) => assert!(error.is_interruption(), "{error}"),
            }
            attempts += 1;
            assert!(attempts < 60, "no progress");
        };
        assert!(attempts > 10, "{attempts}");
        assert!(undisturbed == stopped, "{recipe}");
    }
}
