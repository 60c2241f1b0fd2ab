//! A chart of curves over one axis, each named at its right end.

use super::font::{fitted, width};
use super::scene::{Anchor, Color, Item, Point, Scene, Stroke, Text, Weight};
use super::ticks;

/// What is to be drawn.
#[derive(Clone, Debug, Default)]
pub struct Chart {
    pub title: String,
    /// A sentence under the title.
    pub subtitle: String,
    /// What the picture shows, for those who cannot see it.
    pub description: String,
    pub x_label: String,
    pub y_label: String,
    /// Equal ratios of y are equally high; points at 0 and below are left out.
    pub logarithmic: bool,
    /// What the names of the curves are: it stands above them.
    pub series_label: String,
    pub series: Vec<Series>,
    pub notes: Vec<Note>,
    /// A value of y that a line is drawn at, and its name.
    pub level: Option<(f64, String)>,
}

/// One curve.
#[derive(Clone, Debug)]
pub struct Series {
    pub name: String,
    /// Ascending in x; those that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

/// A place of the x axis that the chart speaks of: a line across the chart and a text beside it.
#[derive(Clone, Debug)]
pub struct Note {
    pub x: f64,
    pub text: String,
    /// The point that it speaks of, by series and place in it: a ring around it, and the line ends there.
    pub point: Option<(usize, usize)>,
}

const WIDTH: f32 = 960.0;
const HEIGHT: f32 = 600.0;
/// The frame of the curves.
const LEFT: f32 = 92.0;
const RIGHT: f32 = 822.0;
const TOP: f32 = 92.0;
const BOTTOM: f32 = 530.0;
const MARGIN: f32 = 24.0;

const SIZE: f32 = 14.0;
const TITLE_SIZE: f32 = 22.0;
const INK: Color = Color::grey(34);
const SOFT_INK: Color = Color::grey(96);
const GRID: Color = Color::grey(230);
const AXIS: Color = Color::grey(120);

/// The colours of Okabe and Ito, which differ for colour-blind eyes too, without yellow and in an order that sets
/// neighbours apart.
const COLORS: [Color; 7] = [
    Color(0, 114, 178),
    Color(213, 94, 0),
    Color(0, 158, 115),
    Color(204, 121, 167),
    Color(230, 159, 0),
    Color(86, 180, 233),
    Color(60, 60, 60),
];

/// The marks on the points of a curve; as their number has no factor in common with that of the colours, 35 curves
/// look different.
#[derive(Clone, Copy)]
enum Shape {
    Circle,
    Square,
    Triangle,
    Diamond,
    Wedge,
}

const SHAPES: [Shape; 5] = [Shape::Circle, Shape::Square, Shape::Triangle, Shape::Diamond, Shape::Wedge];

/// Where a value stands in the picture.
struct Axis {
    logarithmic: bool,
    /// Of the values, or of their logarithms.
    low: f64,
    high: f64,
    start: f32,
    end: f32,
}

impl Axis {
    /// Over the values, with a margin of that share of their range at both ends.
    fn over(values: impl Iterator<Item = f64>, logarithmic: bool, margin: f64, start: f32, end: f32) -> Self {
        let scaled: Vec<f64> = values.map(|value| if logarithmic { value.ln() } else { value }).collect();
        let (mut low, mut high) = scaled
            .iter()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(*value), high.max(*value)));
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        // A single value stands in the middle.
        let range = if high > low { high - low } else { low.abs().max(1.0) };
        let margin = if high > low { margin } else { margin.max(0.05) };
        Self { logarithmic, low: low - margin * range, high: high + margin * range, start, end }
    }

    fn place(&self, value: f64) -> f32 {
        let value = if self.logarithmic { value.ln() } else { value };
        self.start + (self.end - self.start) * ((value - self.low) / (self.high - self.low)) as f32
    }

    fn ticks(&self, most: usize) -> ticks::Ticks {
        match self.logarithmic {
            true => ticks::logarithmic(self.low.exp(), self.high.exp(), most),
            false => ticks::linear(self.low, self.high, most),
        }
    }
}

