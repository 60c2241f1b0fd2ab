//! `add-tokens`: each is one id wherever it stands, and nothing else of a text changes.

mod workshop;

use std::path::{Path, PathBuf};

use cmx::corpus::documents;
use cmx::error::ExitCode;
use cmx::tokenizer::{ModelProto, Tokenizer};
use serde_json::{Value, json};
use workshop::{Workshop, shared};

const BEGIN: &str = "<|beginofutterance|>";
const END: &str = "<|endofutterance|>";

/// Stands for a token where the old tokenizer encodes: it knows this character by three bytes only.
const STRANGER: &str = "\u{E000}";

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn model(name: &str) -> PathBuf {
    root(&format!("tests/golden/sentencepiece/{name}.model"))
}

fn texts() -> Vec<String> {
    let files = ["zh", "en"].map(|name| root(&format!("examples/hub/datasets/cmx/valley-held-out/{name}.jsonl")));
    documents(&files).map(|document| document.unwrap().text).collect()
}

/// Runs the stage; `over` goes over the two tokens of a dialogue.
fn add(shop: &Workshop, tokenizer: &Path, over: Value) -> cmx::error::Result<()> {
    let tokenizer = json!({"from": "the tokenizer", "path": tokenizer});
    let mut parameters = json!({"tokenizer": tokenizer, "tokens": [BEGIN, END]});
    parameters.as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
    shop.run("add-tokens", parameters)
}

fn file(shop: &Workshop, name: &str) -> Value {
    serde_json::from_slice(&shop.outputs()[name]).unwrap()
}

/// The ids that the old tokenizer gives `text` with a stranger for each token, and these replaced by the tokens' own.
fn expected(old: &Tokenizer, text: &str) -> Vec<u32> {
    let tokens = [BEGIN, END];
    let replaced = tokens.iter().fold(text.to_owned(), |text, token| text.replace(token, STRANGER));
    let mut order = text.match_indices("<|").map(|(at, _)| u32::from(text[at..].starts_with(END)));
    let mut ids = old.encode(&replaced).unwrap();
    let stranger = old.encode(&format!("\n{STRANGER}")).unwrap()[2..].to_vec();
    assert_eq!(stranger.len(), 3);
    while let Some(at) = ids.windows(3).position(|ids| ids == stranger) {
        ids.splice(at..at + 3, [old.vocab_size() as u32 + order.next().unwrap()]);
    }
    // The dummy prefix does not stand before a token.
    if text.starts_with("<|") {
        ids.remove(0);
    }
    ids
}

#[test]
fn every_token_is_one_id_and_no_space_comes_with_it() {
    let shop = Workshop::new();
    let old = Tokenizer::open(&model("llama")).unwrap();
    add(&shop, &model("llama"), json!({})).unwrap();
    assert_eq!(
        shop.outputs().into_keys().collect::<Vec<_>>(),
        ["special_tokens_map.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"]
    );
    let [proto, before] =
        [shop.output().join("tokenizer.model"), model("llama")].map(|p| ModelProto::read(&p).unwrap());
    assert_eq!(proto.pieces[..2400], before.pieces);
    let added: Vec<&str> = proto.pieces[2400..].iter().map(|piece| piece.text()).collect();
    assert_eq!(added, [BEGIN, END]);

    let new = Tokenizer::open(&shop.output()).unwrap();
    let fast = Tokenizer::open(&shop.output().join("tokenizer.json")).unwrap();
    assert_eq!((new.vocab_size(), fast.vocab_size()), (2402, 2402));
    assert_eq!((new.bos(), new.eos(), fast.bos(), fast.eos()), (Some(1), Some(2), Some(1), Some(2)));
    let lines = texts();
    let mut dialogues: Vec<String> = [
        "a<B>b<E>\n<B>c",
        "<B>",
        "<E>",
        "<B><E>",
        " <B>",
        "<B> ",
        "<B> b",
        "a <B>",
        "a  <B>  b",
        "\n<B>\n",
        "<B>用户\n你好<E>\n",
        "<B>▁x",
        "<|beginof<B>utterance|>",
        "<|<B>|>",
    ]
    .map(|text| text.replace("<B>", BEGIN).replace("<E>", END))
    .to_vec();
    for pair in lines.chunks_exact(2) {
        dialogues.push(format!("{BEGIN}用户\n{}{END}\n{BEGIN}助手\n{}{END}\n", pair[0], pair[1]));
        dialogues.push(format!("{}{END}{}", pair[0], pair[1]));
    }
    for text in lines.iter().chain(&dialogues).map(String::as_str).chain(["", " ", " a", "a  The"]) {
        let ids = new.encode(text).unwrap();
        if !text.contains("<|beginof<") && !text.contains("<|<") {
            assert_eq!(ids, expected(&old, text), "{text:?}");
        }
        assert_eq!(fast.encode(text).unwrap(), ids, "{text:?}");
        let named = |token: &str| text.matches(token).count();
        let count = |id: u32| ids.iter().filter(|own| **own == id).count();
        assert_eq!((count(2400), count(2401)), (named(BEGIN), named(END)), "{text:?}");
        // A space is a space: the mark itself does not come back.
        assert_eq!(new.decode(&ids).unwrap(), text.replace('▁', " "), "{text:?}");
    }
}

