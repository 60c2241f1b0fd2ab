//! Which part of a text each of its tokens stands for, and the encoding of texts that a chat template wrote.

use std::ops::Range;

use super::normalizer::SPACE;
use super::proto::PieceKind;
use super::user_defined::UserDefined;
use super::vocabulary::Vocabulary;
use super::{Family, Tokenizer};
use crate::error::{Error, Result};

impl Tokenizer {
    /// Appends the ids of a text that a chat template wrote. The names of the beginning and end tokens are these tokens
    /// in it, as transformers reads them; a `tokenizer.json` says itself which texts are tokens. What stands between
    /// them is encoded as texts of their own. With `drops` merges are left out, as [`Self::sample_into`] does; with
    /// `spans` it gets the part of the text, in bytes, that each id stands for: parts of one character where that
    /// became several ids, and nothing where an id stands for no character.
    pub fn encode_dialogue(
        &self,
        text: &str,
        mut drops: Option<&mut dyn FnMut() -> bool>,
        ids: &mut Vec<u32>,
        mut spans: Option<&mut Vec<Range<usize>>>,
    ) -> Result<()> {
        let vocabulary = match &self.0 {
            Family::HuggingFace(tokenizer) => {
                return match (drops, spans) {
                    (Some(_), _) => Err(self.no_dropout()),
                    (None, Some(spans)) => tokenizer.encode_with_spans(text, ids, spans),
                    (None, None) => tokenizer.encode_into(text, ids),
                };
            }
            Family::SentencePiece(tokenizer) => tokenizer.vocabulary(),
            Family::Unigram(tokenizer) => tokenizer.vocabulary(),
        };
        let controls = controls(vocabulary);
        let mut start = 0;
        while start < text.len() {
            let next = (start..text.len())
                .find_map(|at| Some((at, controls.longest_prefix(&text.as_bytes()[at..])?)))
                .unwrap_or((text.len(), (0, 0)));
            let (end, (length, control)) = next;
            let own = &text[start..end];
            let first = ids.len();
            match drops.as_deref_mut() {
                Some(drops) => self.sample_into(own, drops, ids)?,
                None => self.encode_into(own, ids)?,
            }
            if let Some(spans) = spans.as_deref_mut() {
                let before = spans.len();
                align(vocabulary, own, &ids[first..], spans)?;
                for span in &mut spans[before..] {
                    *span = span.start + start..span.end + start;
                }
            }
            if length > 0 {
                ids.push(control);
                if let Some(spans) = spans.as_deref_mut() {
                    spans.push(end..end + length);
                }
            }
            start = end + length;
        }
        Ok(())
    }
}

/// The pieces that begin and end a text and that no text can spell.
fn controls(vocabulary: &Vocabulary) -> UserDefined {
    let ends = [vocabulary.bos(), vocabulary.eos()].into_iter().flatten();
    let pieces = ends.filter_map(|id| Some((vocabulary.model().pieces.get(id as usize)?, id)));
    UserDefined::new(
        pieces.filter(|(piece, _)| piece.kind() == PieceKind::Control).map(|(piece, id)| (piece.text(), id)),
    )
}

