//! Dialogues become the tokens that transformers makes of them, and what counts is what the assistant says;
//! `tests/golden/make_dialogues.py` wrote what transformers gave.

mod workshop;

use std::path::{Path, PathBuf};
use std::process::Command;

use cmx::corpus::{Block, Blocks, IGNORED};
use cmx::error::Result;
use cmx::tokenizer::{Added, Tokenizer};
use serde::Deserialize;
use serde_json::{Value, json};
use workshop::{Workshop, dataset, python};

#[derive(Deserialize)]
struct Golden {
    tokens: Vec<String>,
    messages: Vec<Value>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    dialogues: Vec<Told>,
}

#[derive(Deserialize)]
struct Told {
    text: String,
    ids: Vec<u32>,
    answers: Vec<u8>,
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn golden() -> Golden {
    serde_json::from_slice(&std::fs::read(root("tests/golden/dialogues.json")).unwrap()).unwrap()
}

/// The tokenizer with the tokens of turns and a template, in a folder.
fn tokenizer(shop: &Workshop, template: &str) -> PathBuf {
    let folder = shop.input().join("tokenizer");
    std::fs::create_dir_all(&folder).unwrap();
    let added = Added { tokens: golden().tokens, chat_template: Some(template.to_owned()), ..Added::default() };
    let llama = Tokenizer::open(&root("tests/golden/sentencepiece/llama.model")).unwrap();
    llama.with(&added).unwrap().save(&folder).unwrap();
    folder
}

/// Encodes lines as train, the first of them as dev too.
fn encode(shop: &Workshop, tokenizer: &Path, lines: &[String], parameters: Value) -> Result<()> {
    shop.write("talk-train.jsonl", lines.iter().map(|line| format!("{line}\n")).collect::<String>());
    shop.write("talk-dev.jsonl", format!("{}\n", lines[0]));
    let mut all = json!({
        "dataset": dataset("talk", Some("split"), Some(&shop.input())),
        "tokenizer": {"from": "tokenizer", "path": tokenizer},
        "messages_field": "messages", "loss": "answers", "packing": "none", "sequence_length": 160,
    });
    for (name, value) in parameters.as_object().unwrap() {
        all[name] = value.clone();
    }
    std::fs::remove_dir_all(shop.scratch()).unwrap();
    std::fs::create_dir(shop.scratch()).unwrap();
    shop.run("encode", all)
}

fn lines(messages: &[Value]) -> Vec<String> {
    messages.iter().map(|messages| json!({ "messages": messages }).to_string()).collect()
}

fn blocks(folder: &Path) -> Vec<Block> {
    let blocks = Blocks::open(folder).unwrap();
    (0..blocks.len()).map(|row| blocks.block(row).unwrap()).collect()
}

fn train(shop: &Workshop) -> Vec<Block> {
    blocks(&shop.output().join("encoded-talk-train"))
}

fn labels(ids: &[u32], answers: &[u8]) -> Vec<i64> {
    ids.iter().zip(answers).map(|(&id, &counts)| if counts == 1 { id.into() } else { IGNORED }).collect()
}

#[test]
fn tokens_and_answers_are_those_of_transformers() {
    let golden = golden();
    let lines = lines(&golden.messages);
    let huozi = std::fs::read_to_string(root("pipelines/huozi3.jinja")).unwrap();
    let plain = huozi.trim_end();
    // The template without tags says where answers are, too.
    for (template, case) in
        golden.cases.iter().map(|case| (case.template.as_str(), case)).chain([(plain, &golden.cases[0])])
    {
        let shop = Workshop::new();
        let tokenizer = tokenizer(&shop, template);
        encode(&shop, &tokenizer, &lines, json!({"encoder": "transformers-4"})).unwrap();
        let blocks = train(&shop);
        assert_eq!(blocks.len(), case.dialogues.len());
        for (block, told) in blocks.iter().zip(&case.dialogues) {
            assert_eq!(block.ids, told.ids, "{}", told.text);
            assert_eq!(block.labels, labels(&told.ids, &told.answers), "{}", told.text);
            assert_eq!(block.length, 160);
        }
        let counted: usize = case.dialogues.iter().flat_map(|told| &told.answers).map(|&n| usize::from(n)).sum();
        assert_eq!(shop.metrics()["answers.train"], json!(counted));
        let tokens: usize = case.dialogues.iter().map(|told| told.ids.len()).sum();
        assert_eq!(shop.metrics()["tokens.train"], json!(tokens));
        assert_eq!(shop.metrics()["padding.train"], json!(160 * case.dialogues.len() - tokens));
        let characters: usize = case.dialogues.iter().map(|told| told.text.chars().count()).sum();
        assert_eq!(shop.metrics()["characters.train"], json!(characters));
    }
}

/// SentencePiece itself: the tokens of turns and `<s>` are these tokens, and the texts between are encoded by the model,
/// those that follow a turn's token without a dummy prefix.
#[test]
fn the_native_encoder_masks_the_same_texts() {
    let golden = golden();
    let shop = Workshop::new();
    let folder = tokenizer(&shop, &golden.cases[0].template);
    encode(&shop, &folder, &lines(&golden.messages), json!({})).unwrap();
    let tokenizer = Tokenizer::open(&folder).unwrap();
    for (block, messages) in train(&shop).iter().zip(&golden.messages).take(3) {
        assert_eq!(block.ids[0], tokenizer.bos().unwrap());
        let (mut at, all) = (1, messages.as_array().unwrap());
        for message in all {
            let (role, content) = (message["role"].as_str().unwrap(), message["content"].as_str().unwrap());
            let name = match role {
                "system" => "系统",
                "user" => "用户",
                _ => "助手",
            };
            // No piece of this model reaches over the line end that parts a role from what is said.
            let head = tokenizer.encode(&format!("<|beginofutterance|>{name}\n")).unwrap();
            let whole =
                tokenizer.encode(&format!("<|beginofutterance|>{name}\n{content}<|endofutterance|>")).unwrap();
            assert!(whole.starts_with(&head));
            let end = tokenizer.encode("<|endofutterance|>\n").unwrap();
            let turn = [&whole[..], &end[1..]].concat();
            assert_eq!(block.ids[at..at + turn.len()], turn, "{content}");
            for (place, &id) in turn.iter().enumerate() {
                let counts = role == "assistant" && (head.len()..whole.len()).contains(&place);
                assert_eq!(
                    block.labels[at + place],
                    if counts { id.into() } else { IGNORED },
                    "{content}: {place}"
                );
            }
            at += turn.len();
        }
        assert_eq!(at, block.ids.len());
    }
}

#[test]
fn dialogues_share_blocks_without_being_cut() {
    let golden = golden();
    let shop = Workshop::new();
    let folder = tokenizer(&shop, &golden.cases[0].template);
    let lines = lines(&golden.messages);
    encode(&shop, &folder, &lines, json!({})).unwrap();
    let alone = train(&shop);
    for document_ids in [true, false] {
        let parameters =
            json!({"packing": "whole", "document_ids": document_ids, "sequence_length": 200, "position_ids": true});
        encode(&shop, &folder, &lines, parameters).unwrap();
        let mut rest = &alone[..];
        for block in train(&shop) {
            // `position_ids` say where documents begin, too.
            let documents = block.documents.as_ref().unwrap();
            let mut at = 0;
            while at < block.ids.len() {
                let (first, more) = rest.split_first().unwrap();
                rest = more;
                let end = at + first.ids.len();
                assert_eq!(block.ids[at..end], first.ids);
                assert_eq!(block.labels[at..end], first.labels);
                assert!(documents[at..end].iter().all(|&start| start as usize == at));
                at = end;
            }
            assert!(
                rest.first().is_none_or(|next| block.ids.len() + next.ids.len() > 200),
                "a block with room left"
            );
        }
        assert!(rest.is_empty());
    }
    // What is longer than a block keeps its beginning.
    encode(&shop, &folder, &lines, json!({"sequence_length": 20})).unwrap();
    let (cut, mut dropped) = (train(&shop), 0);
    for (cut, whole) in cut.iter().zip(&alone) {
        let kept = whole.ids.len().min(20);
        assert_eq!((&cut.ids[..], &cut.labels[..]), (&whole.ids[..kept], &whole.labels[..kept]));
        dropped += whole.ids.len() - kept;
    }
    assert!(dropped > 0);
    assert_eq!(shop.metrics()["dropped.train"], json!(dropped));
    // A stream is cut anywhere; the borders are known all the same.
    encode(&shop, &folder, &lines, json!({"packing": "stream", "sequence_length": 20, "document_ids": true}))
        .unwrap();
    let stream: Vec<u32> = train(&shop).into_iter().flat_map(|block| block.ids).collect();
    let all: Vec<u32> = alone.iter().flat_map(|block| block.ids.clone()).collect();
    assert_eq!(stream, all[..all.len() / 20 * 20]);
    let stream: Vec<i64> = train(&shop).into_iter().flat_map(|block| block.labels).collect();
    assert_eq!(stream, alone.iter().flat_map(|block| block.labels.clone()).collect::<Vec<_>>()[..stream.len()]);
}

#[test]
fn texts_have_blocks_of_their_own() {
    let shop = Workshop::new();
    let folder = tokenizer(&shop, "");
    let lines = ["short", "a text that is longer than the block that it is given"]
        .map(|text| json!({ "text": text }).to_string());
    let parameters = json!({
        "messages_field": null, "loss": "all", "sequence_length": 12, "storage": "as-published",
    });
    encode(&shop, &folder, &lines, parameters).unwrap();
    let tokenizer = Tokenizer::open(&folder).unwrap();
    let document = |text: &str| {
        let ids = tokenizer.encode(text).unwrap();
        [&[tokenizer.bos().unwrap()], &ids[..], &[tokenizer.eos().unwrap()]].concat()
    };
    let blocks = train(&shop);
    assert_eq!(blocks[0].ids, document("short"));
    assert_eq!(blocks[1].ids, document("a text that is longer than the block that it is given")[..12]);
    assert!(blocks.iter().all(|block| block.labels.iter().zip(&block.ids).all(|(&l, &id)| l == i64::from(id))));
}

/// Each pass over `train` draws anew, from the seed alone; `dev` is left as it is.
#[test]
fn dropout_reaches_the_text_and_is_drawn_anew_each_pass() {
    let golden = golden();
    let shop = Workshop::new();
    let folder = tokenizer(&shop, &golden.cases[0].template);
    let lines: Vec<String> = lines(&golden.messages).into_iter().cycle().take(40).collect();
    encode(&shop, &folder, &lines, json!({"packing": "none", "sequence_length": 300})).unwrap();
    let plain = train(&shop);
    let sampled = |threads: usize, seed: u64| {
        let parameters =
            json!({"bpe_dropout": 0.2, "passes": 3, "seed": seed, "sequence_length": 300, "max_shard_bytes": 9000});
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| encode(&shop, &folder, &lines, parameters)).unwrap();
        shop.outputs()
    };
    let one = sampled(1, 1);
    assert!(one == sampled(3, 1), "threads change the draws");
    let (dev, rest): (Vec<_>, Vec<_>) = one.iter().partition(|(name, _)| name.starts_with("encoded-talk-dev"));
    let other = sampled(1, 2);
    assert!(dev.iter().all(|(name, bytes)| other[*name] == **bytes));
    assert!(rest.iter().any(|(name, bytes)| other.get(*name) != Some(*bytes)));

