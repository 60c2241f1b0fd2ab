//! A SentencePiece model as the files that transformers reads: `tokenizer.json` and its companions.

use std::cmp::Reverse;
use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::normalizer::SPACE;
use super::proto::{Piece, PieceKind};
use super::sentencepiece::SentencePiece;
use super::vocabulary::Vocabulary;

/// `tokenizer.json` of the same vocabulary; `None` for models whose normalisation it cannot say: white space at the end,
/// or unescaped, and maps of characters, of which `tokenizers` takes the shortest keys and SentencePiece the longest.
///
/// The form is that of Llama tokenizers with `legacy = true`, which encode as SentencePiece does. SentencePiece has
/// scores where `tokenizers` has a list of merges: every way to make a piece of two others is listed, by descending
/// score of the piece; with equal scores those with the longer left half come first, which makes them act from left
/// to right as SentencePiece does (the order that transformers' own conversion uses).
///
/// `tokenizers` takes added tokens out of a text first and then puts the dummy prefix before each part. With user-defined
/// pieces, inside of a text, that would put a space behind each; so they, and all others with them, are found in the
/// normal form of the whole text, and the prefix is put at its beginning alone. There it is left out where a special
/// token begins the text, as the slow tokenizer does (`legacy = false`), and where any such token is all of the text: the
/// library looks for the normal form of a token, which must be the token itself.
pub fn tokenizer_json(tokenizer: &SentencePiece) -> Option<Value> {
    json_of(tokenizer, finds_in_normal_form(tokenizer.vocabulary()))
}

/// Whether added tokens are looked for in the normal form of a text.
fn finds_in_normal_form(vocabulary: &Vocabulary) -> bool {
    vocabulary.model().pieces.iter().any(|piece| piece.kind() == PieceKind::UserDefined)
}

fn json_of(tokenizer: &SentencePiece, in_normal_form: bool) -> Option<Value> {
    let (vocabulary, normalizer) = (tokenizer.vocabulary(), tokenizer.normalizer());
    if normalizer.whitespace_as_suffix || !normalizer.escape_whitespaces || vocabulary.has_charsmap() {
        return None;
    }
    let pieces = &tokenizer.model().pieces;
    let mut steps = Vec::new();
    if normalizer.remove_extra_whitespaces {
        steps.push(json!({"type": "Replace", "pattern": {"Regex": "\\A +| +\\z"}, "content": ""}));
        steps.push(json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}));
    }
    if normalizer.add_dummy_prefix && in_normal_form {
        let start = json!({"Regex": start_of_text(vocabulary)});
        steps.push(json!({"type": "Replace", "pattern": start, "content": SPACE}));
    } else if normalizer.add_dummy_prefix {
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
    let ids: Map<String, Value> =
        pieces.iter().enumerate().map(|(id, piece)| (piece.text().to_owned(), json!(id))).collect();
    Some(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added(pieces).map(|(id, piece)| {
            let mut token = added_token(vocabulary, piece, in_normal_form);
            token.insert("id".to_owned(), json!(id));
            token.sort_keys();
            token
        }).collect::<Vec<_>>(),
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": null,
        "post_processor": vocabulary.bos().map(|bos| template(bos, pieces[bos as usize].text())),
        "decoder": {"type": "Sequence", "decoders": decoder},
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": pieces[vocabulary.unknown() as usize].text(),
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": pieces.iter().any(|piece| piece.kind() == PieceKind::Byte),
            "ignore_merges": false,
            "vocab": ids,
            "merges": merges(pieces),
        },
    }))
}

/// What transformers 4 makes of a `tokenizer.model` (`LlamaTokenizerFast`, `legacy = True`, `add_prefix_space = True`):
/// [`tokenizer_json`], but that spaces are never squeezed.
pub fn transformers_4(tokenizer: &SentencePiece) -> Option<Value> {
    let mut json = json_of(tokenizer, false)?;
    json["normalizer"]["normalizers"] = json!([
        {"type": "Prepend", "prepend": SPACE},
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
    ]);
    Some(json)
}

/// What transformers 5 makes of it (`LlamaTokenizer`, `legacy = True`): the merges in the order of the pieces' ids,
/// whatever their scores, and no space put before a text that begins with one.
pub fn transformers_5(tokenizer: &SentencePiece) -> Option<Value> {
    let mut json = json_of(tokenizer, false)?;
    json["normalizer"] = Value::Null;
    json["pre_tokenizer"] =
        json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": false});
    json["model"]["unk_token"] = Value::Null;
    json["model"]["byte_fallback"] = json!(true);
    json["model"]["merges"] = json!(merges_by_id(&tokenizer.model().pieces));
    Some(json)
}

/// `tokenizer_config.json`.
pub fn tokenizer_config(vocabulary: &Vocabulary) -> Value {
    let pieces = &vocabulary.model().pieces;
    let in_normal_form = finds_in_normal_form(vocabulary);
    let token = |piece| Value::Object(added_token(vocabulary, piece, in_normal_form));
    let decoder: Map<String, Value> = added(pieces).map(|(id, piece)| (id.to_string(), token(piece))).collect();
    let usage = vocabulary.usage();
    let [bos, eos, unknown] = special(vocabulary);
    let mut config = json!({
        "add_bos_token": bos.is_some(),
        "add_eos_token": false,
        "added_tokens_decoder": decoder,
        "additional_special_tokens": usage.special,
        "bos_token": bos,
        "chat_template": usage.chat_template,
        "clean_up_tokenization_spaces": false,
        "eos_token": eos,
        // Without it, the slow tokenizer puts a space behind every added token; it cannot say that there is no prefix.
        "legacy": !(in_normal_form && vocabulary.normalizer().add_dummy_prefix),
        "pad_token": usage.pad,
        "sp_model_kwargs": {},
        "spaces_between_special_tokens": false,
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": unknown,
        "use_default_system_prompt": false,
    });
    if let Some(config) = config.as_object_mut() {
        config.retain(|name, value| match name.as_str() {
            "additional_special_tokens" => *value != json!([]),
            "chat_template" => !value.is_null(),
            _ => true,
        });
    }
    config
}