/// Appends the part of `text` that each of its `ids` stands for. The pieces, one behind the other, spell the normal form
/// of the text, so that their lengths say where they stand.
fn align(vocabulary: &Vocabulary, text: &str, ids: &[u32], spans: &mut Vec<Range<usize>>) -> Result<()> {
    let normalizer = vocabulary.normalizer_of(text);
    if vocabulary.has_charsmap() || normalizer.remove_extra_whitespaces {
        return Err(Error::invalid(
            "the tokenizer rewrites texts, so that answers cannot be found among its tokens",
        )
        .hint("give the tokenizer.json of the same tokenizer, or train on whole dialogues"));
    }
    let mut normalized = String::new();
    vocabulary.normalize(text, &UserDefined::default(), &mut normalized);
    // By byte of the normal form: the byte of the text.
    let mut origins = Vec::with_capacity(normalized.len() + 1);
    let dummy = if normalizer.escape_whitespaces { SPACE.len_utf8() } else { 1 };
    let prefix = normalizer.add_dummy_prefix && !text.is_empty() && !normalizer.whitespace_as_suffix;
    origins.resize(if prefix { dummy } else { 0 }, 0);
    for (at, character) in text.char_indices() {
        if character == ' ' && normalizer.escape_whitespaces {
            origins.resize(origins.len() + SPACE.len_utf8(), at);
        } else {
            origins.extend(at..at + character.len_utf8());
        }
    }
    origins.resize(normalized.len() + 1, text.len());
    let pieces = &vocabulary.model().pieces;
    let mut at = 0;
    for &id in ids {
        let piece = &pieces[id as usize];
        let length = match piece.kind() {
            PieceKind::Byte => 1,
            PieceKind::Unknown => {
                return Err(Error::invalid("the tokenizer has no token for some character, and no bytes for it")
                    .hint("give a tokenizer with byte fallback, or train on whole dialogues"));
            }
            _ => piece.text().len(),
        };
        let end = (at + length).min(normalized.len());
        spans.push(origins[at]..origins[end]);
        at = end;
    }
    debug_assert_eq!(at, normalized.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// What every token stands for, one after the other.
    fn parts(tokenizer: &Tokenizer, text: &str) -> Vec<(String, String)> {
        let (mut ids, mut spans) = (Vec::new(), Vec::new());
        tokenizer.encode_dialogue(text, None, &mut ids, Some(&mut spans)).unwrap();
        assert_eq!(ids.len(), spans.len());
        let shown = |span: Range<usize>| String::from_utf8_lossy(&text.as_bytes()[span]).into_owned();
        ids.iter().map(|&id| tokenizer.piece(id).unwrap().to_owned()).zip(spans.into_iter().map(shown)).collect()
    }

    #[test]
    fn every_token_stands_for_its_part() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sentencepiece");
        let added = crate::tokenizer::Added { tokens: vec!["<|im|>".into()], ..Default::default() };
        let llama = Tokenizer::open(&golden.join("llama.model")).unwrap().with(&added).unwrap();
        let text = "<s><|im|>a  b\u{1F600}</s>c <|im|> d";
        let found = parts(&llama, text);
        let joined: String = found.iter().map(|(_, part)| part.as_str()).collect();
        assert!(
            found.starts_with(&[("<s>".into(), "<s>".into()), ("<|im|>".into(), "<|im|>".into())]),
            "{found:?}"
        );
        // No dummy prefix behind a special token that begins a text, one before other texts.
        assert_eq!(found[2].1, "a", "{found:?}");
        let end = found.iter().position(|(piece, _)| piece == "</s>").unwrap();
        assert_eq!(
            found[end - 4..end].iter().map(|(piece, _)| piece.as_str()).collect::<Vec<_>>(),
            ["<0xF0>", "<0x9F>", "<0x98>", "<0x80>"]
        );
        assert_eq!(found[end + 1].0.chars().next(), Some(SPACE), "{found:?}");
        assert_eq!(joined.replace('\u{FFFD}', ""), text.replace('\u{1F600}', ""));

        // The same parts in a tokenizer.json of the same pieces, but that all bytes of a character stand for all of it.
        let folder = tempfile::tempdir().unwrap();
        llama.save(folder.path()).unwrap();
        let json = Tokenizer::open(&folder.path().join("tokenizer.json")).unwrap();
        let theirs = parts(&json, "<|im|>a  bc <|im|> d");
        assert_eq!(theirs, parts(&llama, "<|im|>a  bc <|im|> d"));
    }

    #[test]
    fn a_model_that_rewrites_texts_says_so() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sentencepiece");
        let plain = Tokenizer::open(&golden.join("mapped.model")).unwrap();
        let mut ids = Vec::new();
        plain.encode_dialogue("a b", None, &mut ids, None).unwrap();
        assert!(plain.encode_dialogue("a b", None, &mut ids, Some(&mut Vec::new())).is_err());
    }
}
