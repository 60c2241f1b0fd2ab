//! Curves of trainings as one picture, SVG: a figure of `metrics.jsonl` over the steps.
//!
//! ```text
//! cargo run --release --example curves -- OUTPUT.svg "Title" "y axis" bits_per_byte/NAME 0 "curve"=outputs/train …
//! ```
//! The figure is any of a record's: `loss`, `gradient_norm`, `validation/NAME`, `bits_per_byte/NAME`; then comes the first step
//! to be shown, and every further argument is a curve: its name, and the folder of the training.

use std::path::Path;
use std::process::ExitCode;

use cmx::error::{Context, Error, Result};
use cmx::report::{Chart, Series, save};
use serde_json::Value;

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
    let [output, title, y_label, figure, from, curves @ ..] = arguments else {
        return Err(Error::invalid("usage: curves OUTPUT.svg TITLE Y-AXIS FIGURE FIRST-STEP NAME=FOLDER …"));
    };
    let first: f64 = from.parse().context(|| format!("`{from}` is no number of a step"))?;
    let series = curves.iter().map(|curve| {
        let (name, folder) = curve
            .rsplit_once('=')
            .ok_or_else(|| Error::invalid(format!("`{curve}` is no curve: write NAME=FOLDER")))?;
        let path = Path::new(folder).join("metrics.jsonl");
        let text = std::fs::read_to_string(&path).context(|| format!("cannot read {}", path.display()))?;
        let point = |line: &str| {
            let record: Value = serde_json::from_str(line).ok()?;
            let step = record["step"].as_f64().filter(|&step| step >= first)?;
            Some((step, record.pointer(&format!("/{figure}"))?.as_f64()?))
        };
        let points: Vec<(f64, f64)> = text.lines().filter_map(point).collect();
        if points.is_empty() {
            return Err(Error::invalid(format!("the training in {folder} recorded no `{figure}`")));
        }
        Ok(Series { name: name.to_owned(), points })
    });
    let chart = Chart {
        title: title.clone(),
        subtitle: if first > 0.0 { format!("{figure}, from step {from} on") } else { figure.clone() },
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
