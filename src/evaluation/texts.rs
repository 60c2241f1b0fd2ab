//! Running text: loss per token, and bits per byte, which compares models with different tokenizers.
//!
//! A document is BOS and its tokens, all of which but BOS are predicted once. Documents longer than the window are cut
//! into windows: the first predicts `window` tokens; each later one predicts the next `stride` tokens, with as many
//! tokens before them as the window holds. Bits per byte = total negative log-likelihood / ln 2 / UTF-8 bytes.

use std::f64::consts::LN_2;

use crate::error::{Error, Result};
use crate::evaluation::language_model::{LanguageModel, Sequence, Target};
use crate::evaluation::likelihood;

/// How text is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Longest input in tokens; at least 1.
    pub length: usize,
    /// Tokens that each window after the first predicts: 1 ..= `length`. Smaller: more context, more work.
    pub stride: usize,
}

impl Windows {
    /// The window asked for, or what the model takes if that is less; `stride` without a value is the window.
    pub fn new(window: usize, stride: Option<usize>, model: &dyn LanguageModel) -> Result<Self> {
        if window == 0 || stride == Some(0) {
            return Err(Error::invalid("window and stride are counted in tokens, from 1"));
        }
        if let Some(stride) = stride.filter(|&stride| stride > window) {
            return Err(Error::invalid(format!(
                "stride ({stride}) is larger than window ({window}): tokens would be left out"
            )));
        }
        let length = window.min(model.max_length());
        Ok(Self { length, stride: stride.unwrap_or(length).min(length) })
    }

    /// The windows of a document: `start` (BOS) and then `ids`, all predicted once.
    fn of(self, start: u32, ids: &[u32]) -> Vec<Sequence> {
        let all: Vec<u32> = std::iter::once(start).chain(ids.iter().copied()).collect();
        let mut windows = Vec::new();
        let mut predicted = 0; // of `ids`; token i of `ids` is token i + 1 of `all`
        while predicted < ids.len() {
            let step = if predicted == 0 { self.length } else { self.stride };
            let end = (predicted + step).min(ids.len());
            let begin = end.saturating_sub(self.length);
            let targets = (predicted..end).map(|i| Target { position: i - begin, token: ids[i] });
            windows.push(Sequence { ids: all[begin..end].to_vec(), targets: targets.collect() });
            predicted = end;
        }
        windows
    }
}

/// How much of a text set is read: the first documents, whole but perhaps for the last. The bounds are in documents
/// and bytes, not tokens, so that models with different tokenizers see the same text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    pub documents: Option<u64>,
    pub bytes: Option<u64>,
}

/// What a text set came to.
#[derive(Clone, Debug, PartialEq)]
pub struct TextScore {
    pub documents: u64,
    /// Predicted tokens: those of the documents, without BOS.
    pub tokens: u64,
    /// Unicode characters.
    pub characters: u64,
    /// UTF-8 bytes.
    pub bytes: u64,
    /// Natural logarithms, summed over all tokens.
    pub negative_log_likelihood: f64,
    /// BLAKE3 of the text that was read, in hexadecimal: two scores with the same digest are of the same text.
    pub digest: String,
}

impl TextScore {
    /// Nats per token.
    pub fn loss(&self) -> f64 {
        self.negative_log_likelihood / self.tokens as f64
    }

    pub fn bits_per_byte(&self) -> f64 {
        self.negative_log_likelihood / LN_2 / self.bytes as f64
    }

    pub fn tokens_per_character(&self) -> f64 {
        self.tokens as f64 / self.characters as f64
    }
}

