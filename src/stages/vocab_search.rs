//! `vocab-search`: Chinese text → the size of its vocabulary, and the base tokenizer with its pieces appended.

mod sizes;

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::train_tokenizer::{each_line, training_lines, words_of};
use super::{Documents, Input, Stage, Work};
use crate::error::{Context, Error, Result};
use crate::events::Unit;
use crate::files;
use crate::tokenizer::alp::{self, Score};
use crate::tokenizer::extend::{Extension, Recipe, Scores, has_han};
use crate::tokenizer::trainer::{Alphabet, Rules, Trained, Words, train};
use crate::tokenizer::{Sample, SentencePiece, Tokenizer, knee};

use sizes::Sizes;

/// For every number of single characters one vocabulary is trained, up to the largest size; the smaller ones are its
/// beginnings. Each is scored by ALP on every scoring corpus.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VocabSearch {
    /// The tokenizer to extend: a SentencePiece BPE `tokenizer.model`, or a folder with one.
    pub base: Input,
    /// The text to train on.
    pub train: Vec<Documents>,
    /// The corpora to score on, each for itself.
    pub score: Vec<Documents>,
    /// How many single characters get a piece: one curve for each.
    pub single_characters: Vec<usize>,
    /// Sizes of the trained vocabularies, special pieces included, as `spm_train` counts.
    pub sizes: Sizes,
    /// Take this size of the trained vocabulary instead of the knee.
    pub size: Option<usize>,
    /// Append exactly this many pieces, whatever size that takes.
    pub add: Option<usize>,
    /// At most this many lines are trained on, and as many of each scoring corpus scored, drawn evenly from all.
    pub lines: usize,
    /// Which pieces are appended.
    pub recipe: Recipe,
    /// The scores that they get.
    pub scores: Scores,
}

/// The lines of one scoring corpus.
struct Corpus {
    name: String,
    lines: Sample,
    characters: usize,
}

/// The vocabularies of one number of single characters.
struct Curve {
    trained: Trained,
    /// Ascending, with the number of merges of each.
    sizes: Vec<usize>,
    merges: Vec<usize>,
    /// The size that appends exactly as many pieces as asked for.
    exact: Option<usize>,
    /// By corpus and size.
    scores: Vec<Vec<Score>>,
}

/// The vocabulary that was taken.
struct Choice {
    curve: usize,
    /// Index into the curve's sizes.
    at: usize,
    why: String,
}

impl Stage for VocabSearch {
    const KIND: &'static str = "vocab-search";
    const REVISION: u32 = 2;

    fn run(&self, work: &mut Work) -> Result<()> {
        self.check()?;
        let base = Tokenizer::open(self.base.path())?;
        let Some(model) = base.sentencepiece().map(SentencePiece::model) else {
            return Err(Error::invalid(format!("`base`: {} is no SentencePiece model", self.base.from))
                .hint("new pieces can be appended to a `tokenizer.model` only; give that of the base model"));
        };
        let corpora = self.corpora(work)?;
        let words = self.words(work)?;
        let alphabets = self.alphabets(&words, work)?;
        let extension = Extension::new(model, self.recipe);

        let curves = self.curves(&words, &alphabets, &corpora, &extension, work)?;
        let choice = self.choose(&curves)?;
        let curve = &curves[choice.curve];
        let extended = extension.extend(model, &curve.trained, curve.merges[choice.at], self.scores);
        let added = extended.pieces.len() - model.pieces.len();
        let tokenizer = Tokenizer::from(SentencePiece::new(extended)?);
        tokenizer.save(work.output())?;
        self.report(work, &base, &tokenizer, added, &corpora, &curves, &choice)
    }
}

impl VocabSearch {
    fn check(&self) -> Result<()> {
        let wrong = |what: &str| Err(Error::invalid(what.to_owned()));
        if self.size.is_some() && self.add.is_some() {
            return wrong("`size` and `add` both say how large the vocabulary is to be; give one of them");
        }
        if self.add == Some(0) {
            return wrong("`add` must be above 0");
        }
        if self.single_characters.is_empty() {
            return wrong("`single_characters` must name at least one number");
        }
        if self.lines == 0 {
            return wrong("`lines` must be at least 1");
        }
        if self.train.is_empty() || self.score.is_empty() {
            return wrong("`train` and `score` must name at least one corpus each");
        }
        Ok(())
    }

    fn corpora(&self, work: &Work) -> Result<Vec<Corpus>> {
        let corpus = |documents: &Documents| {
            let mut lines = Sample::new(self.lines);
            each_line(std::slice::from_ref(documents), "read", work, |line| {
                let line = line.trim();
                if !line.is_empty() {
                    lines.add(line);
                }
            })?;
            if !lines.lines().iter().any(|line| has_han(line)) {
                return Err(Error::invalid(format!("`score`: {} holds no Chinese character", documents.from))
                    .hint("score on Chinese text: what is measured is how well a Chinese vocabulary fits it"));
            }
            let characters = lines.lines().iter().map(|line| line.chars().count()).sum();
            Ok(Corpus { name: documents.from.clone(), lines, characters })
        };
        self.score.iter().map(corpus).collect()
    }