#[test]
fn what_transformers_is_told_goes_along() {
    let shop = Workshop::new();
    let template = shop.write("chat.jinja", "{{ messages }}\n");
    let template = json!({"from": "chat.jinja", "path": template});
    add(&shop, &model("llama"), json!({"eos_token": END, "pad_token": "</s>", "chat_template": template})).unwrap();
    let config = file(&shop, "tokenizer_config.json");
    assert_eq!(config["chat_template"], "{{ messages }}");
    assert_eq!((&config["eos_token"], &config["pad_token"]), (&json!(END), &json!("</s>")));
    assert_eq!((&config["legacy"], &config["bos_token"]), (&json!(false), &json!("<s>")));
    assert_eq!(config["additional_special_tokens"], json!([BEGIN, END]));
    assert_eq!(config["added_tokens_decoder"]["2401"]["content"], END);
    // The two files say the same of a token, or transformers adds it a second time.
    for token in file(&shop, "tokenizer.json")["added_tokens"].as_array().unwrap() {
        let mut token = token.clone();
        let id = token.as_object_mut().unwrap().remove("id").unwrap();
        assert_eq!(config["added_tokens_decoder"][id.to_string()], token);
    }
    let map = json!({
        "bos_token": "<s>", "eos_token": END, "unk_token": "<unk>", "pad_token": "</s>",
        "additional_special_tokens": [BEGIN, END],
    });
    assert_eq!(file(&shop, "special_tokens_map.json"), map);

    // Read again and written again, they are the same files; and the end token is the new one, in either family.
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = Tokenizer::open(&shop.output()).unwrap();
    assert_eq!(tokenizer.eos(), Some(2401));
    assert_eq!(Tokenizer::open(&shop.output().join("tokenizer.json")).unwrap().eos(), Some(2401));
    tokenizer.save(folder.path()).unwrap();
    for (name, bytes) in shop.outputs() {
        assert!(std::fs::read(folder.path().join(&name)).unwrap() == bytes, "{name}");
    }
    // More tokens, and nothing of before is lost.
    let first = folder.path().to_owned();
    add(&shop, &first, json!({"tokens": ["<|tool|>"]})).unwrap();
    let config = file(&shop, "tokenizer_config.json");
    assert_eq!(config["additional_special_tokens"], json!([BEGIN, END, "<|tool|>"]));
    assert_eq!((&config["eos_token"], &config["chat_template"]), (&json!(END), &json!("{{ messages }}")));
}

#[test]
fn a_tokenizer_without_added_tokens_is_written_as_before() {
    let folder = tempfile::tempdir().unwrap();
    Tokenizer::open(&model("llama")).unwrap().save(folder.path()).unwrap();
    let read =
        |name: &str| serde_json::from_slice::<Value>(&std::fs::read(folder.path().join(name)).unwrap()).unwrap();
    let config = read("tokenizer_config.json");
    assert_eq!(config["legacy"], true);
    assert!(config.get("chat_template").is_none() && config.get("additional_special_tokens").is_none());
    let steps = &read("tokenizer.json")["normalizer"]["normalizers"];
    assert_eq!(steps[0], json!({"type": "Prepend", "prepend": "▁"}));
}