impl Chart {
    pub fn scene(&self) -> Scene {
        let points = || self.series.iter().flat_map(|series| self.drawn(series));
        let level = self.level.iter().map(|(level, _)| *level);
        let x = Axis::over(points().map(|(x, _)| x), false, 0.025, LEFT, RIGHT);
        let y = Axis::over(points().map(|(_, y)| y).chain(level), self.logarithmic, 0.05, BOTTOM, TOP);
        let mut scene = Scene::new(WIDTH, HEIGHT);
        scene.title.clone_from(&self.title);
        scene.description.clone_from(&self.description);
        self.headings(&mut scene);
        self.axes(&mut scene, &x, &y);
        self.level_line(&mut scene, &y);
        for note in &self.notes {
            self.note_line(&mut scene, note, &x, &y);
        }
        for (row, note) in self.notes.iter().enumerate() {
            self.note_text(&mut scene, note, row, &x);
        }
        for (at, series) in self.series.iter().enumerate() {
            let points = self.drawn(series).map(|point| Point::new(x.place(point.0), y.place(point.1)));
            draw_curve(&mut scene, &points.collect::<Vec<_>>(), at);
        }
        self.names(&mut scene, &x, &y);
        scene
    }

    fn headings(&self, scene: &mut Scene) {
        let room = WIDTH - 2.0 * MARGIN;
        let title = fitted(&self.title, TITLE_SIZE, Weight::Bold, room);
        scene.text(Text::new(MARGIN, 38.0, TITLE_SIZE, title).bold().colored(INK));
        let subtitle = fitted(&self.subtitle, SIZE, Weight::Regular, room);
        scene.text(Text::new(MARGIN, 63.0, SIZE, subtitle).colored(SOFT_INK));
    }

    fn axes(&self, scene: &mut Scene, x: &Axis, y: &Axis) {
        for (value, text) in y.ticks(9) {
            let at = y.place(value);
            scene.line(vec![Point::new(LEFT, at), Point::new(RIGHT, at)], Stroke::new(GRID, 1.0));
            scene.text(Text::new(LEFT - 10.0, at + 5.0, SIZE, text).anchored(Anchor::End).colored(SOFT_INK));
        }
        scene.line(vec![Point::new(LEFT, BOTTOM), Point::new(RIGHT, BOTTOM)], Stroke::new(AXIS, 1.0));
        for (value, text) in x.ticks(8) {
            let at = x.place(value);
            scene.line(vec![Point::new(at, BOTTOM), Point::new(at, BOTTOM + 6.0)], Stroke::new(AXIS, 1.0));
            scene.text(Text::new(at, BOTTOM + 23.0, SIZE, text).anchored(Anchor::Middle).colored(SOFT_INK));
        }
        let middle = (LEFT + RIGHT) / 2.0;
        scene.text(
            Text::new(middle, BOTTOM + 48.0, SIZE, self.x_label.as_str()).anchored(Anchor::Middle).colored(INK),
        );
        let middle = (TOP + BOTTOM) / 2.0;
        let label = Text::new(MARGIN + 5.0, middle, SIZE, self.y_label.as_str());
        scene.text(label.anchored(Anchor::Middle).colored(INK).upwards());
    }

    /// Across the chart, with its name at the right end.
    fn level_line(&self, scene: &mut Scene, y: &Axis) {
        let Some((level, name)) = &self.level else { return };
        let at = y.place(*level);
        let stroke = Stroke { color: AXIS, width: 1.25, dash: Some([5.0, 5.0]) };
        scene.line(vec![Point::new(LEFT, at), Point::new(RIGHT, at)], stroke);
        let text = Text::new(RIGHT - 4.0, at - 7.0, SIZE, name.as_str());
        scene.text(text.anchored(Anchor::End).colored(INK));
    }

    /// Whether most curves fall: then there is room above them, else below.
    fn falls(&self) -> bool {
        let ends =
            self.series.iter().filter_map(|series| Some((series.points.first()?.1, series.points.last()?.1)));
        let (fall, rise): (Vec<_>, Vec<_>) = ends.partition(|(first, last)| last < first);
        fall.len() > rise.len()
    }

    /// From the side with room to the note's point, or all the way.
    fn note_line(&self, scene: &mut Scene, note: &Note, x: &Axis, y: &Axis) {
        let at = x.place(note.x);
        let point = self.point_of(note);
        let (near, far) = if self.falls() { (TOP, BOTTOM) } else { (BOTTOM, TOP) };
        let end = point.map_or(far, |(_, value)| y.place(value));
        let stroke =
            Stroke { color: AXIS, width: 1.25, dash: if point.is_none() { Some([5.0, 5.0]) } else { None } };
        scene.line(vec![Point::new(at, near), Point::new(at, end)], stroke);
        if let (Some((_, value)), Some((series, _))) = (point, note.point) {
            let center = Point::new(at, y.place(value));
            let ring = Stroke::new(color_of(series), 2.0);
            scene.items.push(Item::Circle { center, radius: 9.0, fill: Some(Color::WHITE), stroke: Some(ring) });
        }
    }