    let tokenizer = Tokenizer::open(&folder).unwrap();
    let passes = Blocks::open_passes(&shop.output().join("encoded-talk-train")).unwrap();
    assert_eq!(passes.len(), 3);
    let mut seen = Vec::new();
    for pass in &passes {
        assert_eq!(pass.len(), lines.len());
        let blocks: Vec<Block> = (0..pass.len()).map(|row| pass.block(row).unwrap()).collect();
        let mut longer = 0;
        for (block, plain) in blocks.iter().zip(&plain) {
            // The same text, answers and all, in other pieces.
            let answers = |block: &Block| {
                block
                    .labels
                    .iter()
                    .filter(|&&label| label != IGNORED)
                    .map(|&label| label as u32)
                    .collect::<Vec<_>>()
            };
            let text = |ids: &[u32]| tokenizer.decode(ids).unwrap();
            assert_eq!(text(&block.ids), text(&plain.ids));
            assert_eq!(text(&answers(block)).trim_start(), text(&answers(plain)).trim_start());
            longer += usize::from(block.ids.len() > plain.ids.len());
        }
        assert!(longer > 20, "{longer} of {} have other tokens", lines.len());
        seen.push(blocks);
    }
    assert!(seen[0] != seen[1] && seen[1] != seen[2] && seen[0] != seen[2]);
    // The same dialogue on another line is another draw.
    assert_ne!(seen[0][1], seen[0][5]);
}

