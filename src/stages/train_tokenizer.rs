//! `train-tokenizer`: documents → a byte-pair tokenizer.

use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rayon::ThreadPoolBuilder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Documents, Fault, Outlook, Prospect, Stage, Work};
use crate::corpus::each_text;
use crate::error::{Context, Error, Result};
use crate::events::Unit;
use crate::tokenizer::trainer::{Alphabet, Rules, Words, train};
use crate::tokenizer::{Normalizer, Sample, SentencePiece, Tokenizer};

/// Every document is cut into lines, which are SentencePiece's sentences; the parameters are named as there.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainTokenizer {
    /// The text to train on.
    pub train: Vec<Documents>,
    /// Number of pieces, special ones included.
    pub vocab_size: usize,
    /// Unknown characters become bytes.
    pub byte_fallback: bool,
    /// The share of the text whose characters get a piece of their own, at most 1.
    pub character_coverage: f32,
    /// Every digit is a piece.
    pub split_digits: bool,
    /// Runs of spaces may be pieces.
    pub allow_whitespace_only_pieces: bool,
    /// A space is put before every text.
    pub add_dummy_prefix: bool,
    /// Spaces at the ends are dropped and runs of them made one.
    pub remove_extra_whitespaces: bool,
    /// What else happens to a text before it is encoded.
    pub normalization: Normalization,
    /// In characters.
    pub max_sentencepiece_length: usize,
    /// In bytes; longer lines are passed over.
    pub max_sentence_length: usize,
    /// At most this many lines are trained on, drawn evenly from all.
    pub lines: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Normalization {
    /// Nothing.
    Identity,
}

impl Stage for TrainTokenizer {
    const KIND: &'static str = "train-tokenizer";
    const REVISION: u32 = 2;

    fn check(&self) -> Result<(), Fault> {
        let wrong = |name: &str, why: &str| Err(Fault::new(name, format!("`{name}` {why}")));
        if !(self.character_coverage > 0.0 && self.character_coverage <= 1.0) {
            return wrong("character_coverage", "is a share of the text: above 0, at most 1");
        }
        for (name, value) in [
            ("max_sentencepiece_length", self.max_sentencepiece_length),
            ("max_sentence_length", self.max_sentence_length),
            ("lines", self.lines),
        ] {
            if value == 0 {
                return wrong(name, "must be at least 1");
            }
        }
        if self.train.is_empty() {
            return wrong("train", "must name at least one corpus");
        }
        let special = self.rules().meta_pieces().len();
        if self.vocab_size <= special {
            return wrong("vocab_size", &format!("must be above {special}, the number of special pieces"));
        }
        Ok(())
    }

    fn prospect(&self, _: &dyn Outlook) -> Option<Prospect> {
        Some(Prospect::tokenizer(Ok(self.vocab_size)))
    }

    fn run(&self, work: &mut Work) -> Result<()> {
        let rules = self.rules();
        let sample = training_lines(&self.train, self.lines, self.max_sentence_length, work)?;
        let words = words_of(&sample, rules, "train")?;
        drop(sample);

        let progress = work.progress("train", Some(self.vocab_size as u64), Unit::Items);
        let lines = words.lines();
        let trained = train(words, Alphabet::Coverage(self.character_coverage), self.vocab_size, |merges| {
            progress.set(merges.len() as u64);
            work.check().map(|()| false)
        })?;
        progress.set(self.vocab_size as u64);
        progress.finish();
        let model = trained.model(trained.merges.len());
        model.write_vocab(&work.output().join("tokenizer.vocab"))?;
        Tokenizer::from(SentencePiece::new(model)?).save(work.output())?;

        work.metric("pieces", trained.vocab_size());
        work.metric("merges", trained.merges.len());
        work.metric("single_characters", trained.characters.len());
        work.metric("lines", lines);
        Ok(())
    }
}

impl TrainTokenizer {
    fn rules(&self) -> Rules {
        let Normalization::Identity = self.normalization;
        Rules {
            normalizer: Normalizer {
                add_dummy_prefix: self.add_dummy_prefix,
                remove_extra_whitespaces: self.remove_extra_whitespaces,
                escape_whitespaces: true,
                whitespace_as_suffix: false,
            },
            byte_fallback: self.byte_fallback,
            split_digits: self.split_digits,
            allow_whitespace_only_pieces: self.allow_whitespace_only_pieces,
            max_sentencepiece_length: self.max_sentencepiece_length,
            max_sentence_length: self.max_sentence_length,
        }
    }
}

