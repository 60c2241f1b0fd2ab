//! A SentencePiece BPE model as the files that transformers reads: `tokenizer.json` and its companions.

use std::cmp::Reverse;
use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::normalizer::SPACE;
use super::proto::{Piece, PieceKind};
use super::sentencepiece::SentencePiece;

/// `tokenizer.json` of the same vocabulary; `None` for models whose normalisation it cannot say (white space at the
/// end, or unescaped).
///
/// The form is that of Llama tokenizers with `legacy = true`, which encode as SentencePiece does. SentencePiece has
/// scores where `tokenizers` has a list of merges: every way to make a piece of two others is listed, by descending
/// score of the piece; with equal scores those with the longer left half come first, which makes them act from left
/// to right as SentencePiece does (the order that transformers' own conversion uses).
pub fn tokenizer_json(tokenizer: &SentencePiece) -> Option<Value> {
    let normalizer = tokenizer.normalizer();
    if normalizer.whitespace_as_suffix || !normalizer.escape_whitespaces {
        return None;
    }
    let pieces = &tokenizer.model().pieces;
    let mut steps = Vec::new();
    if normalizer.remove_extra_whitespaces {
        steps.push(json!({"type": "Replace", "pattern": {"Regex": "\\A +| +\\z"}, "content": ""}));
        steps.push(json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}));
    }
    if normalizer.add_dummy_prefix {
        steps.push(json!({"type": "Prepend", "prepend": SPACE}));
    }
    steps.push(json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE}));

    let mut decoder = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if normalizer.add_dummy_prefix {
        decoder.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let vocabulary: Map<String, Value> =
        pieces.iter().enumerate().map(|(id, piece)| (piece.text().to_owned(), json!(id))).collect();
    Some(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added(pieces).map(|(id, piece)| {
            let mut token = added_token(piece);
            token.insert("id".to_owned(), json!(id));
            token.sort_keys();
            token
        }).collect::<Vec<_>>(),
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": null,
        "post_processor": tokenizer.bos().map(|bos| template(bos, pieces[bos as usize].text())),
        "decoder": {"type": "Sequence", "decoders": decoder},
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": pieces[tokenizer.bpe().unknown() as usize].text(),
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": pieces.iter().any(|piece| piece.kind() == PieceKind::Byte),
            "ignore_merges": false,
            "vocab": vocabulary,
            "merges": merges(pieces),
        },
    }))
}

/// `tokenizer_config.json`.
pub fn tokenizer_config(tokenizer: &SentencePiece) -> Value {
    let pieces = &tokenizer.model().pieces;
    let decoder: Map<String, Value> =
        added(pieces).map(|(id, piece)| (id.to_string(), Value::Object(added_token(piece)))).collect();
    let [bos, eos, unknown] = special(tokenizer);
    json!({
        "add_bos_token": bos.is_some(),
        "add_eos_token": false,
        "added_tokens_decoder": decoder,
        "bos_token": bos,
        "clean_up_tokenization_spaces": false,
        "eos_token": eos,
        "legacy": true,
        "pad_token": null,
        "sp_model_kwargs": {},
        "spaces_between_special_tokens": false,
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": unknown,
        "use_default_system_prompt": false,
    })
}

/// `special_tokens_map.json`.
pub fn special_tokens_map(tokenizer: &SentencePiece) -> Value {
    let names = ["bos_token", "eos_token", "unk_token"];
    names
        .into_iter()
        .zip(special(tokenizer))
        .filter_map(|(name, token)| Some((name.to_owned(), json!(token?))))
        .collect::<Map<_, _>>()
        .into()
}

/// The texts of the beginning, end and unknown pieces.
fn special(tokenizer: &SentencePiece) -> [Option<&str>; 3] {
    let text = |id: u32| tokenizer.model().pieces[id as usize].text();
    [tokenizer.bos().map(text), tokenizer.eos().map(text), Some(text(tokenizer.bpe().unknown()))]
}

/// The pieces that are found in a text before anything else is done to it.
fn added(pieces: &[Piece]) -> impl Iterator<Item = (usize, &Piece)> {
    use PieceKind::{Control, Unknown, UserDefined};
    pieces.iter().enumerate().filter(|(_, piece)| matches!(piece.kind(), Control | Unknown | UserDefined))
}

fn added_token(piece: &Piece) -> Map<String, Value> {
    let special = piece.kind() != PieceKind::UserDefined;
    let fields =
        [("lstrip", false), ("normalized", false), ("rstrip", false), ("single_word", false), ("special", special)];
    let mut token = Map::from_iter([("content".to_owned(), json!(piece.text()))]);
    token.extend(fields.map(|(name, value)| (name.to_owned(), json!(value))));
    token
}

/// Puts the beginning-of-text token before every sequence.
fn template(id: u32, bos: &str) -> Value {
    let token = |type_id: u32| json!({"SpecialToken": {"id": bos, "type_id": type_id}});
    let sequence = |name: &str, type_id: u32| json!({"Sequence": {"id": name, "type_id": type_id}});
    json!({
        "type": "TemplateProcessing",
        "single": [token(0), sequence("A", 0)],
        "pair": [token(0), sequence("A", 0), token(1), sequence("B", 1)],
        "special_tokens": {bos: {"id": bos, "ids": [id], "tokens": [bos]}},
    })
}

/// Every way to make a piece of two others, the first to be tried first; the halves are parted by a space.
fn merges(pieces: &[Piece]) -> Vec<String> {
    let mergeable = |piece: &&Piece| piece.kind() == PieceKind::Normal && !piece.text().contains(' ');
    let ids: HashMap<&str, usize> = pieces
        .iter()
        .enumerate()
        .filter(|(_, piece)| mergeable(piece))
        .map(|(id, piece)| (piece.text(), id))
        .collect();
    let mut merges = Vec::new();
    for piece in pieces.iter().filter(mergeable) {
        let first = merges.len();
        for (length, (at, _)) in piece.text().char_indices().enumerate().skip(1) {
            let (left, right) = piece.text().split_at(at);
            if let (Some(&left_id), Some(&right_id)) = (ids.get(left), ids.get(right)) {
                let right_length = right.chars().count();
                merges.push((piece.rank_score(), (length, right_length), (left_id, right_id), (left, right)));
            }
        }
        merges[first..].sort_by_key(|(_, _, ids, _)| *ids);
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| Reverse(a.1).cmp(&Reverse(b.1))));
    merges.into_iter().map(|(.., (left, right))| format!("{left} {right}")).collect()
}
