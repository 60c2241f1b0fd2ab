//! The allocation as pictures: what more pieces are worth to each language, and the curve of each.

use std::path::Path;

use rayon::prelude::*;

use super::{Shared, Trained};
use crate::error::Result;
use crate::report::{self, Chart, Note, Series, file_name, thousands};
use crate::stages::vocab_search::figures::described;

/// The names of the pictures' files, without their endings.
pub struct Names {
    pub allocation: String,
    pub languages: Vec<String>,
}

/// Writes `allocation.svg` and `.png`, and `alp-LANGUAGE` for each language.
pub fn save(folder: &Path, languages: &[Trained<'_>], shared: &Shared) -> Result<Names> {
    let mut taken = Vec::new();
    let allocation = file_name("allocation", "", &mut taken);
    let mut charts = vec![(allocation.clone(), worths(languages, shared))];
    let mut names = Vec::new();
    for (language, at) in languages.iter().zip(&shared.at) {
        let name = file_name("alp", language.name, &mut taken);
        charts.push((name.clone(), alp(language, *at)));
        names.push(name);
    }
    charts.par_iter().try_for_each(|(name, chart)| report::save(&described(chart), folder, name))?;
    Ok(Names { allocation, languages: names })
}

fn worths(languages: &[Trained<'_>], shared: &Shared) -> Chart {
    let mut chart = Chart {
        title: "What 1,000 pieces more are worth".to_owned(),
        subtitle: "increments of smoothed ALP × weight; every language takes what is worth more than the threshold"
            .to_owned(),
        logarithmic: true,
        level: Some((shared.threshold, format!("threshold: {:.4}", shared.threshold))),
        x_label: "vocabulary size (pieces)".to_owned(),
        y_label: "weighted nats per line".to_owned(),
        series_label: "language".to_owned(),
        ..Chart::default()
    };
    for (which, language) in languages.iter().enumerate() {
        let sizes = &language.curve.sizes;
        let worths = language.worth(shared.weights[which]).worths();
        let points = sizes[1..].iter().zip(&worths).map(|(size, worth)| (*size as f64, *worth)).collect();
        chart.series.push(Series { name: language.name.to_owned(), points });
        let at = shared.at[which];
        let text = format!("{}: {}", language.name, thousands(sizes[at]));
        chart.notes.push(Note { x: sizes[at] as f64, text, point: at.checked_sub(1).map(|at| (which, at)) });
    }
    chart
}

fn alp(language: &Trained<'_>, at: usize) -> Chart {
    let sizes = &language.curve.sizes;
    let points =
        sizes.iter().zip(&language.curve.scores[0]).map(|(size, score)| (*size as f64, score.alp)).collect();
    let single = thousands(language.curve.single_characters());
    Chart {
        title: format!("ALP by vocabulary size: {}", language.name),
        subtitle: format!(
            "average log-probability of {} lines, with {single} single characters; higher is better",
            thousands(language.corpus.lines.lines().len())
        ),
        x_label: "vocabulary size (pieces)".to_owned(),
        y_label: "ALP (nats per line)".to_owned(),
        series_label: "language".to_owned(),
        series: vec![Series { name: language.name.to_owned(), points }],
        notes: vec![Note {
            x: sizes[at] as f64,
            text: format!("allocated: {}", thousands(sizes[at])),
            point: Some((0, at)),
        }],
        ..Chart::default()
    }
}
