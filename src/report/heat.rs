//! Heat maps side by side: matrices as grids of coloured cells, on one scale.

use super::font::fitted;
use super::scene::{Anchor, Color, Item, Point, Scene, Stroke, Text, Weight};
use super::ticks::{linear, thousands};

/// What is to be drawn.
#[derive(Clone, Debug, Default)]
pub struct HeatMap {
    pub title: String,
    /// A sentence under the title.
    pub subtitle: String,
    /// What the picture shows, for those who cannot see it.
    pub description: String,
    pub x_label: String,
    pub y_label: String,
    /// What a colour stands for.
    pub scale_label: String,
    /// How many columns each matrix has.
    pub columns: usize,
    /// At most two fit. What they share lies at the same height.
    pub panels: Vec<Panel>,
}

/// One matrix.
#[derive(Clone, Debug)]
pub struct Panel {
    pub title: String,
    pub caption: String,
    /// Its rows from the first to the last, in parts between which a line is drawn.
    pub bands: Vec<Band>,
}

/// Some rows of a matrix, drawn as few cells.
#[derive(Clone, Debug)]
pub struct Band {
    /// Of the matrix.
    pub rows: usize,
    /// Row-major; one that is not finite is red.
    pub cells: Vec<f32>,
    /// Cells in a row.
    pub columns: usize,
}

impl HeatMap {
    /// No more columns and rows of cells than these are seen.
    pub const COLUMNS: usize = 170;
    pub const ROWS: usize = 210;
    /// A cell is at least as large as this, in units of the scene: four by four pixels of the PNG.
    const CELL: f32 = 2.0;
    /// What a band gets of the height at least, however few rows it stands for.
    const LEAST: f32 = 0.16;
    /// The share of all cells that the scale ends at: a few large ones would leave the others one colour.
    const SCALE: f64 = 0.995;

    /// How many rows of cells each of a panel's bands has room for; `rows` are those of the matrix.
    pub fn rows(rows: &[usize]) -> Vec<usize> {
        let shares = shares(rows);
        shares
            .iter()
            .zip(rows)
            .map(|(share, rows)| ((share * Self::ROWS as f32) as usize).clamp(1, *rows))
            .collect()
    }

    pub fn scene(&self) -> Scene {
        let mut scene = Scene::new(WIDTH, HEIGHT);
        scene.title.clone_from(&self.title);
        scene.description.clone_from(&self.description);
        let room = WIDTH - 2.0 * MARGIN;
        let title = fitted(&self.title, TITLE_SIZE, Weight::Bold, room);
        scene.text(Text::new(MARGIN, 38.0, TITLE_SIZE, title).bold().colored(INK));
        let subtitle = fitted(&self.subtitle, SIZE, Weight::Regular, room);
        scene.text(Text::new(MARGIN, 63.0, SIZE, subtitle).colored(SOFT_INK));
        let top = self.top();
        // The panel with the most bands says how high each is.
        let fullest = self.panels.iter().max_by_key(|panel| panel.bands.len());
        let rows: Vec<usize> = fullest.iter().flat_map(|panel| panel.bands.iter().map(|band| band.rows)).collect();
        let shares = shares(&rows);
        for (at, panel) in self.panels.iter().enumerate() {
            self.panel(&mut scene, panel, LEFT + at as f32 * (PANEL + GAP), &shares, top);
        }
        // Beside the first panel, which may be lower than the others.
        let first = self.panels.first().map_or(0, |panel| panel.bands.len());
        let middle = TOP + PANEL_HEIGHT * shares.iter().take(first).sum::<f32>() / 2.0;
        let label = Text::new(MARGIN + 5.0, middle, SIZE, self.y_label.as_str());
        scene.text(label.anchored(Anchor::Middle).colored(INK).upwards());
        self.scale(&mut scene, top);
        scene
    }

