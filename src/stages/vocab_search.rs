//! `vocab-search`: text of a language → the size of its vocabulary, and the base tokenizer with its pieces appended.

pub(super) mod choice;
pub(super) mod figures;
pub(super) mod sizes;
pub(super) mod sweep;
pub(super) mod text;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::train_tokenizer::side_by_side;
use super::{Documents, Fault, Input, Outlook, Prospect, Stage, Work};
use crate::error::{Context, Error, Result};
use crate::events::Unit;
use crate::files;
use crate::report::thousands;
use crate::tokenizer::extend::{Extension, Recipe, Scores, extended};
use crate::tokenizer::trainer::{Alphabet, Trained, train};
use crate::tokenizer::{ModelProto, Scripts, SentencePiece, Tokenizer};

use choice::{Choice, Knees, Wish, choose};
use figures::{Names, short_name};
use sizes::Sizes;
use sweep::Curve;
use text::{Base, Corpus, Training, rules, special_pieces};

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
    /// The scripts of the language.
    pub scripts: Scripts,
    /// How many single characters get a piece: one curve for each.
    pub single_characters: Vec<usize>,
    /// Sizes of the trained vocabularies, special pieces included, as `spm_train` counts.
    pub sizes: Sizes,
    /// Take the curve with this many single characters instead of the one with the best ALP.
    pub alphabet: Option<usize>,
    /// Take this size of the trained vocabulary instead of the knee.
    pub size: Option<usize>,
    /// Append exactly this many pieces, whatever size that takes.
    pub add: Option<usize>,
    /// Characters without a piece are scored as bytes, as a base with byte fallback encodes them; else as one unknown
    /// token.
    pub byte_fallback: bool,
    /// At most this many lines are trained on, and as many of each scoring corpus scored, drawn evenly from all.
    pub lines: usize,
    /// Which pieces are appended.
    pub recipe: Recipe,
    /// The scores that they get.
    pub scores: Scores,
}

/// What a search found.
struct Found<'a> {
    corpora: &'a [Corpus],
    curves: &'a [Curve],
    knees: &'a Knees,
    choice: &'a Choice,
    figures: &'a Names,
}

impl Stage for VocabSearch {
    const KIND: &'static str = "vocab-search";
    const REVISION: u32 = 4;

    fn check(&self) -> Result<(), Fault> {
        let wrong = |name: &str, why: &str| Err(Fault::new(name, format!("`{name}` {why}")));
        for (name, documents) in [("train", &self.train), ("score", &self.score)] {
            if documents.is_empty() {
                return wrong(name, "must name at least one corpus");
            }
        }
        if self.single_characters.is_empty() {
            return wrong("single_characters", "must name at least one number");
        }
        if self.single_characters.contains(&0) {
            return wrong("single_characters", "must name numbers of at least 1");
        }
        for (name, value) in
            [("alphabet", self.alphabet), ("size", self.size), ("add", self.add), ("lines", Some(self.lines))]
        {
            if value == Some(0) {
                return wrong(name, "must be at least 1");
            }
        }
        if self.size.is_some() && self.add.is_some() {
            return Err(Fault::new("add", "`size` and `add` both say how large the vocabulary is to be")
                .hint("give one of them"));
        }
        let smallest = self.all_sizes()[0];
        let most = self.all_alphabets().last().copied().unwrap_or(0);
        let special = special_pieces(self.byte_fallback);
        if most + special > smallest {
            let at_fault = if self.size == Some(smallest) { "size" } else { "sizes" };
            return Err(Fault::new(at_fault, no_room(smallest, most, special)).hint(NO_ROOM_ADVICE));
        }
        check_recipe("scripts", self.recipe, &self.scripts)
    }

    /// Known where the manifest says how many pieces there will be; else the search finds it.
    fn prospect(&self, inputs: &dyn Outlook) -> Option<Prospect> {
        let add = self.add?;
        Some(Prospect::tokenizer(inputs.vocabulary(&self.base).map(|base| base + add)))
    }

