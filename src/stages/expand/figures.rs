//! What `expand` did, as pictures: the numbers of embedding and output before and after.

use std::path::Path;

use crate::error::{Context, Result};
use crate::report::{self, Band, HeatMap, Panel, thousands};
use crate::weights::Checkpoint;
use crate::weights::expansion::{EMBEDDING, Expansion};
use crate::weights::magnitudes::Magnitudes;

/// Writes a heat map of each matrix with a row a token into `folder`: `embedding` and, where the model stores one,
/// `output`, as SVG and PNG.
pub fn draw(before: &Checkpoint, after: &Checkpoint, folder: &Path) -> Result<()> {
    std::fs::create_dir(folder).context(|| format!("cannot create {}", folder.display()))?;
    for name in Expansion::matrices(before) {
        let file = if name == EMBEDDING { "embedding" } else { "output" };
        report::save(&heat_map(before, after, name)?.scene(), folder, file)?;
    }
    Ok(())
}

fn heat_map(before: &Checkpoint, after: &Checkpoint, name: &str) -> Result<HeatMap> {
    let (old, new) = (before.shape(name)?, after.shape(name)?);
    let (kept, all, columns) = (old[0], new[0], old[1]);
    let added = all - kept;
    let rows = if added > 0 { vec![kept, added] } else { vec![kept] };
    let cells = HeatMap::rows(&rows);
    let look = |base: &Checkpoint, first: usize, part: usize| -> Result<(Band, f64)> {
        let found = Magnitudes::of(base, name, first..first + rows[part], (cells[part], HeatMap::COLUMNS))?;
        Ok((Band { rows: rows[part], cells: found.cells, columns: found.columns }, found.mean))
    };
    let (then, mean) = look(before, 0, 0)?;
    let (now, _) = look(after, 0, 0)?;
    let mut bands = vec![now];
    let said = |mean: f64| format!("mean |w| {}", digits(mean));
    let mut caption = "no new ones".to_owned();
    if added > 0 {
        let (band, mean) = look(after, kept, 1)?;
        bands.push(band);
        caption = format!("of which {} new: {}", thousands(added), said(mean));
    }
    let high = |part: usize| rows[part].div_ceil(cells[part]);
    let wide = match columns.div_ceil(HeatMap::COLUMNS) {
        1 => "one dimension".to_owned(),
        several => format!("{several} dimensions"),
    };
    Ok(HeatMap {
        title: format!("{name}, before and after"),
        subtitle: match added {
            0 => format!("Each cell is the mean |w| of at most {} tokens × {wide}.", high(0)),
            _ => {
                format!("Each cell is the mean |w| of at most {} old or {} new tokens × {wide}.", high(0), high(1))
            }
        },
        description: format!(
            "The matrix had {} rows of {columns} numbers, {}. It has {} rows, {caption}.",
            thousands(kept),
            said(mean),
            thousands(all)
        ),
        x_label: "dimension".to_owned(),
        y_label: "token".to_owned(),
        scale_label: "mean |w|".to_owned(),
        columns,
        panels: vec![
            Panel { title: format!("before: {} tokens", thousands(kept)), caption: said(mean), bands: vec![then] },
            Panel { title: format!("after: {} tokens", thousands(all)), caption, bands },
        ],
    })
}

/// Three digits that count.
fn digits(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        0.001..1000.0 => format!("{value:.*}", (2 - value.log10().floor() as i32).max(0) as usize),
        _ => format!("{value:.2e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!(
            [0.0, 0.23874, 0.0012345, 12.345, 123.45, 0.00012345, 12345.0].map(digits),
            ["0", "0.239", "0.00123", "12.3", "123", "1.23e-4", "1.23e4"]
        );
    }
}
