//! Blocks of token ids hold what the recipe says, whatever the threads, in a folder that `datasets` reads.

mod workshop;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use arrow_array::builder::{LargeListBuilder, UInt16Builder};
use arrow_array::{Array, RecordBatch};
use cmx::corpus::Blocks;
use cmx::error::{ExitCode, Result};
use cmx::tokenizer::Tokenizer;
use serde_json::{Value, json};
use workshop::{Workshop, dataset, python, python_with_datasets_2, shared};

const MIXTRAL: &str = "tokenizers/mixtral-8x7b-v0.1.tokenizer.model";

fn encode(shop: &Workshop, tokenizer: &Path, parameters: Value) -> Result<()> {
    let mut all = json!({
        "dataset": dataset("laws", Some("split"), Some(&shop.input())),
        "tokenizer": {"from": "tokenizer.model", "path": tokenizer},
    });
    for (name, value) in parameters.as_object().unwrap() {
        all[name] = value.clone();
    }
    // Other parameters have another scratch folder.
    std::fs::remove_dir_all(shop.scratch()).unwrap();
    std::fs::create_dir(shop.scratch()).unwrap();
    shop.run("encode", all)
}

/// The first lines of a shared file as train and dev, and their texts.
fn corpus(shop: &Workshop, train: usize, dev: usize) -> Option<[Vec<String>; 2]> {
    let all = std::fs::read_to_string(shared("zh/instructions.jsonl")?).unwrap();
    let mut lines = all.split_terminator('\n');
    Some([("train", train), ("dev", dev)].map(|(split, count)| {
        let lines: Vec<&str> = lines.by_ref().take(count).collect();
        assert_eq!(lines.len(), count);
        shop.write(&format!("laws-{split}.jsonl"), lines.iter().flat_map(|line| [line, "\n"]).collect::<String>());
        let text = |line: &&str| serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().to_owned();
        lines.iter().map(text).collect()
    }))
}

/// What the recipe makes of documents, straightforwardly.
fn expected(tokenizer: &Tokenizer, texts: &[String], recipe: &str, length: usize) -> Vec<Vec<u32>> {
    let eos = if recipe == "clean" { tokenizer.eos() } else { None };
    let stretch = if recipe == "clean" { texts.len().max(1) } else { 1000 };
    let mut blocks = Vec::new();
    for texts in texts.chunks(stretch) {
        let mut ids = Vec::new();
        for text in texts {
            ids.extend(tokenizer.bos());
            ids.extend(tokenizer.encode(text).unwrap());
            ids.extend(eos);
        }
        if ids.len() >= length {
            ids.truncate(ids.len() / length * length);
        }
        blocks.extend(ids.chunks(length).map(<[u32]>::to_vec));
    }
    blocks
}

fn rows(folder: &Path) -> Vec<Vec<u32>> {
    let blocks = Blocks::open(folder).unwrap();
    (0..blocks.len()).map(|row| blocks.row(row).unwrap()).collect()
}

#[test]
fn blocks_hold_what_the_recipe_says() {
    let Some(model) = shared(MIXTRAL) else { return };
    let shop = Workshop::new();
    let Some([train, dev]) = corpus(&shop, 2500, 2) else { return };
    let tokenizer = Tokenizer::open(&model).unwrap();
    for recipe in ["clean", "as-published"] {
        for length in [64, 2048] {
            let storage = if length == 64 { "compact" } else { "as-published" };
            encode(&shop, &model, json!({"recipe": recipe, "sequence_length": length, "storage": storage}))
                .unwrap();
            for (split, texts) in [("train", &train), ("dev", &dev)] {
                let folder = shop.output().join(format!("encoded-laws-{split}"));
                let expected = expected(&tokenizer, texts, recipe, length);
                assert!(rows(&folder) == expected, "{recipe} {length} {split}");
                let metrics = shop.metrics();
                let kept: usize = expected.iter().map(Vec::len).sum();
                let tokens = metrics[&format!("tokens.{split}")].as_u64().unwrap();
                assert_eq!(tokens - metrics[&format!("dropped.{split}")].as_u64().unwrap(), kept as u64);
                assert_eq!(metrics[&format!("blocks.{split}")], json!(expected.len()));
                assert_eq!(metrics[&format!("documents.{split}")], json!(texts.len()));
                let characters: usize = texts.iter().map(|text| text.chars().count()).sum();
                assert_eq!(metrics[&format!("characters.{split}")], json!(characters));
                let bytes: usize = texts.iter().map(String::len).sum();
                assert_eq!(metrics[&format!("bytes.{split}")], json!(bytes));
            }
        }
    }
}