/// `special_tokens_map.json`.
pub fn special_tokens_map(vocabulary: &Vocabulary) -> Value {
    let usage = vocabulary.usage();
    let names = ["bos_token", "eos_token", "unk_token"].into_iter().zip(special(vocabulary));
    let names = names.chain([("pad_token", usage.pad.as_deref())]);
    let mut map: Map<_, _> = names.filter_map(|(name, token)| Some((name.to_owned(), json!(token?)))).collect();
    if !usage.special.is_empty() {
        map.insert("additional_special_tokens".to_owned(), json!(usage.special));
    }
    map.into()
}

/// The texts of the beginning, end and unknown pieces.
fn special(vocabulary: &Vocabulary) -> [Option<&str>; 3] {
    let text = |id: u32| vocabulary.model().pieces[id as usize].text();
    [vocabulary.bos().map(text), vocabulary.eos().map(text), Some(text(vocabulary.unknown()))]
}

/// The tokens that have a role for transformers.
fn roles(vocabulary: &Vocabulary) -> impl Iterator<Item = &str> {
    special(vocabulary).into_iter().flatten().chain(vocabulary.usage().tokens())
}

/// A pattern of the place where a text begins to which the dummy prefix belongs.
fn start_of_text(vocabulary: &Vocabulary) -> String {
    let escaped = |token: &str| regex::escape(token);
    let mut unless: Vec<String> = Vec::new();
    for token in roles(vocabulary).map(escaped) {
        if !unless.contains(&token) {
            unless.push(token);
        }
    }
    let others: Vec<String> = added(&vocabulary.model().pieces)
        .map(|(_, piece)| escaped(piece.text()))
        .filter(|token| !unless.contains(token))
        .collect();
    if !others.is_empty() {
        unless.push(format!("(?:{})\\z", others.join("|")));
    }
    format!("\\A(?!{})", unless.join("|"))
}

/// The pieces that are found in a text before anything else is done to it.
fn added(pieces: &[Piece]) -> impl Iterator<Item = (usize, &Piece)> {
    use PieceKind::{Control, Unknown, UserDefined};
    pieces.iter().enumerate().filter(|(_, piece)| matches!(piece.kind(), Control | Unknown | UserDefined))
}

fn added_token(vocabulary: &Vocabulary, piece: &Piece, normalized: bool) -> Map<String, Value> {
    let special = piece.kind() != PieceKind::UserDefined || roles(vocabulary).any(|token| token == piece.text());
    let fields = [
        ("lstrip", false),
        ("normalized", normalized),
        ("rstrip", false),
        ("single_word", false),
        ("special", special),
    ];
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

/// A way to make a piece of two others.
struct Cut<'a> {
    score: f32,
    /// The lengths of the halves in characters, and their ids.
    lengths: (usize, usize),
    ids: (usize, usize),
    halves: (&'a str, &'a str),
}

/// Every way to make a piece of two others: by piece, then by the ids of the halves.
fn cuts(pieces: &[Piece]) -> Vec<Cut<'_>> {
    let mergeable = |piece: &&Piece| piece.kind() == PieceKind::Normal && !piece.text().contains(' ');
    let ids: HashMap<&str, usize> = pieces
        .iter()
        .enumerate()
        .filter(|(_, piece)| mergeable(piece))
        .map(|(id, piece)| (piece.text(), id))
        .collect();
    let mut cuts = Vec::new();
    for piece in pieces.iter().filter(mergeable) {
        let first = cuts.len();
        for (length, (at, _)) in piece.text().char_indices().enumerate().skip(1) {
            let (left, right) = piece.text().split_at(at);
            if let (Some(&left_id), Some(&right_id)) = (ids.get(left), ids.get(right)) {
                let lengths = (length, right.chars().count());
                cuts.push(Cut {
                    score: piece.rank_score(),
                    lengths,
                    ids: (left_id, right_id),
                    halves: (left, right),
                });
            }
        }
        cuts[first..].sort_by_key(|cut| cut.ids);
    }
    cuts
}

/// The halves parted by a space, the first to be tried first.
fn merges(pieces: &[Piece]) -> Vec<String> {
    let mut cuts = cuts(pieces);
    cuts.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| Reverse(a.lengths).cmp(&Reverse(b.lengths))));
    cuts.into_iter().map(|Cut { halves: (left, right), .. }| format!("{left} {right}")).collect()
}

/// As [`merges`], by the ids of the pieces in place of their scores, and with equal ids the shorter left half first.
fn merges_by_id(pieces: &[Piece]) -> Vec<String> {
    // Cuts come by piece already, so that only those of one piece are to be put in order.
    let mut cuts = cuts(pieces);
    for of_one in cuts.chunk_by_mut(|a, b| whole(a).eq(whole(b))) {
        of_one.sort_by_key(|cut| cut.lengths);
    }
    cuts.into_iter().map(|Cut { halves: (left, right), .. }| format!("{left} {right}")).collect()
}

/// The piece that a cut's halves make. Pieces are not repeated, so that neighbours of equal text are of one piece.
fn whole<'a>(cut: &Cut<'a>) -> impl Iterator<Item = char> + use<'a> {
    cut.halves.0.chars().chain(cut.halves.1.chars())
}
