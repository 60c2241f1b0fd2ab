//! `vocab-allocate`: text of several languages → a vocabulary shared out among them, appended to a base tokenizer.

mod figures;

use std::collections::{BTreeMap, HashSet};

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::vocab_search::sizes::Sizes;
use super::vocab_search::sweep::Curve;
use super::vocab_search::text::{Base, Corpus, Training, rules, special_pieces};
use super::vocab_search::{check_recipe, save_extended, save_trained};
use super::{Documents, Fault, Input, Outlook, Prospect, Stage, Work};
use crate::error::{Context, Error, Result};
use crate::events::Unit;
use crate::files;
use crate::report::{file_name, thousands};
use crate::tokenizer::allocation::{self, allocate, next, weights};
use crate::tokenizer::extend::{Extension, Recipe, Scores, interleaved};
use crate::tokenizer::trainer::{Alphabet, train};
use crate::tokenizer::{Scripts, Tokenizer};

/// For every language one vocabulary is trained, up to the largest size; the smaller ones are its beginnings. VoCap's
/// allocation (Zheng et al., 2021) gives each language its size.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VocabAllocate {
    /// The tokenizer to extend: a SentencePiece BPE `tokenizer.model`, or a folder with one.
    pub base: Input,
    /// The languages, by any name.
    pub languages: BTreeMap<String, Language>,
    /// Append exactly this many pieces in all.
    pub add: usize,
    /// Sizes of the trained vocabularies, special pieces included. The smallest that a language's characters fit in
    /// is the least that it gets.
    pub sizes: Sizes,
    /// The share of the text whose characters get a piece, in languages that say no number.
    pub character_coverage: f32,
    /// Languages weigh by their shares to this power: below 1, it raises small ones.
    pub beta: f64,
    /// Characters without a piece are scored as bytes, as a base with byte fallback encodes them; else as one unknown
    /// token.
    pub byte_fallback: bool,
    /// At most this many lines of each language are trained on, and as many scored, drawn evenly from all.
    pub lines: usize,
    /// Which pieces are appended.
    pub recipe: Recipe,
    /// The scores that they get.
    pub scores: Scores,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Language {
    /// The text to train on.
    pub train: Vec<Documents>,
    /// The text to score on, all of it together.
    pub score: Vec<Documents>,
    /// What it is written in; what its text shows, if absent.
    pub scripts: Option<Scripts>,
    /// How many single characters get a piece.
    pub single_characters: Option<usize>,
    /// Its part of the text that a model will see, in lines; only the proportions count. Given for all languages or for
    /// none: then the lines of `train` are it.
    pub share: Option<f64>,
}

/// A language with its vocabularies.
struct Trained<'a> {
    name: &'a str,
    scripts: Scripts,
    share: f64,
    corpus: Corpus,
    curve: Curve,
    /// What the smallest vocabulary appends beside merges.
    characters: Vec<String>,
    /// The merges that are appended, with their ranks.
    merges: Vec<(usize, String)>,
}

/// What each language gets.
struct Shared {
    threshold: f64,
    weights: Vec<f64>,
    /// In the languages' sizes, before the rest is filled.
    at: Vec<usize>,
    /// How many merges in the end.
    merges: Vec<usize>,
}

impl Stage for VocabAllocate {
    const KIND: &'static str = "vocab-allocate";
    const REVISION: u32 = 1;

    fn check(&self) -> Result<(), Fault> {
        let wrong = |name: &str, why: &str| Err(Fault::new(name, format!("`{name}` {why}")));
        if self.languages.len() < 2 {
            return Err(Fault::new("languages", "`languages` must be at least two")
                .hint("for a single language there is the stage kind `vocab-search`, with `add`"));
        }
        for (name, value) in [("add", self.add), ("lines", self.lines)] {
            if value == 0 {
                return wrong(name, "must be at least 1");
            }
        }
        if !(self.character_coverage > 0.0 && self.character_coverage <= 1.0) {
            return wrong("character_coverage", "is a share of the text: above 0, at most 1");
        }
        if !(self.beta >= 0.0 && self.beta.is_finite()) {
            return wrong("beta", "must be at least 0");
        }
        let with_shares = self.languages.values().filter(|language| language.share.is_some()).count();
        for (name, language) in &self.languages {
            let path = |parameter: &str| format!("languages.{name}.{parameter}");
            for (parameter, documents) in [("train", &language.train), ("score", &language.score)] {
                if documents.is_empty() {
                    return wrong(&path(parameter), "must name at least one corpus");
                }
            }
            if let Some(single) = language.single_characters {
                if single == 0 {
                    return wrong(&path("single_characters"), "must be at least 1");
                }
                let largest = self.sizes.as_slice().last().copied().unwrap_or(0);
                if single + special_pieces(self.byte_fallback) > largest {
                    let why = format!("leaves no room in the largest of `sizes`, {largest} pieces");
                    return wrong(&path("single_characters"), &why);
                }
            }
            match language.share {
                Some(share) if !(share > 0.0 && share.is_finite()) => {
                    return wrong(&path("share"), "must be above 0");
                }
                None if with_shares > 0 => {
                    let message = format!("language `{name}` has no `share`, and others have one");
                    return Err(Fault::new(format!("languages.{name}"), message)
                        .hint("give every language its share, or none"));
                }
                _ => {}
            }
            if let Some(scripts) = &language.scripts {
                check_recipe(&path("scripts"), self.recipe, scripts)?;
            }
        }
        Ok(())
    }