#[test]
fn a_split_shorter_than_a_block_is_one_short_block() {
    let Some(model) = shared(MIXTRAL) else { return };
    let shop = Workshop::new();
    let Some([train, _]) = corpus(&shop, 3, 0) else { return };
    encode(&shop, &model, json!({"sequence_length": 1 << 20})).unwrap();
    let tokenizer = Tokenizer::open(&model).unwrap();
    let folder = shop.output().join("encoded-laws-train");
    assert_eq!(rows(&folder), expected(&tokenizer, &train, "clean", 1 << 20));
    assert!(Blocks::open(&folder).unwrap().sequence_length() < 1 << 20);
    // And one without documents is a folder without rows.
    let dev = Blocks::open(&shop.output().join("encoded-laws-dev")).unwrap();
    assert_eq!((dev.len(), dev.sequence_length()), (0, 0));
    assert!(shop.said().contains("the split `dev` of `laws` has no documents"));
}

#[test]
fn one_thread_or_many_give_the_same_bytes() {
    let Some(model) = shared(MIXTRAL) else { return };
    let shop = Workshop::new();
    let Some(_) = corpus(&shop, 3000, 10) else { return };
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let parameters = json!({"sequence_length": 512, "position_ids": true, "document_ids": true});
        pool.install(|| encode(&shop, &model, parameters)).unwrap();
        shop.outputs()
    };
    assert!(on(1) == on(3));
}

#[test]
fn the_folder_is_laid_out_as_save_to_disk_does() {
    let Some(model) = shared(MIXTRAL) else { return };
    let shop = Workshop::new();
    let Some(_) = corpus(&shop, 20, 1) else { return };
    encode(&shop, &model, json!({})).unwrap();
    let outputs = shop.outputs();
    let files: Vec<&str> = outputs.keys().filter_map(|name| name.strip_prefix("encoded-laws-train/")).collect();
    assert_eq!(files, ["data-00000-of-00001.arrow", "dataset_info.json", "state.json"]);
    let json =
        |name: &str| serde_json::from_slice::<Value>(&outputs[&format!("encoded-laws-train/{name}")]).unwrap();
    let state = json("state.json");
    let keys = [
        "_data_files",
        "_fingerprint",
        "_format_columns",
        "_format_kwargs",
        "_format_type",
        "_output_all_columns",
        "_split",
    ];
    assert_eq!(state.as_object().unwrap().keys().collect::<Vec<_>>(), keys);
    assert_eq!(state["_data_files"], json!([{"filename": "data-00000-of-00001.arrow"}]));
    let list = |dtype| json!({"feature": {"dtype": dtype, "_type": "Value"}, "_type": "Sequence"});
    assert_eq!(json("dataset_info.json")["features"], json!({"input_ids": list("uint16")}));

    encode(&shop, &model, json!({"storage": "as-published", "document_ids": true})).unwrap();
    let info: Value = serde_json::from_slice(&shop.outputs()["encoded-laws-train/dataset_info.json"]).unwrap();
    let expected = json!({
        "input_ids": list("int32"), "attention_mask": list("int8"), "labels": list("int64"),
        "document_ids": list("uint16"),
    });
    assert_eq!(info["features"], expected);
}

#[test]
fn a_token_takes_two_bytes_or_thirteen() {
    let Some(model) = shared(MIXTRAL) else { return };
    let shop = Workshop::new();
    let Some(_) = corpus(&shop, 2500, 10) else { return };
    for (storage, bytes) in [("compact", 2.0), ("as-published", 13.0)] {
        encode(&shop, &model, json!({"storage": storage})).unwrap();
        let tokens = shop.metrics()["blocks.train"].as_u64().unwrap() * 2048;
        let written = shop.outputs()["encoded-laws-train/data-00000-of-00001.arrow"].len();
        let per_token = written as f64 / tokens as f64;
        assert!(per_token < bytes * 1.01 && per_token >= bytes, "{storage}: {per_token} bytes a token");
    }
}

#[test]
fn shards_are_as_large_as_asked() {
    let Some(model) = shared(MIXTRAL) else { return };
    let shop = Workshop::new();
    let Some(_) = corpus(&shop, 2500, 10) else { return };
    encode(&shop, &model, json!({"sequence_length": 512})).unwrap();
    let whole = rows(&shop.output().join("encoded-laws-train"));
    encode(&shop, &model, json!({"sequence_length": 512, "max_shard_bytes": 100_000})).unwrap();
    let outputs = shop.outputs();
    let shards: Vec<usize> = outputs
        .iter()
        .filter(|(name, _)| name.starts_with("encoded-laws-train/data-"))
        .map(|(_, bytes)| bytes.len())
        .collect();
    assert!(shards.len() > 5 && shards.iter().all(|&bytes| bytes < 102_000), "{shards:?}");
    assert!(rows(&shop.output().join("encoded-laws-train")) == whole);
}

