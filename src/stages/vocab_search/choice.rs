//! Which vocabulary is taken, and why.

use serde_json::{Value, json};

use super::sweep::Curve;
use super::text::Corpus;
use crate::report::thousands;
use crate::tokenizer::{Knee, knee};

/// How the knee is found, as `search.json` says it.
const METHOD: &str = "kneedle (Satopää et al., 2011) on the best ALP of every size, smoothed so that its increments \
                      decrease (Zheng et al., 2021); `combined` is the mean over the corpora of ALP ÷ |ALP of the \
                      smallest vocabulary|";

/// What decides the size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Knee,
    Size(usize),
    Add(usize),
}

/// The vocabulary that is taken.
pub struct Choice {
    pub curve: usize,
    /// Index into the curve's sizes.
    pub at: usize,
    pub why: String,
    /// Every curve at the size in question: its place there, and its value.
    pub rivals: Vec<(usize, f64)>,
}

/// The knees of the curves over the sizes that all have.
pub struct Knees {
    pub sizes: Vec<usize>,
    pub combined: Bend,
    pub corpora: Vec<Bend>,
}

/// The best values of all sizes, and their knee.
pub struct Bend {
    pub values: Vec<f64>,
    pub knee: Knee,
    pub size: usize,
}

/// The best of the curves `among`, at the size that is wished for; of equal ones that with fewer single characters.
pub fn choose(curves: &[Curve], among: &[usize], asked: bool, wish: Wish, knees: &Knees) -> Choice {
    let at = |curve: &Curve| match wish {
        Wish::Knee => curve.at(knees.combined.size),
        Wish::Size(size) => curve.at(size),
        Wish::Add(_) => curve.exact.map_or(0, |size| curve.at(size)),
    };
    let rivals: Vec<(usize, f64)> =
        curves.iter().map(|curve| (at(curve), curve.value(&curves[0], at(curve)))).collect();
    let better = |best: usize, other: usize| if rivals[other].1 > rivals[best].1 { other } else { best };
    let curve = among.iter().copied().reduce(better).unwrap_or(0);
    let who = match asked {
        true => format!("the {} single characters asked for", thousands(curves[curve].single_characters())),
        false => "the best ALP".to_owned(),
    };
    let why = match wish {
        Wish::Knee => format!("{who} at the knee, {}", thousands(knees.combined.size)),
        Wish::Size(size) => format!("{who} at the size asked for, {}", thousands(size)),
        Wish::Add(add) => format!("{who} where exactly {} pieces are appended", thousands(add)),
    };
    Choice { curve, at: rivals[curve].0, why, rivals }
}

impl Knees {
    /// Of the curves `among`, at each size the best of them. `sizes` is not empty.
    pub fn of(curves: &[Curve], among: &[usize], sizes: &[usize], corpora: usize) -> Option<Self> {
        let bend = |value: &dyn Fn(&Curve, usize) -> f64| -> Option<Bend> {
            let best = |size: &usize| {
                let values = among.iter().map(|curve| value(&curves[*curve], curves[*curve].at(*size)));
                values.fold(f64::NEG_INFINITY, f64::max)
            };
            let values: Vec<f64> = sizes.iter().map(best).collect();
            let knee = knee(sizes, &values)?;
            Some(Bend { size: sizes[knee.at], values, knee })
        };
        let combined = bend(&|curve, at| curve.value(&curves[0], at))?;
        let corpora = (0..corpora).map(|corpus| bend(&|curve, at| curve.scores[corpus][at].alp));
        Some(Self { sizes: sizes.to_vec(), combined, corpora: corpora.collect::<Option<_>>()? })
    }

    pub fn json(&self, corpora: &[Corpus]) -> Value {
        let bend = |bend: &Bend| {
            json!({
                "size": bend.size,
                "values": bend.values,
                "smoothed": bend.knee.smoothed,
                "heights": bend.knee.heights,
            })
        };
        let corpora = corpora.iter().zip(&self.corpora).map(|(corpus, own)| {
            let mut json = json!({ "name": corpus.name });
            if let (Some(json), Value::Object(own)) = (json.as_object_mut(), bend(own)) {
                json.extend(own);
            }
            json
        });
        json!({
            "method": METHOD,
            "sizes": self.sizes,
            "combined": bend(&self.combined),
            "corpora": corpora.collect::<Vec<_>>(),
        })
    }

    /// `knee 21,000 (books 21,000, laws 19,000)`.
    pub fn sentence(&self, names: &[String]) -> String {
        let own = names.iter().zip(&self.corpora).map(|(name, bend)| format!("{name} {}", thousands(bend.size)));
        let own = own.collect::<Vec<_>>().join(", ");
        match self.corpora.len() {
            1 => format!("knee {}", thousands(self.combined.size)),
            _ => format!("knee {} ({own})", thousands(self.combined.size)),
        }
    }
}

impl Choice {
    /// Every curve where the choice stands, with its distance to it.
    pub fn json(&self, curves: &[Curve]) -> Value {
        let own = self.rivals[self.curve].1;
        let rival = |(curve, (at, value)): (&Curve, &(usize, f64))| {
            json!({
                "single_characters": curve.single_characters(),
                "size": curve.sizes[*at],
                "alp": curve.scores.iter().map(|scores| scores[*at].alp).collect::<Vec<_>>(),
                "tokens": curve.scores.iter().map(|scores| scores[*at].tokens).collect::<Vec<_>>(),
                "combined": value,
                "over_choice": value - own,
            })
        };
        curves.iter().zip(&self.rivals).map(rival).collect()
    }

    /// `ALP of the other curves there: 0.72 % lower with 5,435 single characters, …`; `None` if there is no other.
    pub fn sentence(&self, curves: &[Curve]) -> Option<String> {
        let own = self.rivals[self.curve].1;
        let rivals = (0..curves.len()).filter(|curve| *curve != self.curve).map(|curve| {
            let percent = 100.0 * (self.rivals[curve].1 - own) / own.abs();
            let direction = if percent > 0.0 { "higher" } else { "lower" };
            format!("{:.2} % {direction} with {}", percent.abs(), thousands(curves[curve].single_characters()))
        });
        let rivals: Vec<String> = rivals.collect();
        (!rivals.is_empty())
            .then(|| format!("ALP of the other curves there: {} single characters", rivals.join(", ")))
    }
}
