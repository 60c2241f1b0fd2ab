//! `tokenizer.model`: an error, or an encoder whose ids are those of the definition, followed step by step; of a Unigram
//! model, ids that it has.
//!
//! Bytes that are no protocol buffer are read as a description of one (see [`described`]), by which far more models come
//! about that can be encoded with.
#![no_main]

use std::collections::HashMap;

use cmx::fuzzing::{MODEL_TYPE_BPE, Piece, PieceKind, TrainerSpec, byte_piece};
use cmx::tokenizer::{Encoder, ModelProto, Normalizer, SentencePiece, Tokenizer};
use libfuzzer_sys::fuzz_target;
use prost::Message;

/// The model that a description stands for, and a text. In the first line letters are options, in each further line
/// the first letter is a piece's kind, the second its score, and the rest its text; behind an empty line comes the text
/// to encode.
fn described(description: &str) -> (ModelProto, String) {
    let (head, text) = description.split_once("\n\n").unwrap_or((description, description));
    let (options, lines) = head.split_once('\n').unwrap_or((head, ""));
    let option = |letter: char| options.contains(letter);
    let normalizer = Normalizer {
        add_dummy_prefix: !option('d'),
        remove_extra_whitespaces: option('e'),
        escape_whitespaces: !option('n'),
        whitespace_as_suffix: option('s'),
    };
    let trainer = TrainerSpec {
        model_type: (!option('g')).then_some(MODEL_TYPE_BPE),
        byte_fallback: Some(option('b')),
        treat_whitespace_as_suffix: Some(option('s')),
        ..TrainerSpec::default()
    };
    let mut pieces = vec![Piece::new("<unk>", 0.0, PieceKind::Unknown)];
    if option('b') {
        pieces.extend((0..=255).map(|byte| Piece::new(byte_piece(byte), 0.0, PieceKind::Byte)));
    }
    for line in lines.lines() {
        let mut letters = line.chars();
        let kind = match letters.next() {
            Some('u') => PieceKind::UserDefined,
            Some('x') => PieceKind::Unused,
            Some('c') => PieceKind::Control,
            _ => PieceKind::Normal,
        };
        let score = letters.next().map_or(0.0, |letter| -((letter as u32 % 16) as f32));
        pieces.push(Piece::new(letters.as_str(), score, kind));
    }
    let model = ModelProto {
        pieces,
        trainer_spec: Some(trainer.encode_to_vec()),
        normalizer_spec: Some(normalizer.spec().encode_to_vec()),
        ..ModelProto::default()
    };
    (model, text.to_owned())
}

/// The ids of a normalised text by the definition: the two neighbours whose union is the piece of best score become
/// one, the leftmost of equals first; user-defined pieces are taken whole, longest first, and join nothing.
fn by_definition(model: &ModelProto, byte_fallback: bool, normalized: &str) -> Vec<u32> {
    let mut in_text: HashMap<&str, &Piece> = HashMap::new();
    // A text that is a piece of both sorts has the id of the reserved one.
    let mut ids: HashMap<&str, u32> = HashMap::new();
    let mut unknown = 0;
    for (id, piece) in (0..).zip(&model.pieces) {
        if piece.is_in_text() {
            in_text.insert(piece.text(), piece);
            ids.entry(piece.text()).or_insert(id);
        } else {
            ids.insert(piece.text(), id);
        }
        if piece.kind() == PieceKind::Unknown {
            unknown = id;
        }
    }

    // Parts of the text, and whether they may be joined.
    let mut symbols: Vec<(&str, bool)> = Vec::new();
    let mut rest = normalized;
    while let Some(first) = rest.chars().next() {
        let user_defined = in_text
            .values()
            .filter(|piece| piece.kind() == PieceKind::UserDefined && rest.starts_with(piece.text()))
            .map(|piece| piece.text().len())
            .max();
        let (symbol, after) = rest.split_at(user_defined.unwrap_or(first.len_utf8()));
        symbols.push((symbol, user_defined.is_none()));
        rest = after;
    }
    let starts =
        |symbols: &[(&str, bool)], at: usize| symbols[..at].iter().map(|(text, _)| text.len()).sum::<usize>();
    loop {
        let mut best: Option<(f32, usize, &str)> = None;
        for at in 0..symbols.len().saturating_sub(1) {
            let ((left, left_free), (right, right_free)) = (symbols[at], symbols[at + 1]);
            if !(left_free && right_free) {
                continue;
            }
            let start = starts(&symbols, at);
            let union = &normalized[start..start + left.len() + right.len()];
            if let Some(piece) = in_text.get(union) {
                let score = piece.score();
                if best.is_none_or(|(other, _, _)| score > other) {
                    best = Some((score, at, union));
                }
            }
        }
        let Some((_, at, union)) = best else { break };
        symbols[at] = (union, true);
        symbols.remove(at + 1);
    }

    let mut out = Vec::new();
    let mut after_unknown = false;
    for (text, _) in symbols {
        let id = if in_text.contains_key(text) { ids[text] } else { unknown };
        if id != unknown {
            out.push(id);
        } else if byte_fallback {
            out.extend(text.bytes().map(|byte| ids[byte_piece(byte).as_str()]));
        } else if !after_unknown {
            out.push(id);
        }
        after_unknown = id == unknown;
    }
    out
}