    fn prospect(&self, inputs: &dyn Outlook) -> Option<Prospect> {
        Some(Prospect::tokenizer(inputs.vocabulary(&self.base).map(|base| base + self.add)))
    }

    fn run(&self, work: &mut Work) -> Result<()> {
        let base = Base::open(&self.base)?;
        base.compare_fallback(self.byte_fallback, work);
        let read = self.languages.iter().map(|(name, language)| self.read(name, language, work));
        let read = read.collect::<Result<Vec<_>>>()?;
        let progress = work.progress("train", None, Unit::Items);
        let languages = read
            .into_par_iter()
            .map(|text| {
                text.train(
                    self,
                    &base,
                    |merges| {
                        progress.add(merges);
                        work.check()
                    },
                    work,
                )
            })
            .collect::<Result<Vec<_>>>()?;
        progress.finish();

        let shared = self.share_out(&languages)?;
        for (language, at) in languages.iter().zip(&shared.at) {
            if at + 1 == language.curve.sizes.len() {
                work.warn(format!(
                    "`{}` gets its largest size, {}: it might be worth more",
                    language.name,
                    thousands(language.curve.sizes[*at])
                ));
            }
        }
        let pieces: Vec<Vec<String>> =
            languages.iter().zip(&shared.merges).map(|(language, merges)| language.pieces(*merges)).collect();
        let mut names = Vec::new();
        for (language, merges) in languages.iter().zip(&shared.merges) {
            let name = file_name("trained", language.name, &mut names);
            save_trained(&language.curve.trained, *merges, work, &name)?;
        }
        let after = save_extended(&base.model, interleaved(&pieces), self.scores, work)?;
        let figures = figures::save(work.output(), &languages, &shared)?;
        report(&languages, &shared, &pieces, &names, &figures, &base.tokenizer, &after, work)
    }
}

/// A language's text, read and found fit.
struct Text<'a> {
    name: &'a str,
    scripts: Scripts,
    alphabet: Alphabet,
    share: f64,
    training: Training,
    corpus: Corpus,
}