    fn panel(&self, scene: &mut Scene, panel: &Panel, left: f32, shares: &[f32], top: f32) {
        let title = fitted(&panel.title, SIZE, Weight::Bold, PANEL);
        scene.text(Text::new(left, TOP - 28.0, SIZE, title).bold().colored(INK));
        let caption = fitted(&panel.caption, SIZE, Weight::Regular, PANEL);
        scene.text(Text::new(left, TOP - 9.0, SIZE, caption).colored(SOFT_INK));
        let (mut y, mut row) = (TOP, 0);
        row_mark(scene, left, y, row);
        for (number, (band, share)) in panel.bands.iter().zip(shares).enumerate() {
            let height = share * PANEL_HEIGHT;
            let pixels = band.cells.iter().map(|value| color(*value / top)).collect();
            let corner = Point::new(left, y);
            scene.items.push(Item::Image { corner, width: PANEL, height, columns: band.columns, pixels });
            if number > 0 {
                scene.line(vec![Point::new(left, y), Point::new(left + PANEL, y)], Stroke::new(Color::WHITE, 1.5));
            }
            y += height;
            row += band.rows;
            row_mark(scene, left, y, row);
        }
        for (x, column) in [(left, 0), (left + PANEL, self.columns)] {
            scene.line(vec![Point::new(x, y), Point::new(x, y + 6.0)], Stroke::new(AXIS, 1.0));
            let text = Text::new(x, y + 23.0, SIZE, thousands(column));
            scene.text(text.anchored(Anchor::Middle).colored(SOFT_INK));
        }
        let label = Text::new(left + PANEL / 2.0, y + 23.0, SIZE, self.x_label.as_str());
        scene.text(label.anchored(Anchor::Middle).colored(INK));
    }

    /// The colours from 0 up to `top`, and what they stand for.
    fn scale(&self, scene: &mut Scene, top: f32) {
        const STEPS: usize = 128;
        let left = WIDTH - 76.0;
        let pixels = (0..STEPS).rev().map(|step| color(step as f32 / (STEPS - 1) as f32)).collect();
        let corner = Point::new(left, TOP);
        scene.items.push(Item::Image { corner, width: 14.0, height: SCALE_HEIGHT, columns: 1, pixels });
        for (value, text) in linear(0.0, f64::from(top), 6) {
            let y = TOP + SCALE_HEIGHT * (1.0 - value / f64::from(top)) as f32;
            scene.line(vec![Point::new(left + 14.0, y), Point::new(left + 19.0, y)], Stroke::new(AXIS, 1.0));
            scene.text(Text::new(left + 23.0, y + 4.5, SMALL, text).colored(SOFT_INK));
        }
        let label = Text::new(WIDTH - MARGIN + 8.0, TOP - 9.0, SIZE, self.scale_label.as_str());
        scene.text(label.anchored(Anchor::End).colored(INK));
    }

    /// The value that the last colour stands for.
    fn top(&self) -> f32 {
        let bands = self.panels.iter().flat_map(|panel| &panel.bands);
        let mut values: Vec<f32> = bands.flat_map(|band| &band.cells).copied().filter(|v| v.is_finite()).collect();
        values.sort_by(f32::total_cmp);
        let at = (values.len() as f64 * Self::SCALE) as usize;
        values.get(at.min(values.len().saturating_sub(1))).copied().filter(|top| *top > 0.0).unwrap_or(1.0)
    }
}

const WIDTH: f32 = 960.0;
const HEIGHT: f32 = 590.0;
const MARGIN: f32 = 24.0;
const LEFT: f32 = 92.0;
const TOP: f32 = 124.0;
const PANEL: f32 = HeatMap::COLUMNS as f32 * HeatMap::CELL;
const PANEL_HEIGHT: f32 = HeatMap::ROWS as f32 * HeatMap::CELL;
/// Between two panels.
const GAP: f32 = 80.0;
const SCALE_HEIGHT: f32 = 220.0;
const SIZE: f32 = 14.0;
const SMALL: f32 = 12.0;
const TITLE_SIZE: f32 = 22.0;
const INK: Color = Color::grey(34);
const SOFT_INK: Color = Color::grey(96);
const AXIS: Color = Color::grey(120);