#[test]
fn an_encoder_is_for_models_that_are_converted() {
    let Some(model) = shared("tokenizers/minimind-6400.tokenizer.json") else { return };
    let shop = Workshop::new();
    shop.write("laws-train.jsonl", "{\"text\": \"a\"}\n");
    shop.write("laws-dev.jsonl", "");
    let error = encode(&shop, &model, json!({"encoder": "transformers-5"})).unwrap_err();
    assert!(error.message().ends_with("is a tokenizer.json, which says itself how it encodes"), "{error}");
}

#[test]
fn other_writers_blocks_are_read_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut lists = LargeListBuilder::new(UInt16Builder::new());
    lists.append_value([Some(1), Some(65535)]);
    lists.append_value([Some(7)]);
    let batch = RecordBatch::try_from_iter([("input_ids", Arc::new(lists.finish()) as Arc<dyn Array>)]).unwrap();
    for name in ["a.arrow", "b.arrow"] {
        let file = std::fs::File::create(folder.path().join(name)).unwrap();
        let mut writer = arrow_ipc::writer::StreamWriter::try_new(file, &batch.schema()).unwrap();
        writer.write(&batch).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
    }
    let state = json!({"_data_files": [{"filename": "a.arrow"}, {"filename": "b.arrow"}], "_split": null});
    std::fs::write(folder.path().join("state.json"), state.to_string()).unwrap();
    assert_eq!(rows(folder.path()), [[1, 65535].as_slice(), &[7]].repeat(4));
    let error = Blocks::open(folder.path()).unwrap().row(8).unwrap_err();
    assert_eq!(error.message(), "block 8 was asked for, but there are only 8");

    // Half a file is no file.
    let whole = std::fs::read(folder.path().join("b.arrow")).unwrap();
    std::fs::write(folder.path().join("b.arrow"), &whole[..whole.len() - 100]).unwrap();
    let message = format!("cannot read {} as an Arrow stream", folder.path().join("b.arrow").display());
    assert_eq!(Blocks::open(folder.path()).map(|_| ()).unwrap_err().message(), message);
}

#[test]
fn what_cannot_be_encoded_is_named() {
    let Some(model) = shared(MIXTRAL) else { return };
    let shop = Workshop::new();
    let error = encode(&shop, &model, json!({})).unwrap_err();
    assert_eq!(error.message(), "the dataset `laws` is not split into the files that its `doc` names");
    assert_eq!(error.code(), ExitCode::Invalid);
    shop.write("laws-dev.jsonl", "{\"text\": \"a\"}\n");
    let train = shop.write("laws-train.jsonl", "{\"text\": \"a\"}\n{\"text\": null}\n");
    let error = encode(&shop, &model, json!({})).unwrap_err();
    assert_eq!(error.message(), format!("{}, line 2: `text` is null, not a string", train.display()));
    let error = encode(&shop, &model, json!({"sequence_length": 0})).unwrap_err();
    assert_eq!(error.message(), "`sequence_length` is 0: a block must hold a token");
    let error = encode(&shop, &model, json!({"max_shard_bytes": 0})).unwrap_err();
    assert_eq!(error.message(), "`max_shard_bytes` is 0: a shard must hold a block");
}

#[test]
#[ignore = "needs the Pythons that `make parity` prepares"]
fn datasets_reads_our_blocks_and_we_read_its() {
    let (Some(python), Some(old), Some(model)) = (python(), python_with_datasets_2(), shared(MIXTRAL)) else {
        return;
    };
    let shop = Workshop::new();
    let Some(_) = corpus(&shop, 2500, 1) else { return };
    for (recipe, storage, packing) in [
        ("clean", "compact", true),
        ("clean", "as-published", false),
        ("as-published", "compact", false),
        ("as-published", "as-published", true),
    ] {
        for python in [&python, &old] {
            let parameters = json!({
                "recipe": recipe, "storage": storage, "position_ids": packing, "document_ids": packing,
                "max_shard_bytes": 1_000_000,
            });
            encode(&shop, &model, parameters).unwrap();
            for split in ["train", "dev"] {
                let folder = shop.output().join(format!("encoded-laws-{split}"));
                let status = Command::new(python)
                    .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/datasets_reads_blocks.py"))
                    .args([&folder, &shop.input().join(format!("laws-{split}.jsonl")), &model])
                    .args([recipe, "2048", storage, if packing { "packing" } else { "plain" }])
                    .status();
                assert!(status.unwrap().success(), "{recipe} {storage} {split} {}", python.display());
                let by_datasets: PathBuf = shop.output().join(format!("encoded-laws-{split}-by-datasets"));
                assert!(rows(&folder) == rows(&by_datasets), "{recipe} {storage} {split}");
            }
        }
    }
    let names: BTreeMap<String, Vec<u8>> = shop.outputs();
    assert!(names.keys().any(|name| name.contains("by-datasets")));
}