    fn words(&self, work: &Work) -> Result<Words> {
        let rules = Rules::SENTENCEPIECE;
        let sample = training_lines(&self.train, self.lines, rules.max_sentence_length, work)?;
        if !sample.lines().iter().any(|line| has_han(line)) {
            return Err(Error::invalid("`train`: the documents hold no Chinese character"));
        }
        words_of(sample, rules, "train")
    }

    /// The numbers of single characters, as far as the text has that many, ascending.
    fn alphabets(&self, words: &Words, work: &Work) -> Result<Vec<usize>> {
        let there_are = words.alphabet(Alphabet::Characters(usize::MAX));
        let mut alphabets: Vec<usize> = self.single_characters.clone();
        for number in &mut alphabets {
            if *number > there_are.len() {
                work.warn(format!(
                    "the text has {} single characters, not {number}: all of them are taken",
                    there_are.len()
                ));
                *number = there_are.len();
            }
        }
        alphabets.sort_unstable();
        alphabets.dedup();
        let special = words.rules().meta_pieces().len();
        let smallest = self.all_sizes()[0];
        if let Some(number) = alphabets.iter().find(|number| *number + special > smallest) {
            return Err(Error::invalid(format!(
                "a vocabulary of {smallest} pieces has no room for {number} single characters and {special} special pieces"
            ))
            .hint("raise the smallest of `sizes`, or ask for fewer `single_characters`"));
        }
        // More pieces than characters in the text cannot come out: said here, before the long work.
        let all: u64 = there_are.iter().map(|(_, count)| count).sum();
        let largest = self.all_sizes().last().copied().unwrap_or(0);
        if (all as usize) < largest {
            return Err(Error::invalid(format!(
                "the text to train on has {all} characters, too few for a vocabulary of {largest} pieces"
            ))
            .hint("give more text, or ask for smaller `sizes`"));
        }
        Ok(alphabets)
    }

