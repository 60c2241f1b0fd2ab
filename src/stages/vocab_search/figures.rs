//! The curves as pictures: one for each scoring corpus, and one of all together.

use std::path::Path;

use rayon::prelude::*;

use super::choice::{Bend, Choice, Knees};
use super::sweep::Curve;
use super::text::Corpus;
use crate::error::Result;
use crate::report::{self, Chart, Note, Series, file_name, thousands};

/// The names of the pictures' files, without their endings.
pub struct Names {
    pub combined: Option<String>,
    pub corpora: Vec<String>,
}

/// A corpus as people call it: `dataset:zh/books` → `zh/books`, `data/laws.jsonl` → `data/laws`.
pub fn short_name(from: &str) -> String {
    let name = from.strip_prefix("dataset:").or(from.strip_prefix('@')).unwrap_or(from);
    name.strip_suffix(".jsonl").or(name.strip_suffix(".txt")).unwrap_or(name).to_owned()
}

/// Writes `alp-CORPUS.svg` and `.png` for each corpus, and `alp-combined` if there are several.
pub fn save(folder: &Path, corpora: &[Corpus], curves: &[Curve], knees: &Knees, choice: &Choice) -> Result<Names> {
    let mut taken = Vec::new();
    let mut charts = Vec::new();
    let mut combined = None;
    if corpora.len() > 1 {
        let chart = Chart {
            title: format!("ALP by vocabulary size: {} corpora together", corpora.len()),
            subtitle: "mean over the corpora of ALP ÷ |ALP of the smallest vocabulary|; higher is better"
                .to_owned(),
            y_label: "relative ALP".to_owned(),
            series: series(curves, |curve, at| curve.value(&curves[0], at)),
            ..chart(curves, choice, &knees.combined)
        };
        let name = file_name("alp", "combined", &mut taken);
        charts.push((name.clone(), chart));
        combined = Some(name);
    }
    let mut names = Vec::new();
    for (which, corpus) in corpora.iter().enumerate() {
        let lines = thousands(corpus.lines.lines().len());
        let short = short_name(&corpus.name);
        let chart = Chart {
            title: format!("ALP by vocabulary size: {short}"),
            subtitle: format!("average log-probability of {lines} lines; higher is better"),
            y_label: "ALP (nats per line)".to_owned(),
            series: series(curves, |curve, at| curve.scores[which][at].alp),
            ..chart(curves, choice, &knees.corpora[which])
        };
        let name = file_name("alp", &short, &mut taken);
        charts.push((name.clone(), chart));
        names.push(name);
    }
    charts.par_iter().try_for_each(|(name, chart)| report::save(&described(chart), folder, name))?;
    Ok(Names { combined, corpora: names })
}

/// What all charts share.
fn chart(curves: &[Curve], choice: &Choice, bend: &Bend) -> Chart {
    let curve = &curves[choice.curve];
    let (size, single) = (curve.sizes[choice.at], thousands(curve.single_characters()));
    let taken = format!("taken: {} with {single} single characters", thousands(size));
    let knee = format!("knee: {}", thousands(bend.size));
    let point = Some((choice.curve, choice.at));
    let notes = if size == bend.size {
        vec![Note { x: size as f64, text: format!("knee, and {taken}"), point }]
    } else {
        vec![Note { x: bend.size as f64, text: knee, point: None }, Note { x: size as f64, text: taken, point }]
    };
    Chart {
        x_label: "vocabulary size (pieces)".to_owned(),
        series_label: "single characters".to_owned(),
        notes,
        ..Chart::default()
    }
}

fn series(curves: &[Curve], value: impl Fn(&Curve, usize) -> f64) -> Vec<Series> {
    let series = curves.iter().map(|curve| Series {
        name: thousands(curve.single_characters()),
        points: (0..curve.sizes.len()).map(|at| (curve.sizes[at] as f64, value(curve, at))).collect(),
    });
    series.collect()
}

/// The scene, described for those who cannot see it by where its curves begin and end.
pub fn described(chart: &Chart) -> report::Scene {
    let curves = chart.series.iter().filter_map(|series| {
        let ((from, low), (to, high)) = (series.points.first()?, series.points.last()?);
        Some(format!("{} {}: from {low:.4} at {from} to {high:.4} at {to}", chart.series_label, series.name))
    });
    let curves = curves.collect::<Vec<_>>().join("; ");
    let notes = chart.notes.iter().map(|note| note.text.clone()).collect::<Vec<_>>().join("; ");
    let mut scene = chart.scene();
    scene.description = format!("{}. {} over {}. {curves}. {notes}.", chart.subtitle, chart.y_label, chart.x_label);
    scene
}