    fn run(&self, work: &mut Work) -> Result<()> {
        let base = Base::open(&self.base)?;
        base.compare_fallback(self.byte_fallback, work);
        let corpora = self.corpora(work)?;
        let training = self.training(work)?;
        let alphabets = self.alphabets(&training, work)?;
        let extension = Extension::new(&base.model, self.recipe, self.scripts.clone());
        self.check_add(&training, &alphabets, &extension)?;

        let curves = self.curves(&training, &alphabets, &corpora, &extension, work)?;
        let all: Vec<usize> = (0..curves.len()).collect();
        let asked = self.alphabet.map(|asked| {
            // The text may have fewer characters.
            let most = |at: &usize| curves[*at].single_characters() <= asked;
            vec![all.iter().copied().rfind(most).unwrap_or(0)]
        });
        let among = asked.as_ref().unwrap_or(&all);
        let knees = Knees::of(&curves, among, &self.all_sizes(), corpora.len())
            .ok_or_else(|| Error::new("there are no sizes to choose from"))?;
        let choice = choose(&curves, among, asked.is_some(), self.wish(), &knees);

        let curve = &curves[choice.curve];
        let merges = curve.merges[choice.at];
        save_trained(&curve.trained, merges, work, "trained")?;
        let after = save_extended(&base.model, extension.pieces(&curve.trained, merges), self.scores, work)?;
        let figures = figures::save(work.output(), &corpora, &curves, &knees, &choice)?;
        let found = Found { corpora: &corpora, curves: &curves, knees: &knees, choice: &choice, figures: &figures };
        found.report(&base.tokenizer, &after, work)
    }
}

const NO_ROOM_ADVICE: &str = "raise the smallest of `sizes`, or ask for fewer `single_characters`";

fn no_room(size: usize, single: usize, special: usize) -> String {
    format!("a vocabulary of {size} pieces has no room for {single} single characters and {special} special pieces")
}

/// `recipe = "clean"` cannot tell a language in Latin letters from English.
pub(super) fn check_recipe(parameter: &str, recipe: Recipe, scripts: &Scripts) -> Result<(), Fault> {
    if recipe == Recipe::Clean && scripts.has_latin() {
        let message = format!(
            "`{parameter}`: Latin is the script of English too, which `recipe = \"clean\"` leaves as it is"
        );
        return Err(Fault::new(parameter, message)
            .hint("write `recipe = \"as-published\"`, which appends every new piece; English text may then be encoded differently"));
    }
    Ok(())
}

/// Writes the vocabulary of so many merges as it was trained, for those who merge it elsewhere.
pub(super) fn save_trained(trained: &Trained, merges: usize, work: &Work, name: &str) -> Result<()> {
    let model = trained.model(merges);
    model.write(&work.output().join(format!("{name}.model")))?;
    model.write_vocab(&work.output().join(format!("{name}.vocab")))
}

/// Writes the base with the pieces appended, in all its files.
pub(super) fn save_extended(
    base: &ModelProto,
    pieces: impl IntoIterator<Item = String>,
    scores: Scores,
    work: &Work,
) -> Result<Tokenizer> {
    let model = extended(base, pieces, scores);
    model.write_vocab(&work.output().join("tokenizer.vocab"))?;
    let tokenizer = Tokenizer::from(SentencePiece::new(model)?);
    tokenizer.save(work.output())?;
    Ok(tokenizer)
}

impl VocabSearch {
    fn wish(&self) -> Wish {
        match (self.add, self.size) {
            (Some(add), _) => Wish::Add(add),
            (None, Some(size)) => Wish::Size(size),
            (None, None) => Wish::Knee,
        }
    }