    /// Above the axis or below the top, the first note highest, beside its line: on the right, if there is room.
    fn note_text(&self, scene: &mut Scene, note: &Note, row: usize, x: &Axis) {
        let at = x.place(note.x);
        let baseline = match self.falls() {
            true => TOP + 16.0 + 22.0 * row as f32,
            false => BOTTOM - 12.0 - 22.0 * (self.notes.len() - 1 - row) as f32,
        };
        let room = width(&note.text, SIZE, Weight::Regular);
        let on_the_left = at + room + 10.0 > RIGHT;
        let start = if on_the_left { at - 8.0 - room } else { at + 8.0 };
        // A line of another note that the text crosses breaks off beside it.
        let corner = Point::new(start - 4.0, baseline - SIZE);
        scene.items.push(Item::Rectangle { corner, width: room + 8.0, height: SIZE + 5.0, fill: Color::WHITE });
        let (at, anchor) = if on_the_left { (start + room, Anchor::End) } else { (start, Anchor::Start) };
        scene.text(Text::new(at, baseline, SIZE, note.text.as_str()).anchored(anchor).colored(INK));
    }

    fn point_of(&self, note: &Note) -> Option<(f64, f64)> {
        let (series, at) = note.point?;
        self.series.get(series)?.points.get(at).copied().filter(|point| self.has_place(point))
    }

    fn has_place(&self, (x, y): &(f64, f64)) -> bool {
        x.is_finite() && y.is_finite() && (!self.logarithmic || *y > 0.0)
    }

    fn drawn<'a>(&'a self, series: &'a Series) -> impl Iterator<Item = (f64, f64)> + 'a {
        series.points.iter().copied().filter(|point| self.has_place(point))
    }

    /// The names of the curves at their ends, moved apart where those are near each other.
    fn names(&self, scene: &mut Scene, x: &Axis, y: &Axis) {
        let ends = self.series.iter().enumerate();
        let ends = ends.filter_map(|(at, series)| Some((at, self.drawn(series).last()?)));
        let mut ends: Vec<(usize, Point)> =
            ends.map(|(at, end)| (at, Point::new(x.place(end.0), y.place(end.1)))).collect();
        ends.sort_by(|a, b| a.1.y.total_cmp(&b.1.y));
        let wanted: Vec<f32> = ends.iter().map(|(_, end)| end.y).collect();
        let heights = apart(&wanted, 20.0, TOP + 6.0, BOTTOM);
        let left = RIGHT + 22.0;
        let room = WIDTH - left - 16.0;
        for ((at, end), height) in ends.iter().zip(&heights) {
            let (color, name) = (color_of(*at), &self.series[*at].name);
            let lead = vec![
                Point::new(end.x + 7.0, end.y),
                Point::new(RIGHT + 1.0, end.y),
                Point::new(left - 9.0, *height),
            ];
            scene.line(lead, Stroke::new(Color::grey(200), 1.0));
            scene.items.push(mark(shape_of(*at), Point::new(left - 4.0, *height), color));
            let name = fitted(name, SIZE, Weight::Bold, room - 8.0);
            scene.text(Text::new(left + 8.0, height + 5.0, SIZE, name).bold().colored(INK));
        }
        if let Some(top) = heights.first() {
            let label = fitted(&self.series_label, SIZE, Weight::Regular, room + 18.0);
            scene.text(Text::new(left - 10.0, top - 20.0, SIZE, label).colored(SOFT_INK));
        }
    }
}

fn color_of(series: usize) -> Color {
    COLORS[series % COLORS.len()]
}

fn shape_of(series: usize) -> Shape {
    SHAPES[series % SHAPES.len()]
}

fn draw_curve(scene: &mut Scene, points: &[Point], at: usize) {
    let color = color_of(at);
    if points.len() > 1 {
        scene.line(points.to_vec(), Stroke::new(color, 2.0));
    }
    // Where there are many points, their marks would be one thick line.
    if points.len() <= 60 {
        scene.items.extend(points.iter().map(|point| mark(shape_of(at), *point, color)));
    }
}

fn mark(shape: Shape, center: Point, fill: Color) -> Item {
    let polygon = |corners: &[(f32, f32)]| Item::Polygon {
        points: corners.iter().map(|(x, y)| Point::new(center.x + x, center.y + y)).collect(),
        fill,
    };
    match shape {
        Shape::Circle => Item::Circle { center, radius: 3.8, fill: Some(fill), stroke: None },
        Shape::Square => polygon(&[(-3.4, -3.4), (3.4, -3.4), (3.4, 3.4), (-3.4, 3.4)]),
        Shape::Triangle => polygon(&[(0.0, -4.8), (4.4, 3.2), (-4.4, 3.2)]),
        Shape::Diamond => polygon(&[(0.0, -5.0), (4.4, 0.0), (0.0, 5.0), (-4.4, 0.0)]),
        Shape::Wedge => polygon(&[(0.0, 4.8), (4.4, -3.2), (-4.4, -3.2)]),
    }
}