impl VocabAllocate {
    fn read<'a>(&self, name: &'a str, language: &Language, work: &Work) -> Result<Text<'a>> {
        let path = |parameter: &str| format!("languages.{name}.{parameter}");
        let from = language.score.iter().map(|documents| documents.from.as_str()).collect::<Vec<_>>().join(", ");
        let corpus = Corpus::read(&path("score"), &from, &language.score, self.lines, work)?;
        let training =
            Training::read(&path("train"), &language.train, self.lines, rules(self.byte_fallback), work)?;
        let scripts = match &language.scripts {
            Some(scripts) => scripts.clone(),
            None => {
                let scripts = Scripts::of_text(&training.characters)
                    .ok_or_else(|| Error::invalid(format!("`{}`: the documents hold no letters", path("train"))))?;
                check_recipe(&path("train"), self.recipe, &scripts)?;
                work.info(format!("`{name}` is written in {scripts}"));
                scripts
            }
        };
        training.check(&path("train"), &scripts)?;
        corpus.check(&path("score"), &scripts)?;
        let alphabet =
            language.single_characters.map_or(Alphabet::Coverage(self.character_coverage), Alphabet::Characters);
        let single = training.words.alphabet(alphabet).len();
        let sizes = self.sizes.as_slice();
        let Some(smallest) = sizes.iter().find(|size| **size >= special_pieces(self.byte_fallback) + single) else {
            return Err(Error::invalid(format!(
                "none of `sizes` has room for the {single} single characters of `{name}` and {} special pieces",
                special_pieces(self.byte_fallback)
            ))
            .hint(format!("raise the largest of `sizes`, or lower `languages.{name}.single_characters`")));
        };
        let most = training.largest_size(single);
        if most < *smallest {
            return Err(Error::invalid(format!(
                "`{}`: the text gives a vocabulary of {most} pieces at most, less than its smallest size, {smallest}",
                path("train")
            ))
            .hint("give more text, or smaller `sizes`"));
        }
        let share = language.share.unwrap_or(training.lines_in_all as f64);
        Ok(Text { name, scripts, alphabet, share, training, corpus })
    }

    /// A size for each language, and then, merge by merge, of what is worth most the pieces that are still missing.
    fn share_out(&self, languages: &[Trained<'_>]) -> Result<Shared> {
        let weights = weights(&languages.iter().map(|language| language.share).collect::<Vec<_>>(), self.beta);
        let curves: Vec<allocation::Curve> =
            languages.iter().zip(&weights).map(|(language, weight)| language.worth(*weight)).collect();
        let merges_of = |at: &[usize]| -> Vec<usize> {
            languages.iter().zip(at).map(|(language, at)| language.curve.merges[*at]).collect()
        };
        let total = |merges: &[usize]| -> usize {
            let pieces = languages.iter().zip(merges).flat_map(|(language, merges)| language.borrowed(*merges));
            pieces.collect::<HashSet<_>>().len()
        };
        let Some(found) = allocate(&curves, self.add, |at| total(&merges_of(at))) else {
            let least = total(&merges_of(&vec![0; languages.len()]));
            return Err(Error::invalid(format!(
                "the smallest sizes of the languages give {least} new pieces together, not the {} asked for",
                self.add
            ))
            .hint("lower the smallest of `sizes` or the `single_characters` of the languages, or raise `add`"));
        };
        let mut at = found.at.clone();
        let mut merges = merges_of(&at);
        let mut taken: HashSet<&str> =
            languages.iter().zip(&merges).flat_map(|(language, merges)| language.borrowed(*merges)).collect();
        while taken.len() < self.add {
            let Some((which, size)) = next(&curves, &at) else {
                return Err(Error::invalid(format!(
                    "the largest sizes of the languages give {} new pieces together, not the {} asked for",
                    taken.len(),
                    self.add
                ))
                .hint("raise the largest of `sizes`, give more text, or lower `add`"));
            };
            let missing = merges[which]..languages[which].curve.merges[size];
            merges[which] = missing.end;
            for (rank, piece) in languages[which].merges.iter().filter(|(rank, _)| missing.contains(rank)) {
                taken.insert(piece);
                if taken.len() == self.add {
                    merges[which] = rank + 1;
                    break;
                }
            }
            at[which] = size;
        }
        Ok(Shared { threshold: found.threshold, weights, at: found.at, merges })
    }
}

impl<'a> Text<'a> {
    fn train(
        self,
        stage: &VocabAllocate,
        base: &Base,
        tick: impl Fn(u64) -> Result<()>,
        work: &Work,
    ) -> Result<Trained<'a>> {
        let fixed = special_pieces(stage.byte_fallback) + self.training.words.alphabet(self.alphabet).len();
        let mut sizes: Vec<usize> = stage.sizes.as_slice().iter().copied().filter(|size| *size >= fixed).collect();
        let (smallest, largest) = (sizes[0], sizes[sizes.len() - 1]);
        let mut seen = 0;
        let trained = train(&self.training.words, self.alphabet, smallest, |merges| {
            tick((merges.len() - seen) as u64)?;
            seen = merges.len();
            Ok(fixed + merges.len() < largest)
        })
        .context(|| format!("language `{}`", self.name))?;
        let reached = trained.vocab_size();
        if reached < largest {
            sizes.retain(|size| *size <= reached);
            work.warn(format!(
                "the text of `{}` gives {} pieces at most: sizes above are left out",
                self.name,
                thousands(reached)
            ));
        }
        let extension = Extension::new(&base.model, stage.recipe, self.scripts.clone());
        let characters = trained.characters.iter().map(|(c, _)| c.to_string());
        let characters = characters.filter(|piece| extension.takes(piece)).collect();
        let merges = trained.merges.iter().cloned().enumerate();
        let merges = merges.filter(|(_, piece)| extension.takes(piece)).collect();
        let mut curve = Curve::new(trained, sizes);
        curve.score(std::slice::from_ref(&self.corpus))?;
        Ok(Trained {
            name: self.name,
            scripts: self.scripts,
            share: self.share,
            corpus: self.corpus,
            curve,
            characters,
            merges,
        })
    }
}