/// The number of a row, at the left of a panel.
fn row_mark(scene: &mut Scene, left: f32, y: f32, row: usize) {
    scene.line(vec![Point::new(left - 6.0, y), Point::new(left, y)], Stroke::new(AXIS, 1.0));
    scene.text(Text::new(left - 10.0, y + 5.0, SIZE, thousands(row)).anchored(Anchor::End).colored(SOFT_INK));
}

/// What each band gets of the height: in proportion to its rows, but a few rows must be seen as well.
fn shares(rows: &[usize]) -> Vec<f32> {
    let all = rows.iter().sum::<usize>().max(1) as f32;
    let lifted: Vec<f32> = rows.iter().map(|rows| (*rows as f32 / all).max(HeatMap::LEAST)).collect();
    let sum: f32 = lifted.iter().sum();
    lifted.iter().map(|share| share / sum).collect()
}

/// From dark blue over green to yellow, with a lightness that grows evenly: nine colours of matplotlib's viridis and what
/// lies between them. What is above 1 has the last, what is not finite is red.
fn color(value: f32) -> Color {
    const STOPS: [[u8; 3]; 9] = [
        [68, 1, 84],
        [71, 44, 122],
        [59, 81, 139],
        [44, 113, 142],
        [33, 144, 141],
        [39, 173, 129],
        [92, 200, 99],
        [170, 220, 50],
        [253, 231, 37],
    ];
    if !value.is_finite() {
        return Color(214, 39, 40);
    }
    // In steps that the eye does not see, so that pictures compress.
    let place = (value.clamp(0.0, 1.0) * 127.0).round() / 127.0 * (STOPS.len() - 1) as f32;
    let first = (place as usize).min(STOPS.len() - 2);
    let mix = |channel: usize| {
        let (from, to) = (f32::from(STOPS[first][channel]), f32::from(STOPS[first + 1][channel]));
        (from + (to - from) * (place - first as f32)).round() as u8
    };
    Color(mix(0), mix(1), mix(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn band(rows: usize, value: f32) -> Band {
        Band { rows, cells: vec![value; 6], columns: 3 }
    }

    fn images(scene: &Scene) -> Vec<(f32, f32, Color)> {
        let image = |item: &Item| match item {
            Item::Image { corner, height, columns: 3, pixels, .. } => Some((corner.y, *height, pixels[0])),
            _ => None,
        };
        scene.items.iter().filter_map(image).collect()
    }

    #[test]
    fn what_two_matrices_share_lies_at_the_same_height_and_has_the_same_colour() {
        let panel = |bands| Panel { title: String::new(), caption: String::new(), bands };
        let map = HeatMap {
            columns: 12,
            panels: vec![panel(vec![band(300, 0.5)]), panel(vec![band(300, 0.5), band(100, 1.0)])],
            ..HeatMap::default()
        };
        let images = images(&map.scene());
        assert_eq!(images[0], images[1]);
        assert_eq!(images[2].0, TOP + images[0].1);
        assert_eq!(images[0].1, 3.0 * images[2].1);
        assert_eq!(images[2].2, Color(253, 231, 37));
    }

    #[test]
    fn few_rows_are_seen_among_many() {
        let shares = shares(&[32_000, 2]);
        assert!((shares.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!(shares[1] > 0.1, "{shares:?}");
        assert_eq!(HeatMap::rows(&[32_000, 2]), [181, 2]);
        assert_eq!(HeatMap::rows(&[32_000]), [210]);
        assert_eq!(HeatMap::rows(&[7, 3]), [7, 3]);
    }

    #[test]
    fn a_few_large_cells_do_not_set_the_scale() {
        let mut cells = vec![1.0; 1000];
        cells[3] = 1e6;
        cells[4] = f32::NAN;
        let bands = vec![Band { rows: 10, cells, columns: 100 }];
        let panels = vec![Panel { title: String::new(), caption: String::new(), bands }];
        assert_eq!(HeatMap { panels, ..HeatMap::default() }.top(), 1.0);
        assert_eq!(HeatMap::default().top(), 1.0);
        assert_eq!([0.0, 1.0, 7.0].map(color), [Color(68, 1, 84), Color(253, 231, 37), Color(253, 231, 37)]);
        assert_eq!(color(f32::NAN), Color(214, 39, 40));
    }
}