#[test]
fn what_cannot_be_told_is_named() {
    let golden = golden();
    let shop = Workshop::new();
    let folder = tokenizer(&shop, &golden.cases[0].template);
    let good = lines(&golden.messages[..1]);
    let failed = |lines: &[String], parameters: Value| {
        let error = encode(&shop, &folder, lines, parameters).unwrap_err();
        (error.one_line(), error.advice().unwrap_or_default().to_owned())
    };
    let file = shop.input().join("talk-train.jsonl");
    let at = |line: usize, what: &str| format!("{}, line {line}: {what}", file.display());
    let bad = [good[0].clone(), r#"{"messages": [{"role": "user"}]}"#.to_owned()];
    assert_eq!(failed(&bad, json!({})).0, at(2, "message 1 has no `content`"));
    let stranger = [r#"{"messages": [{"role": "tool", "content": "x"}]}"#.to_owned()];
    let error = failed(&stranger, json!({})).0;
    assert!(error.contains("-dev.jsonl, line 1: the chat template fails: "), "{error}");
    for (parameters, message) in [
        (json!({"messages_field": null}), "`loss` is \"answers\", and texts have none"),
        (json!({"bpe_dropout": 1.0}), "`bpe_dropout` is 1; it must be at least 0 and below 1"),
        (json!({"bpe_dropout": 0.1, "encoder": "transformers-4"}), "`bpe_dropout` needs `encoder = \"native\"`"),
        (json!({"passes": 2}), "`passes` without `bpe_dropout` would write the same blocks again"),
        (json!({"passes": 0}), "`passes` is 0: the documents must be encoded once"),
    ] {
        assert_eq!(failed(&good, parameters).0, message);
    }
    let llama = root("tests/golden/sentencepiece/llama.model");
    let error = encode(&shop, &llama, &good, json!({})).unwrap_err();
    assert_eq!(error.message(), "the tokenizer tokenizer has no chat template, and messages need one");
    let unigram = root("tests/golden/sentencepiece/unigram.model");
    let error = encode(
        &shop,
        &unigram,
        &[json!({"text": "a"}).to_string()],
        json!({
            "messages_field": null, "loss": "all", "bpe_dropout": 0.1
        }),
    )
    .unwrap_err();
    assert!(error.message().ends_with("the tokenizer is a Unigram model, which merges nothing"), "{error:?}");
}

/// `datasets` reads the folders, further passes too, and a collator of transformers makes batches of them.
#[test]
#[ignore = "needs the Python that `make parity` prepares"]
fn datasets_reads_labels_masks_and_passes() {
    let Some(python) = python() else { return };
    let golden = golden();
    let shop = Workshop::new();
    let folder = tokenizer(&shop, &golden.cases[0].template);
    for (storage, packing) in [("compact", "none"), ("as-published", "whole")] {
        let parameters = json!({
            "storage": storage, "packing": packing, "document_ids": true, "bpe_dropout": 0.1, "passes": 2,
        });
        encode(&shop, &folder, &lines(&golden.messages), parameters).unwrap();
        for name in ["encoded-talk-train", "encoded-talk-train/pass-2"] {
            let folder = shop.output().join(name);
            let rows: Vec<Value> = blocks(&folder)
                .into_iter()
                .map(|block| json!({"ids": block.ids, "labels": block.labels, "documents": block.documents}))
                .collect();
            let expected = shop.input().join("expected.json");
            std::fs::write(&expected, json!(rows).to_string()).unwrap();
            let status = Command::new(&python)
                .arg(root("tests/parity/datasets_reads_dialogues.py"))
                .args([&folder, &expected])
                .arg(storage)
                .status();
            assert!(status.unwrap().success(), "{storage} {name}");
        }
    }
}