    /// The sizes to score, with the one asked for.
    fn all_sizes(&self) -> Vec<usize> {
        let mut sizes = self.sizes.as_slice().to_vec();
        sizes.extend(self.size);
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    fn curves(
        &self,
        words: &Words,
        alphabets: &[usize],
        corpora: &[Corpus],
        extension: &Extension,
        work: &Work,
    ) -> Result<Vec<Curve>> {
        let sizes = self.all_sizes();
        let largest = sizes.last().copied().unwrap_or(0);
        let progress = work.progress("train", Some((alphabets.len() * largest) as u64), Unit::Items);
        let curve = |&number: &usize| {
            let alphabet = Alphabet::Characters(number);
            let single = words.alphabet(alphabet);
            let single = single.iter().filter(|(c, _)| extension.takes(&c.to_string())).count();
            let (mut seen, mut appended) = (0, single);
            let trained = train(words, alphabet, largest, |merges| {
                let new = &merges[seen..];
                appended += new.iter().filter(|piece| extension.takes(piece)).count();
                progress.add(new.len() as u64);
                seen = merges.len();
                work.check()?;
                Ok(self.add.is_some_and(|add| appended < add))
            })?;
            let mut curve = Curve::new(trained, sizes.clone());
            if let Some(add) = self.add {
                curve.include(self.merges_for(add, &curve.trained, extension)?);
            }
            for corpus in corpora {
                curve.scores.push(alp::scores(&curve.trained, &curve.merges, &corpus.lines.lines())?);
            }
            Ok(curve)
        };
        let curves = alphabets.par_iter().map(curve).collect();
        progress.finish();
        curves
    }

    fn merges_for(&self, add: usize, trained: &Trained, extension: &Extension) -> Result<usize> {
        extension.merges_for(trained, add).ok_or_else(|| {
            let (least, most) = (extension.count(trained, 0), extension.count(trained, trained.merges.len()));
            let single = trained.characters.len();
            Error::invalid(format!(
                "with {single} single characters the text gives {least} to {most} new pieces, not the {add} asked for"
            ))
            .hint(if add < least { "ask for fewer `single_characters`" } else { "give more text, or lower `add`" })
        })
    }

    fn choose(&self, curves: &[Curve]) -> Result<Choice> {
        if let Some(add) = self.add {
            // Every curve has its own size that appends so many.
            let own = |curve: &Curve| curve.sizes.iter().position(|size| Some(*size) == curve.exact).unwrap_or(0);
            let at: Vec<usize> = curves.iter().map(own).collect();
            let best = best_of(curves, &at);
            let why = format!("the best ALP of the vocabularies that append exactly {add} pieces");
            return Ok(Choice { curve: best, at: at[best], why });
        }
        let sizes = &curves[0].sizes;
        let best_at = |at: usize| best_of(curves, &vec![at; curves.len()]);
        let (at, why) = match self.size {
            Some(size) => {
                let at = sizes.iter().position(|other| *other == size).unwrap_or(0);
                (at, format!("the best ALP at the size asked for, {size}"))
            }
            None => {
                let values: Vec<f64> =
                    (0..sizes.len()).map(|at| curves[best_at(at)].value(&curves[0], at)).collect();
                let at = knee(sizes, &values).unwrap_or(0);
                let why = "the best ALP at the knee, the size where the curve of the best ALP lies highest above the line between its ends";
                (at, why.to_owned())
            }
        };
        Ok(Choice { curve: best_at(at), at, why })
    }

    #[expect(clippy::too_many_arguments, reason = "a report sees all there is")]
    fn report(
        &self,
        work: &Work,
        before: &Tokenizer,
        after: &Tokenizer,
        added: usize,
        corpora: &[Corpus],
        curves: &[Curve],
        choice: &Choice,
    ) -> Result<()> {
        let mut measured = Vec::new();
        for corpus in corpora {
            let count = |tokenizer: &Tokenizer| -> Result<usize> {
                corpus.lines.lines().par_iter().map(|line| Ok(tokenizer.encode(line)?.len())).sum()
            };
            work.check()?;
            measured.push((corpus, count(before)?, count(after)?));
        }
        let curve = &curves[choice.curve];
        let (size, single) = (curve.sizes[choice.at], curve.trained.characters.len());
        let search = json!({
            "choice": {
                "size": size,
                "single_characters": single,
                "added": added,
                "vocabulary": after.vocab_size(),
                "why": choice.why,
            },
            "corpora": measured.iter().map(|(corpus, before, after)| json!({
                "name": corpus.name,
                "lines": corpus.lines.lines().len(),
                "lines_in_all": corpus.lines.seen(),
                "characters": corpus.characters,
                "tokens_before": before,
                "tokens_after": after,
            })).collect::<Vec<_>>(),
            "curves": curves.iter().map(|curve| json!({
                "single_characters": curve.trained.characters.len(),
                "points": (0..curve.sizes.len()).map(|at| json!({
                    "size": curve.sizes[at],
                    "tokens": curve.scores.iter().map(|scores| scores[at].tokens).collect::<Vec<_>>(),
                    "alp": curve.scores.iter().map(|scores| scores[at].alp).collect::<Vec<_>>(),
                })).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
        });
        let path = work.output().join("search.json");
        files::write_atomic(&path, format!("{search:#}\n").as_bytes())
            .context(|| format!("cannot write {}", path.display()))?;

        let total = |of: fn(&(&Corpus, usize, usize)) -> usize| measured.iter().map(of).sum::<usize>();
        let (characters, tokens_before, tokens_after) =
            (total(|(corpus, ..)| corpus.characters), total(|(_, before, _)| *before), total(|(.., after)| *after));
        let share = |tokens: usize, of: usize| tokens as f64 / of.max(1) as f64;
        let cut = 100.0 * (1.0 - share(tokens_after, tokens_before));
        for (name, value) in [
            ("pieces_added", added),
            ("vocabulary", after.vocab_size()),
            ("size", size),
            ("single_characters", single),
            ("characters", characters),
            ("tokens_before", tokens_before),
            ("tokens_after", tokens_after),
        ] {
            work.metric(name, value);
        }
        work.metric("tokens_per_character_before", share(tokens_before, characters));
        work.metric("tokens_per_character_after", share(tokens_after, characters));
        work.metric("cut_percent", cut);
        work.note(format!(
            "vocabulary: {added} pieces added, {} in all ({size} trained, {single} single characters: {})\n\
             tokens per character: {:.3} → {:.3} ({cut:.1} % fewer tokens)",
            after.vocab_size(),
            choice.why,
            share(tokens_before, characters),
            share(tokens_after, characters),
        ));
        Ok(())
    }
}

impl Curve {
    fn new(trained: Trained, sizes: Vec<usize>) -> Self {
        let fixed = trained.size_with(0);
        let merges = sizes.iter().map(|size| size.saturating_sub(fixed)).collect();
        Self { trained, sizes, merges, exact: None, scores: Vec::new() }
    }

    /// Adds the size of so many merges.
    fn include(&mut self, merges: usize) {
        let size = self.trained.size_with(merges);
        self.exact = Some(size);
        if let Err(at) = self.sizes.binary_search(&size) {
            self.sizes.insert(at, size);
            self.merges.insert(at, merges);
        }
    }

    /// ALP at a size, as the mean over the corpora of its ratio to that of the first size of `first`, so that a
    /// corpus of long lines, whose ALP is large, weighs no more than others. Higher is better, as with ALP itself.
    fn value(&self, first: &Curve, at: usize) -> f64 {
        let ratios = self.scores.iter().zip(&first.scores).map(|(own, first)| -own[at].alp / first[0].alp);
        ratios.map(|ratio| if ratio.is_finite() { ratio } else { 0.0 }).sum::<f64>() / self.scores.len() as f64
    }
}

/// The curve with the best value, each taken at its own place; of equal ones that with fewer single characters.
fn best_of(curves: &[Curve], at: &[usize]) -> usize {
    let value = |curve: usize| curves[curve].value(&curves[0], at[curve]);
    (0..curves.len()).reduce(|best, other| if value(other) > value(best) { other } else { best }).unwrap_or(0)
}