fuzz_target!(|bytes: &[u8]| {
    let (model, text) = match ModelProto::decode(bytes) {
        Ok(model) => {
            let text = match &model.self_test_data {
                Some(data) => String::from_utf8_lossy(data).into_owned(),
                None => model.pieces.iter().take(300).map(|piece| piece.text()).collect(),
            };
            (model, text)
        }
        Err(_) => described(&String::from_utf8_lossy(bytes)),
    };
    let written = model.encode_to_vec();
    let byte_fallback = model.trainer().is_ok_and(|trainer| trainer.byte_fallback());
    if model.trainer().is_ok_and(|trainer| trainer.is_unigram()) {
        let Ok(tokenizer) = Tokenizer::open(&cmx_fuzz::file("tokenizer.model", &written)) else { return };
        let ids = tokenizer.encode(&text).expect("bytes or the unknown piece for every character");
        assert!(ids.iter().all(|&id| tokenizer.piece(id).is_some()));
        let _ = tokenizer.decode(&ids);
        return;
    }
    let Ok(tokenizer) = SentencePiece::new(model) else { return };
    let mut ids = Vec::new();
    tokenizer.encode_into(&text, &mut ids);
    let decoded = tokenizer.decode(&ids);

    let model = tokenizer.model();
    let has = |kind: PieceKind| model.pieces.iter().any(|piece| piece.kind() == kind);
    // Unused pieces are taken apart again by rules that say nothing about merging; the slow way is for short texts.
    if !has(PieceKind::Unused) && text.len() <= 300 {
        let mut normalized = String::new();
        tokenizer.vocabulary().normalize(&text, tokenizer.bpe().user_defined(), &mut normalized);
        let expected = by_definition(model, byte_fallback, &normalized);
        assert_eq!(ids, expected, "{text:?} as {normalized:?}");
    }
    // With all bytes and a piece for the space, no text loses anything on the way to ids and back.
    let normalizer = tokenizer.normalizer();
    let is_lossless = byte_fallback
        && !tokenizer.vocabulary().has_charsmap()
        && !(has(PieceKind::Unused) || has(PieceKind::UserDefined) || has(PieceKind::Control))
        && normalizer.escape_whitespaces
        && !normalizer.remove_extra_whitespaces
        && !normalizer.whitespace_as_suffix
        && model.pieces.iter().any(|piece| piece.text() == "\u{2581}" && piece.kind() == PieceKind::Normal)
        && !text.contains(['\u{2581}', '<'])
        && (normalizer.add_dummy_prefix || !text.starts_with(' '));
    if is_lossless {
        assert_eq!(decoded, text);
    }
    // What transformers would make of the model takes a hundred times as long: of some inputs only.
    if model.pieces.len() <= 300 && bytes.len() % 16 == 0 {
        let path = cmx_fuzz::file("tokenizer.model", &written);
        for encoder in [Encoder::Transformers4, Encoder::Transformers5] {
            if let Ok(converted) = Tokenizer::open_as(&path, encoder) {
                let ids = converted.encode(&text).expect("bytes or the unknown piece for every character");
                let _ = converted.decode(&ids);
            }
        }
    }
});