#[test]
fn a_tokenizer_json_gets_tokens() {
    let shop = Workshop::new();
    let folder = tempfile::tempdir().unwrap();
    Tokenizer::open(&model("llama")).unwrap().save(folder.path()).unwrap();
    std::fs::remove_file(folder.path().join("tokenizer.model")).unwrap();
    let old = Tokenizer::open(folder.path()).unwrap();
    add(&shop, folder.path(), json!({"eos_token": END})).unwrap();
    let files: Vec<_> = shop.outputs().into_keys().collect();
    assert_eq!(files, ["special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]);
    let new = Tokenizer::open(&shop.output()).unwrap();
    assert_eq!((new.vocab_size(), new.eos(), new.bos()), (2402, Some(2401), Some(1)));
    let [left, right] = ["春天来了", "the river"].map(|text| old.encode(text).unwrap());
    let text = format!("春天来了{BEGIN}the river");
    assert_eq!(new.encode(&text).unwrap(), [&left[..], &[2400], &right].concat());
    let config = file(&shop, "tokenizer_config.json");
    assert_eq!(config["additional_special_tokens"], json!([BEGIN, END]));
    assert_eq!(config["added_tokens_decoder"]["2400"]["content"], BEGIN);
    // All else of the files is as it was.
    let mut json = file(&shop, "tokenizer.json");
    let added = json["added_tokens"].as_array_mut().unwrap();
    added.truncate(added.len() - 2);
    let before: Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("tokenizer.json")).unwrap()).unwrap();
    assert_eq!(json, before);

    let Some(minimind) = shared("tokenizers/minimind-6400.tokenizer.json") else { return };
    add(&shop, &minimind, json!({})).unwrap();
    let new = Tokenizer::open(&shop.output()).unwrap();
    let ids = new.encode(&format!("{BEGIN}你好{END}")).unwrap();
    assert_eq!((ids[0], *ids.last().unwrap(), new.vocab_size()), (6400, 6401, 6402));
    assert_eq!(ids[1..ids.len() - 1], Tokenizer::open(&minimind).unwrap().encode("你好").unwrap());
}

#[test]
fn a_unigram_model_gets_tokens() {
    let shop = Workshop::new();
    let old = Tokenizer::open(&model("bytes")).unwrap();
    add(&shop, &model("bytes"), json!({})).unwrap();
    let new = Tokenizer::open(&shop.output()).unwrap();
    assert!(!shop.outputs().contains_key("tokenizer.json"), "`tokenizers` would give other ids");
    for text in texts() {
        assert_eq!(new.encode(&text).unwrap(), old.encode(&text).unwrap());
        let dialogue = format!("{BEGIN}{text}{END}\n");
        assert_eq!(new.encode(&dialogue).unwrap(), expected(&old, &dialogue), "{dialogue:?}");
    }
}

#[test]
fn tokens_that_cannot_be_added_are_refused() {
    let shop = Workshop::new();
    let refused = |over: Value, message: &str| {
        let error = add(&shop, &model("llama"), over).unwrap_err();
        assert_eq!((error.code(), error.one_line().as_str()), (ExitCode::Invalid, message));
    };
    refused(json!({"tokens": []}), "`tokens` names no token");
    refused(json!({"tokens": ["<a>", ""]}), "`tokens` holds an empty one");
    refused(json!({"tokens": ["<a>", "<b>", "<a>"]}), "`tokens` names `<a>` twice");
    refused(json!({"tokens": ["<s>"]}), "`tokens`: `<s>` is in the tokenizer already, as 1");
    refused(json!({"tokens": ["<0x0A>"]}), "`tokens`: `<0x0A>` is in the tokenizer already, as 13");
    refused(json!({"tokens": ["a b"]}), "`tokens`: \"a b\" holds white space");
    refused(json!({"tokens": ["▁a"]}), "`tokens`: \"▁a\" holds white space");
    refused(json!({"eos_token": "<|end|>"}), "`eos_token`: the tokenizer has no token `<|end|>`");
    refused(json!({"pad_token": "<pad>"}), "`pad_token`: the tokenizer has no token `<pad>`");
}