    /// The sizes to score, with the one asked for.
    fn all_sizes(&self) -> Vec<usize> {
        let mut sizes = self.sizes.as_slice().to_vec();
        sizes.extend(self.size);
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    /// The numbers of single characters, with the one asked for, ascending.
    fn all_alphabets(&self) -> Vec<usize> {
        let mut alphabets = self.single_characters.clone();
        alphabets.extend(self.alphabet);
        alphabets.sort_unstable();
        alphabets.dedup();
        alphabets
    }

    fn corpora(&self, work: &Work) -> Result<Vec<Corpus>> {
        let corpus = |documents: &Documents| {
            let corpus = Corpus::read("score", &documents.from, std::slice::from_ref(documents), self.lines, work)?;
            corpus.check("score", &self.scripts)?;
            Ok(corpus)
        };
        self.score.iter().map(corpus).collect()
    }

    fn training(&self, work: &Work) -> Result<Training> {
        let training = Training::read("train", &self.train, self.lines, rules(self.byte_fallback), work)?;
        training.check("train", &self.scripts)?;
        Ok(training)
    }

    /// The numbers of single characters, as far as the text has that many, ascending.
    fn alphabets(&self, training: &Training, work: &Work) -> Result<Vec<usize>> {
        let there_are = training.characters.len();
        let mut alphabets = self.all_alphabets();
        for number in &mut alphabets {
            if *number > there_are {
                work.warn(format!(
                    "the text has {there_are} single characters, not {number}: all of them are taken"
                ));
                *number = there_are;
            }
        }
        alphabets.dedup();
        // More pieces than the text can give are refused here, before the long work.
        let largest = self.all_sizes().last().copied().unwrap_or(0);
        let most = training.largest_size(alphabets[0]);
        if most < largest {
            return Err(Error::invalid(format!(
                "`train`: the text gives a vocabulary of {most} pieces at most, not the {largest} asked for"
            ))
            .hint("give more text, or ask for smaller `sizes`"));
        }
        Ok(alphabets)
    }

    /// Refuses what no size can append exactly, as far as it shows before the long work.
    fn check_add(&self, training: &Training, alphabets: &[usize], extension: &Extension) -> Result<()> {
        let Some(add) = self.add else { return Ok(()) };
        for number in alphabets {
            let single = &training.characters[..*number];
            let least = single.iter().filter(|(c, _)| extension.takes(&c.to_string())).count();
            if least > add {
                return Err(Error::invalid(format!(
                    "{number} single characters alone give {least} new pieces, not the {add} asked for"
                ))
                .hint("ask for fewer `single_characters`, or raise `add`"));
            }
            let most = training.largest_size(*number);
            if most < add {
                return Err(Error::invalid(format!(
                    "the text gives {most} pieces at most with {number} single characters, not the {add} asked for"
                ))
                .hint("give more text, or lower `add`"));
            }
        }
        Ok(())
    }

    fn curves(
        &self,
        training: &Training,
        alphabets: &[usize],
        corpora: &[Corpus],
        extension: &Extension,
        work: &Work,
    ) -> Result<Vec<Curve>> {
        let sizes = self.all_sizes();
        let largest = sizes.last().copied().unwrap_or(0);
        let progress = work.progress("train", Some((alphabets.len() * largest) as u64), Unit::Items);
        let curve = |&number: &usize| {
            let single = &training.characters[..number];
            let single = single.iter().filter(|(c, _)| extension.takes(&c.to_string())).count();
            let (mut seen, mut appended) = (0, single);
            let trained = train(&training.words, Alphabet::Characters(number), largest, |merges| {
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
            curve.score(corpora)?;
            Ok(curve)
        };
        let curves = side_by_side(alphabets, curve);
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
}

impl Found<'_> {
    /// Writes `search.json`, and says the figures of the receipt.
    fn report(&self, before: &Tokenizer, after: &Tokenizer, work: &Work) -> Result<()> {
        let mut measured = Vec::new();
        for corpus in self.corpora {
            work.check()?;
            measured.push((corpus, corpus.tokens(before)?, corpus.tokens(after)?));
        }
        let curve = &self.curves[self.choice.curve];
        let (size, single) = (curve.sizes[self.choice.at], curve.single_characters());
        let added = after.vocab_size() - before.vocab_size();
        let search = json!({
            "choice": {
                "size": size,
                "single_characters": single,
                "added": added,
                "vocabulary": after.vocab_size(),
                "why": self.choice.why,
                "curves": self.choice.json(self.curves),
            },
            "knee": self.knees.json(self.corpora),
            "corpora": measured.iter().zip(&self.figures.corpora).map(|((corpus, before, after), figure)| json!({
                "name": corpus.name,
                "lines": corpus.lines.lines().len(),
                "lines_in_all": corpus.lines.seen(),
                "characters": corpus.characters,
                "tokens_before": before,
                "tokens_after": after,
                "figure": figure,
            })).collect::<Vec<_>>(),
            "combined_figure": self.figures.combined,
            "curves": self.curves.iter().map(|curve| json!({
                "single_characters": curve.single_characters(),
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
            ("knee", self.knees.combined.size),
            ("characters", characters),
            ("tokens_before", tokens_before),
            ("tokens_after", tokens_after),
        ] {
            work.metric(name, value);
        }
        work.metric("tokens_per_character_before", share(tokens_before, characters));
        work.metric("tokens_per_character_after", share(tokens_after, characters));
        work.metric("cut_percent", cut);
        let names: Vec<String> = self.corpora.iter().map(|corpus| short_name(&corpus.name)).collect();
        let mut note = vec![
            format!(
                "vocabulary: {} pieces added, {} in all ({} trained, {} single characters)",
                thousands(added),
                thousands(after.vocab_size()),
                thousands(size),
                thousands(single)
            ),
            format!("taken: {}; {}", self.choice.why, self.knees.sentence(&names)),
        ];
        note.extend(self.choice.sentence(self.curves));
        note.push(format!(
            "tokens per character: {:.3} → {:.3} ({cut:.1} % fewer tokens)",
            share(tokens_before, characters),
            share(tokens_after, characters),
        ));
        work.note(note.join("\n"));
        Ok(())
    }
}