/// A sample of at most `limit` of the lines that a training takes: not empty, and of at most `longest` bytes.
pub(super) fn training_lines(from: &[Documents], limit: usize, longest: usize, work: &Work) -> Result<Sample> {
    let mut sample = Sample::new(limit);
    let mut too_long = 0_u64;
    each_line(from, "read", work, |line| {
        if line.len() > longest {
            too_long += 1;
        } else if !line.is_empty() {
            sample.add(line);
        }
    })?;
    if too_long > 0 {
        work.warn(format!("{too_long} lines of more than {longest} bytes are passed over"));
    }
    if sample.seen() > limit as u64 {
        work.info(format!("training on {limit} of {} lines", sample.seen()));
    }
    Ok(sample)
}

/// The words of a sample; an error that names the parameter when there are none.
pub(super) fn words_of(sample: &Sample, rules: Rules, parameter: &str) -> Result<Words> {
    let words = Words::of(rules, &sample.lines());
    if words.lines() == 0 {
        return Err(Error::invalid(format!("`{parameter}`: the documents hold no text to train on")));
    }
    Ok(words)
}

/// What `work` makes of every item, or the error of the first that fails. As many items are worked on at once as the
/// current pool of Rayon has threads, each with its share of the threads for itself. Unlike with Rayon's own iterators a
/// thread that waits for others takes up no further item, so that never more than that many are in memory.
pub(super) fn side_by_side<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let threads = rayon::current_num_threads();
    let at_once = threads.min(items.len()).max(1);
    let next = AtomicUsize::new(0);
    let worker = |number: usize| -> Result<Vec<(usize, Result<R>)>> {
        let share = threads / at_once + usize::from(number < threads % at_once);
        let pool = ThreadPoolBuilder::new().num_threads(share).build();
        let pool = pool.context(|| "cannot start threads".to_owned())?;
        let mut results = Vec::new();
        loop {
            let number = next.fetch_add(1, Relaxed);
            let Some(item) = items.get(number) else { return Ok(results) };
            let result = pool.install(|| work(item));
            if result.is_err() {
                next.store(items.len(), Relaxed);
            }
            results.push((number, result));
        }
    };
    let done: Vec<Result<_>> = std::thread::scope(|scope| {
        let worker = &worker;
        let workers: Vec<_> = (0..at_once).map(|number| scope.spawn(move || worker(number))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    let mut results = Vec::new();
    for done in done {
        results.extend(done?);
    }
    results.sort_unstable_by_key(|(number, _)| *number);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Calls `each` with every line of every document, in order, one at a time.
pub(super) fn each_line(
    from: &[Documents],
    label: &str,
    work: &Work,
    mut each: impl FnMut(&str) + Send,
) -> Result<()> {
    let files: Vec<PathBuf> = from.iter().flat_map(|documents| documents.files.iter().cloned()).collect();
    let progress = work.progress(label, None, Unit::Documents);
    each_text(&files, work.threads(), |text| {
        work.check()?;
        text.split('\n').for_each(&mut each);
        progress.add(1);
        Ok(())
    })?;
    progress.finish();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;

    #[test]
    fn items_keep_their_order_and_are_never_more_than_threads() {
        for (threads, items) in [(1, 4), (2, 5), (7, 3), (3, 0)] {
            let items: Vec<usize> = (0..items).collect();
            let (busy, most, shares) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Vec::new()));
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let work = |item: &usize| {
                most.fetch_max(busy.fetch_add(1, Relaxed) + 1, Relaxed);
                shares.lock().unwrap().push(rayon::current_num_threads());
                // Later ones are faster.
                std::thread::sleep(Duration::from_millis(2 * (7 - *item as u64)));
                busy.fetch_sub(1, Relaxed);
                Ok(item * 2)
            };
            let results = pool.install(|| side_by_side(&items, work)).unwrap();
            assert_eq!(results, items.iter().map(|item| item * 2).collect::<Vec<_>>());
            assert!(most.load(Relaxed) <= threads.min(items.len()));
            let shares = shares.into_inner().unwrap();
            assert!(
                shares.iter().all(|share| *share >= 1 && *share <= threads.div_ceil(items.len())),
                "{shares:?}"
            );
        }
        let work = |item: &usize| if *item >= 1 { Err(Error::new(item.to_string())) } else { Ok(()) };
        let pool = ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let error = pool.install(|| side_by_side(&[0, 1, 2, 3, 4], work)).unwrap_err();
        assert_eq!(error.message(), "1");
    }
}