impl Trained<'_> {
    /// The curve that the allocation decides on.
    fn worth(&self, weight: f64) -> allocation::Curve {
        let alp = self.curve.scores[0].iter().map(|score| score.alp).collect();
        allocation::Curve { sizes: self.curve.sizes.clone(), alp, weight }
    }

    /// What the first so many merges and the characters append, in the order of the vocabulary.
    fn borrowed(&self, merges: usize) -> impl Iterator<Item = &str> {
        let merged = self.merges.iter().take_while(move |(rank, _)| *rank < merges).map(|(_, piece)| piece);
        merged.chain(&self.characters).map(String::as_str)
    }

    fn pieces(&self, merges: usize) -> Vec<String> {
        self.borrowed(merges).map(str::to_owned).collect()
    }
}

/// Writes `allocation.json`, and says the figures of the receipt.
#[expect(clippy::too_many_arguments, reason = "a report sees all there is")]
fn report(
    languages: &[Trained<'_>],
    shared: &Shared,
    pieces: &[Vec<String>],
    models: &[String],
    figures: &figures::Names,
    before: &Tokenizer,
    after: &Tokenizer,
    work: &Work,
) -> Result<()> {
    let added = after.vocab_size() - before.vocab_size();
    let mut found: Vec<Value> = Vec::new();
    let mut note = vec![format!(
        "vocabulary: {} pieces added, {} in all; 1,000 pieces more are worth {:.4} weighted nats per line",
        thousands(added),
        thousands(after.vocab_size()),
        shared.threshold
    )];
    for (which, language) in languages.iter().enumerate() {
        work.check()?;
        let (name, corpus, curve) = (language.name, &language.corpus, &language.curve);
        let (tokens_before, tokens_after) = (corpus.tokens(before)?, corpus.tokens(after)?);
        let size = curve.trained.size_with(shared.merges[which]);
        let per_character = |tokens: usize| tokens as f64 / corpus.characters.max(1) as f64;
        for (figure, value) in [
            ("size", size),
            ("pieces", pieces[which].len()),
            ("single_characters", curve.single_characters()),
            ("tokens_before", tokens_before),
            ("tokens_after", tokens_after),
        ] {
            work.metric(format!("{figure}.{name}"), value);
        }
        work.metric(format!("tokens_per_character_before.{name}"), per_character(tokens_before));
        work.metric(format!("tokens_per_character_after.{name}"), per_character(tokens_after));
        note.push(format!(
            "{name}: {} pieces, of a vocabulary of {}; tokens per character: {:.3} → {:.3} ({:.1} % fewer tokens)",
            thousands(pieces[which].len()),
            thousands(size),
            per_character(tokens_before),
            per_character(tokens_after),
            100.0 * (1.0 - tokens_after as f64 / tokens_before.max(1) as f64),
        ));
        let worth = language.worth(shared.weights[which]);
        found.push(json!({
            "name": name,
            "scripts": language.scripts,
            "single_characters": curve.single_characters(),
            "share": language.share,
            "weight": shared.weights[which],
            "allocated": curve.sizes[shared.at[which]],
            "size": size,
            "pieces": pieces[which].len(),
            "model": models[which],
            "figure": figures.languages[which],
            "corpus": {
                "name": corpus.name,
                "lines": corpus.lines.lines().len(),
                "lines_in_all": corpus.lines.seen(),
                "characters": corpus.characters,
                "tokens_before": tokens_before,
                "tokens_after": tokens_after,
            },
            "sizes": curve.sizes,
            "alp": worth.alp,
            "worths": worth.worths(),
        }));
    }
    let json = json!({
        "method": "VoCap (Zheng et al., 2021); `worths` are increments of the smoothed ALP for 1,000 pieces, weighted",
        "added": added,
        "vocabulary": after.vocab_size(),
        "threshold": shared.threshold,
        "figure": figures.allocation,
        "languages": found,
    });
    let path = work.output().join("allocation.json");
    files::write_atomic(&path, format!("{json:#}\n").as_bytes())
        .context(|| format!("cannot write {}", path.display()))?;
    work.metric("pieces_added", added);
    work.metric("vocabulary", after.vocab_size());
    work.metric("threshold", shared.threshold);
    work.note(note.join("\n"));
    Ok(())
}
