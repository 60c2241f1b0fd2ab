//! Curves of trainings as one picture, SVG: a figure of `metrics.jsonl` over the steps.
//!
//! ```text
//! cargo run --release --example curves -- OUTPUT.svg "Title" "y axis" bits_per_byte/NAME "curve"=outputs/train …
//! ```
//! The figure is `loss`, `gradient_norm`, `learning_rate`, `validation/NAME` or `bits_per_byte/NAME`; every further argument
//! is a curve: its name, and the folder of the training.

use std::path::Path;
use std::process::ExitCode;

use cmx::error::{Error, Result};
use cmx::report::{Chart, Series, save};
use cmx::training::{Record, Records};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match draw(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.one_line());
            ExitCode::FAILURE
        }
    }
}

fn draw(arguments: &[String]) -> Result<()> {
    let [output, title, y_label, figure, curves @ ..] = arguments else {
        return Err(Error::invalid("usage: curves OUTPUT.svg TITLE Y-AXIS FIGURE NAME=FOLDER …"));
    };
    let series = curves.iter().map(|curve| {
        let (name, folder) = curve
            .rsplit_once('=')
            .ok_or_else(|| Error::invalid(format!("`{curve}` is no curve: write NAME=FOLDER")))?;
        let records = Records::read(&Path::new(folder).join("metrics.jsonl"))?;
        let points: Vec<(f64, f64)> =
            records.0.iter().filter_map(|record| Some((record.step as f64, value(record, figure)?))).collect();
        if points.is_empty() {
            return Err(Error::invalid(format!("the training in {folder} recorded no `{figure}`")));
        }
        Ok(Series { name: name.to_owned(), points })
    });
    let chart = Chart {
        title: title.clone(),
        subtitle: figure.clone(),
        description: format!("{title}: {y_label} over steps"),
        x_label: "steps".to_owned(),
        y_label: y_label.clone(),
        logarithmic: false,
        series_label: String::new(),
        series: series.collect::<Result<_>>()?,
        notes: Vec::new(),
        level: None,
    };
    let output = Path::new(output);
    let name = output.file_stem().unwrap_or_default().to_string_lossy();
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    save(&chart.scene(), folder, &name)
}

/// The figure of that name, where a record has it.
fn value(record: &Record, figure: &str) -> Option<f64> {
    match figure.split_once('/') {
        Some(("validation", name)) => record.validation.as_ref()?.get(name).copied(),
        Some(("bits_per_byte", name)) => record.bits_per_byte.as_ref()?.get(name).copied(),
        _ => match figure {
            "loss" => record.loss,
            "gradient_norm" => record.gradient_norm,
            "learning_rate" => record.learning_rate,
            _ => None,
        },
    }
}