/// Heights near the wanted ones (ascending) that are at least `gap` apart and between `low` and `high`; nearer to each
/// other where so many do not fit.
fn apart(wanted: &[f32], gap: f32, low: f32, high: f32) -> Vec<f32> {
    let gap = gap.min((high - low) / wanted.len().max(2).saturating_sub(1) as f32);
    let mut heights = wanted.to_vec();
    // Neighbours that are too near form a group around the middle of their wanted heights; groups that meet become one.
    let mut groups: Vec<(usize, usize, f32)> = Vec::new();
    let span = |count: usize| (count - 1) as f32 * gap;
    let clamped = |middle: f32, count: usize| {
        middle.clamp(low + span(count) / 2.0, (high - span(count) / 2.0).max(low + span(count) / 2.0))
    };
    for at in 0..wanted.len() {
        let mut group = (at, 1, clamped(wanted[at], 1));
        while let Some(&(first, count, middle)) = groups.last() {
            if group.2 - span(group.1) / 2.0 - (middle + span(count) / 2.0) >= gap {
                break;
            }
            groups.pop();
            let all = count + group.1;
            let mean = wanted[first..first + all].iter().sum::<f32>() / all as f32;
            group = (first, all, clamped(mean, all));
        }
        groups.push(group);
    }
    for (first, count, middle) in groups {
        for at in 0..count {
            heights[first + at] = middle - span(count) / 2.0 + at as f32 * gap;
        }
    }
    heights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_too_near_move_apart() {
        assert_eq!(apart(&[10.0, 50.0], 20.0, 0.0, 100.0), [10.0, 50.0]);
        assert_eq!(apart(&[10.0, 12.0, 90.0], 20.0, 0.0, 100.0), [1.0, 21.0, 90.0]);
        assert_eq!(apart(&[1.0, 2.0], 20.0, 0.0, 100.0), [0.0, 20.0]);
        // A group that grows meets the next.
        assert_eq!(apart(&[40.0, 42.0, 60.0], 20.0, 0.0, 100.0), [27.333_332, 47.333_332, 67.333_33]);
        // More than fit are nearer to each other.
        let many = apart(&[50.0; 11], 20.0, 0.0, 100.0);
        assert_eq!(many, [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 100.0]);
        assert_eq!(apart(&[], 20.0, 0.0, 100.0), [0.0; 0]);
        assert_eq!(apart(&[500.0], 20.0, 0.0, 100.0), [100.0]);
    }

    #[test]
    fn odd_curves_are_drawn_without_a_word() {
        let series = |points: &[(f64, f64)]| Series { name: "s".to_owned(), points: points.to_vec() };
        for all in [
            vec![],
            vec![series(&[])],
            vec![series(&[(5.0, 1.0)])],
            vec![series(&[(5.0, -1.0), (6.0, 0.0)])],
            vec![series(&[(1.0, 9.0), (2.0, 3.0)])],
            vec![series(&[(1.0, 2.0), (2.0, f64::NAN), (3.0, 2.0)]), series(&[(f64::INFINITY, 0.0)])],
            vec![series(&[(1.0, 1.0), (2.0, 2.0)]); 40],
        ] {
            let count = all.len();
            let note = Note { x: 1.0, text: "here".to_owned(), point: Some((0, 7)) };
            let title = "x".repeat(500);
            let level = Some((1.5, "level".to_owned()));
            let logarithmic = count % 2 == 1;
            let chart = Chart { series: all, notes: vec![note], title, logarithmic, level, ..Chart::default() };
            let scene = chart.scene();
            let number = |value: f32| assert!(value.is_finite() && value.abs() < 1e5, "{count} curves");
            for item in &scene.items {
                match item {
                    Item::Line { points, .. } | Item::Polygon { points, .. } => {
                        points.iter().for_each(|point| number(point.x + point.y));
                    }
                    Item::Circle { center, .. } => number(center.x + center.y),
                    Item::Rectangle { corner, .. } => number(corner.x + corner.y),
                    Item::Image { corner, .. } => number(corner.x + corner.y),
                    Item::Text(text) => number(text.at.x + text.at.y),
                }
            }
        }
    }

    #[test]
    fn thirty_five_curves_look_different() {
        let look = |at| (color_of(at).0, color_of(at).1, shape_of(at) as u8);
        let looks: std::collections::BTreeSet<(u8, u8, u8)> = (0..35).map(look).collect();
        assert_eq!(looks.len(), 35);
    }
}
