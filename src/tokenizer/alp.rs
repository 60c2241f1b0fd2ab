//! ALP, the average log probability of a text under a vocabulary (Zheng et al., "Allocating Large Vocabulary Capacity
//! for Cross-lingual Language Model Pre-training", 2021), for every size of a vocabulary at once.
//!
//! With p(t) the share of token t among all tokens, ALP is the mean over the lines of Σ ln p(t). It is a sum over
//! lines, not tokens, so it depends on how long lines are: compare it on the same lines only.
//!
//! A BPE vocabulary of n pieces takes the same steps as a larger one of the same training, up to the first step whose
//! piece it does not have; there it stops, since nothing better can have been left. So one encoding with the largest
//! vocabulary, noting for each step the best size that no longer has it, gives the token counts of all sizes.

use rayon::prelude::*;

use super::bpe::{Merge, Watcher};
use super::sentencepiece::SentencePiece;
use super::trainer::Trained;
use crate::error::Result;

/// A text under one vocabulary.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    pub tokens: u64,
    pub alp: f64,
}

/// ALP of `lines` lines whose tokens have these counts: (1 / lines) · Σ count · ln(count / all).
pub fn average_log_probability(counts: &[u64], lines: usize) -> f64 {
    let all = counts.iter().sum::<u64>() as f64;
    let sum: f64 = counts.iter().filter(|count| **count > 0).map(|&n| n as f64 * (n as f64 / all).ln()).sum();
    sum / lines as f64
}

/// The score of the lines under the vocabularies of the first `merges[0]`, `merges[1]`, … merges of a training
/// (ascending). Characters that are no pieces count as their bytes with byte fallback, else a run of them as one token, as
/// in SentencePiece.
pub fn scores<S: AsRef<str> + Sync>(trained: &Trained, merges: &[usize], lines: &[S]) -> Result<Vec<Score>> {
    let Some(&most) = merges.last() else { return Ok(Vec::new()) };
    let tokenizer = SentencePiece::new(trained.model(most))?;
    // By rank of a piece, which is its place among the merges: the first vocabulary that has it.
    let levels: Vec<usize> = (0..most).map(|rank| merges.partition_point(|merges| *merges <= rank)).collect();
    let pieces = tokenizer.model().pieces.len();
    let share = lines.len().div_ceil(rayon::current_num_threads()).max(1);
    let tallies: Vec<Tally> = lines
        .par_chunks(share)
        .map(|lines| {
            let mut tally = Tally::new(&levels, merges.len(), pieces, tokenizer.bpe().unknown());
            for line in lines {
                tally.after_unknown = false;
                tokenizer.with_normalized(line.as_ref(), |text, scratch| {
                    tokenizer.bpe().trace(text, scratch, &mut tally, Tally::begin, Tally::end);
                });
            }
            tally
        })
        .collect();
    let mut counts = vec![0; pieces];
    let mut scores = Vec::new();
    for level in 0..merges.len() {
        for tally in &tallies {
            counts.iter_mut().zip(&tally.changes[level]).for_each(|(count, change)| *count += change);
        }
        let counts: Vec<u64> = counts.iter().map(|count: &i64| count.unsigned_abs()).collect();
        let tokens = counts.iter().sum();
        scores.push(Score { tokens, alp: average_log_probability(&counts, lines.len()) });
    }
    Ok(scores)
}

/// Token counts by vocabulary and piece: those of the first one, then what each adds and takes.
struct Tally<'a> {
    levels: &'a [usize],
    changes: Vec<Vec<i64>>,
    /// The first vocabulary that has all pieces of the steps so far.
    level: usize,
    unknown: u32,
    after_unknown: bool,
}

impl<'a> Tally<'a> {
    fn new(levels: &'a [usize], vocabularies: usize, pieces: usize, unknown: u32) -> Self {
        Self { levels, changes: vec![vec![0; pieces]; vocabularies], level: 0, unknown, after_unknown: false }
    }

    /// A symbol before any merge.
    fn begin(&mut self, symbol: u32) {
        let is_unknown = symbol == self.unknown;
        if !(is_unknown && self.after_unknown) {
            self.changes[0][symbol as usize] += 1;
        }
        self.after_unknown = is_unknown;
    }

    /// The end of a stretch: the next one begins anew.
    fn end(&mut self) {
        self.level = 0;
    }
}

impl Watcher for Tally<'_> {
    fn merged(&mut self, merge: Merge) {
        self.level = self.level.max(self.levels.get(merge.rank as usize).copied().unwrap_or(0));
        let changes = &mut self.changes[self.level];
        changes[merge.left as usize] -= 1;
        changes[merge.right as usize] -= 1;
        changes[merge.union as usize] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::trainer::{Alphabet, Rules, Words, train};
    use super::*;

    const LINES: [&str; 6] = [
        "春天来了，山谷里的花都开了。",
        "山谷里的春天来得晚。",
        "花开了，春天来了！",
        "谷里有山，山里有谷",
        "ab ab 春",
        "※",
    ];

    /// As VoCapXLM's `compute_alp` does it, one vocabulary at a time.
    fn one_by_one(trained: &Trained, merges: usize) -> Score {
        let tokenizer = SentencePiece::new(trained.model(merges)).unwrap();
        let encode = |line: &&str| {
            let mut ids = Vec::new();
            tokenizer.encode_into(line, &mut ids);
            ids
        };
        let lines: Vec<Vec<u32>> = LINES.iter().map(encode).collect();
        let tokens: usize = lines.iter().map(Vec::len).sum();
        let share = |id: u32| lines.iter().flatten().filter(|other| **other == id).count() as f64 / tokens as f64;
        let sums = lines.iter().map(|ids| ids.iter().map(|id| share(*id).ln()).sum::<f64>());
        Score { tokens: tokens as u64, alp: sums.sum::<f64>() / lines.len() as f64 }
    }

    #[test]
    fn one_pass_gives_the_score_of_every_size() {
        for byte_fallback in [false, true] {
            let words = Words::of(Rules { byte_fallback, ..Rules::SENTENCEPIECE }, &LINES[..5]);
            let meta = words.rules().meta_pieces().len();
            let trained = train(words, Alphabet::Characters(14), meta + 14 + 12, |_| Ok(false)).unwrap();
            let merges = [0, 1, 3, 7, 12];
            let scores = scores(&trained, &merges, &LINES).unwrap();
            for (merges, score) in merges.iter().zip(&scores) {
                let expected = one_by_one(&trained, *merges);
                assert_eq!(score.tokens, expected.tokens, "{merges} merges, bytes: {byte_fallback}");
                let difference = (score.alp - expected.alp).abs();
                assert!(difference < 1e-9, "{merges} merges, bytes: {byte_fallback}: {score:?}, {expected:?}");
            }
            assert!(scores[4].tokens < scores[0].tokens);
        }
    }
}