/// Scores the documents of a text set, in batches of at most `batch_tokens` tokens. `advance(bytes)` is called with
/// the number of bytes just scored. A set without text is an error. The sum runs in document order, whatever the
/// batches.
pub fn score(
    model: &dyn LanguageModel,
    documents: impl Iterator<Item = Result<String>>,
    bound: Bound,
    windows: Windows,
    batch_tokens: usize,
    advance: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<TextScore> {
    let start = model.document_start().ok_or_else(|| {
        Error::invalid("the tokenizer has neither a BOS nor an EOS token to begin a document with")
    })?;
    let mut hasher = blake3::Hasher::new();
    let mut score = TextScore {
        documents: 0,
        tokens: 0,
        characters: 0,
        bytes: 0,
        negative_log_likelihood: 0.0,
        digest: String::new(),
    };
    // Windows wait here until there are enough to fill batches of similar length.
    let mut pool: Vec<Sequence> = Vec::new();
    let mut pooled_tokens = 0;
    let mut pooled_bytes = 0;
    let mut flush = |pool: &mut Vec<Sequence>, bytes: u64, total: &mut f64| {
        let wanted: Vec<usize> = (0..pool.len()).collect();
        let mut told = 0;
        let mut advance = |done: usize, all: usize| {
            let now = bytes * done as u64 / all.max(1) as u64;
            advance(now - told)?;
            told = now;
            Ok(())
        };
        let found = likelihood::run(model, pool, &wanted, batch_tokens, &mut advance)?;
        *total -= found.iter().flatten().sum::<f64>();
        pool.clear();
        Ok::<(), Error>(())
    };
    for document in documents {
        if bound.documents.is_some_and(|most| score.documents >= most) {
            break;
        }
        let mut text = document?;
        let room = bound.bytes.map_or(u64::MAX, |most| most - score.bytes);
        let full = text.len() as u64 >= room;
        if full {
            // A character that crosses the border is left out.
            let room = usize::try_from(room).unwrap_or(usize::MAX).min(text.len());
            let end = (0..=room).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
            text.truncate(end);
        }
        let ids = model.encode(&text)?;
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
        score.documents += 1;
        score.tokens += ids.len() as u64;
        score.characters += text.chars().count() as u64;
        score.bytes += text.len() as u64;
        pooled_tokens += ids.len();
        pooled_bytes += text.len() as u64;
        pool.extend(windows.of(start, &ids));
        if pooled_tokens >= 8 * batch_tokens {
            flush(&mut pool, pooled_bytes, &mut score.negative_log_likelihood)?;
            (pooled_tokens, pooled_bytes) = (0, 0);
        }
        if full {
            break;
        }
    }
    flush(&mut pool, pooled_bytes, &mut score.negative_log_likelihood)?;
    if score.tokens == 0 {
        return Err(Error::invalid("there is no text in it"));
    }
    score.digest = hasher.finalize().to_hex().to_string();
    Ok(score)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::likelihood::tests::Fake;

    fn windows(length: usize, stride: usize) -> Windows {
        Windows { length, stride }
    }

    #[test]
    fn every_token_is_predicted_once_with_the_context_stated() {
        let ids: Vec<u32> = (10..20).collect();
        for (length, stride) in [(4, 4), (4, 1), (4, 3), (1, 1), (10, 5), (64, 64)] {
            let cut = windows(length, stride).of(1, &ids);
            let tokens: Vec<u32> = cut.iter().flat_map(|w| w.targets.iter().map(|t| t.token)).collect();
            assert_eq!(tokens, ids, "window {length}, stride {stride}");
            for (number, window) in cut.iter().enumerate() {
                assert!(window.ids.len() <= length);
                for target in &window.targets {
                    // The token at the target's position is the one before it in the document.
                    assert_eq!(window.ids[target.position], if target.token == 10 { 1 } else { target.token - 1 });
                    assert!(number == 0 || target.position + stride >= length.min(window.ids.len()));
                }
            }
        }
        let cut = windows(4, 2).of(1, &ids);
        let inputs: Vec<_> = cut.iter().map(|w| w.ids.clone()).collect();
        let expected: [&[u32]; 4] = [&[1, 10, 11, 12], &[11, 12, 13, 14], &[13, 14, 15, 16], &[15, 16, 17, 18]];
        assert_eq!(inputs, expected);
        assert!(windows(4, 2).of(1, &[]).is_empty());
    }

    #[test]
    fn figures_are_sums_over_all_documents_whatever_the_batches() {
        let model = Fake::new(8);
        let documents = ["abc", "", "北京 x", "a much longer document than a window"];
        let cut = Windows::new(1_000, Some(5), &model).unwrap();
        assert_eq!(cut, windows(8, 5));
        let run = |batch_tokens, bound| {
            let texts = documents.iter().map(|text| Ok((*text).to_owned()));
            score(&model, texts, bound, cut, batch_tokens, &mut |_| Ok(())).unwrap()
        };
        let whole = run(1, Bound::default());
        assert_eq!((whole.documents, whole.bytes, whole.characters), (4, 47, 43));
        let expected: f64 = documents
            .iter()
            .flat_map(|text| cut.of(1, &model.encode(text).unwrap()))
            .flat_map(|w| w.targets.clone().into_iter().map(move |t| Fake::log_probability(&w.ids, t)))
            .sum();
        assert!((whole.negative_log_likelihood + expected).abs() < 1e-9);
        assert!((whole.bits_per_byte() + expected / LN_2 / 47.0).abs() < 1e-12);
        assert_eq!(run(10_000, Bound::default()), whole);
        let bounded = run(64, Bound { bytes: Some(8), documents: None });
        // Five bytes are left for the third document: one character of three, and a part of the next.
        assert_eq!((bounded.documents, bounded.bytes, bounded.characters), (3, 6, 4));
        assert_eq!(run(64, Bound { bytes: None, documents: Some(1) }).bytes, 3);
        let error = score(&model, std::iter::empty(), Bound::default(), cut, 64, &mut |_| Ok(())).unwrap_err();
        assert_eq!(error.one_line(), "there is no text in it");
    }

    #[test]
    fn impossible_windows_are_refused() {
        let model = Fake::new(8);
        assert!(Windows::new(0, None, &model).is_err());
        let error = Windows::new(4, Some(5), &model).unwrap_err();
        assert_eq!(error.one_line(), "stride (5) is larger than window (4): tokens would be left out");
    }
}
