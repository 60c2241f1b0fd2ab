//! A scene as PNG, painted with two pixels for every unit of length.

use tiny_skia::{FillRule, LineCap, LineJoin, Paint, Path, PathBuilder, Pixmap, StrokeDash, Transform};
use ttf_parser::OutlineBuilder;

use super::font::{BITMAP_DESCENT, Glyph, width};
use super::scene::{Anchor, Color, Item, Point, SCALE, Scene, Stroke, Text, Weight};
use crate::error::{Error, Result};

/// Width of the seam on each side of a letter's edge, in units.
const HALO: f32 = 2.0;

/// Fails only for a scene without area, or of more pixels than memory can hold.
pub fn write(scene: &Scene) -> Result<Vec<u8>> {
    let pixels = |length: f32| (length * SCALE as f32).round() as u32;
    let (width, height) = (pixels(scene.width), pixels(scene.height));
    let mut page = Pixmap::new(width, height)
        .ok_or_else(|| Error::new(format!("a picture of {width} by {height} pixels cannot be painted")))?;
    page.fill(tiny_skia::Color::WHITE);
    let mut canvas = Canvas { page, to_pixels: Transform::from_scale(SCALE as f32, SCALE as f32) };
    scene.items.iter().for_each(|item| canvas.draw(item));
    let rgb: Vec<u8> = canvas.page.pixels().iter().flat_map(|p| [p.red(), p.green(), p.blue()]).collect();
    Ok(encode(width, height, &rgb))
}

struct Canvas {
    page: Pixmap,
    to_pixels: Transform,
}

impl Canvas {
    fn draw(&mut self, item: &Item) {
        match item {
            Item::Line { points, stroke } => {
                if let Some(path) = path_through(points, false) {
                    self.stroke(&path, stroke, self.to_pixels);
                }
            }
            Item::Polygon { points, fill } => {
                if let Some(path) = path_through(points, true) {
                    self.fill(&path, *fill, self.to_pixels);
                }
            }
            Item::Rectangle { corner, width, height, fill } => {
                if let Some(rect) = tiny_skia::Rect::from_xywh(corner.x, corner.y, *width, *height) {
                    self.page.fill_rect(rect, &paint(*fill), self.to_pixels, None);
                }
            }
            Item::Circle { center, radius, fill, stroke } => {
                let Some(path) = PathBuilder::from_circle(center.x, center.y, *radius) else { return };
                if let Some(fill) = fill {
                    self.fill(&path, *fill, self.to_pixels);
                }
                if let Some(stroke) = stroke {
                    self.stroke(&path, stroke, self.to_pixels);
                }
            }
            Item::Text(text) => self.text(text),
        }
    }

    fn fill(&mut self, path: &Path, color: Color, transform: Transform) {
        self.page.fill_path(path, &paint(color), FillRule::Winding, transform, None);
    }

    fn stroke(&mut self, path: &Path, stroke: &Stroke, transform: Transform) {
        let dash = stroke.dash.and_then(|lengths| StrokeDash::new(lengths.to_vec(), 0.0));
        let stroked = tiny_skia::Stroke {
            width: stroke.width,
            line_cap: LineCap::Round,
            line_join: LineJoin::Round,
            dash,
            ..tiny_skia::Stroke::default()
        };
        self.page.stroke_path(path, &paint(stroke.color), &stroked, transform, None);
    }

    fn text(&mut self, text: &Text) {
        let width = width(&text.text, text.size, text.weight);
        let start = match text.anchor {
            Anchor::Start => 0.0,
            Anchor::Middle => -width / 2.0,
            Anchor::End => -width,
        };
        // Whole pixels, so that the dots of bitmaps fall on pixels too.
        let whole = |length: f32| (length * SCALE as f32).round() / SCALE as f32;
        let mut transform = self.to_pixels.pre_translate(whole(text.at.x), whole(text.at.y));
        if text.upwards {
            // A quarter turn to the left, exact where `from_rotate` would come near it.
            transform = transform.pre_concat(Transform::from_row(0.0, -1.0, 1.0, 0.0, 0.0, 0.0));
        }
        let Some(path) = outline(text, whole(start)) else { return };
        if text.halo {
            self.stroke(&path, &Stroke::new(Color::WHITE, 2.0 * HALO), transform);
        }
        self.fill(&path, text.color, transform);
    }
}

/// The letters of a text, whose baseline begins at (`start`, 0).
fn outline(text: &Text, start: f32) -> Option<Path> {
    let mut path = PathBuilder::new();
    let mut x = start;
    for c in text.text.chars() {
        let glyph = Glyph::of(c, text.size, text.weight);
        match &glyph {
            Glyph::Outline { face, id, unit } => {
                face.outline_glyph(*id, &mut Letter { path: &mut path, x, unit: *unit });
            }
            Glyph::Bitmap { glyph, dot } => {
                let left = (x * SCALE as f32).round() / SCALE as f32;
                push_dots(&mut path, glyph, left, *dot);
                if text.weight == Weight::Bold {
                    push_dots(&mut path, glyph, left + 1.0 / SCALE as f32, *dot);
                }
            }
            Glyph::Missing { size } => push_box(&mut path, x, *size),
        }
        x += glyph.advance();
    }
    path.finish()
}

/// Rows of dots as rectangles.
fn push_dots(path: &mut PathBuilder, glyph: &unifont::Glyph, left: f32, dot: f32) {
    for row in 0..16 {
        let y = (row as f32 - (16 - BITMAP_DESCENT) as f32) * dot;
        let mut column = 0;
        while column < glyph.get_width() {
            let first = column;
            while column < glyph.get_width() && glyph.get_pixel(column, row) {
                column += 1;
            }
            if let Some(rect) = tiny_skia::Rect::from_xywh(
                left + first as f32 * dot,
                y,
                (column - first) as f32 * dot,
                dot,
            )
            .filter(|rect| rect.width() > 0.0)
            {
                path.push_rect(rect);
            }
            column += 1;
        }
    }
}

/// The empty frame of a character that no font has.
fn push_box(path: &mut PathBuilder, left: f32, size: f32) {
    let inset = size * 0.1;
    for (grow, clockwise) in [(0.0, true), (-size * 0.06, false)] {
        let (low, high) = (inset - grow, size * 0.8 + grow);
        let (x, y) = (left + low, -size * 0.75 + low);
        let side = high - low;
        let corners = [(x, y), (x + side, y), (x + side, y + side), (x, y + side)];
        let order: [usize; 4] = if clockwise { [0, 1, 2, 3] } else { [0, 3, 2, 1] };
        path.move_to(corners[0].0, corners[0].1);
        order[1..].iter().for_each(|at| path.line_to(corners[*at].0, corners[*at].1));
        path.close();
    }
}

/// Puts a letter, whose y grows upwards, into a path.
struct Letter<'a> {
    path: &'a mut PathBuilder,
    x: f32,
    unit: f32,
}

impl OutlineBuilder for Letter<'_> {
    fn move_to(&mut self, x: f32, y: f32) {
        self.path.move_to(self.x + x * self.unit, -y * self.unit);
    }
    fn line_to(&mut self, x: f32, y: f32) {
        self.path.line_to(self.x + x * self.unit, -y * self.unit);
    }
    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        let unit = self.unit;
        self.path.quad_to(self.x + x1 * unit, -y1 * unit, self.x + x * unit, -y * unit);
    }
    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        let (left, unit) = (self.x, self.unit);
        self.path.cubic_to(
            left + x1 * unit,
            -y1 * unit,
            left + x2 * unit,
            -y2 * unit,
            left + x * unit,
            -y * unit,
        );
    }
    fn close(&mut self) {
        self.path.close();
    }
}

fn path_through(points: &[Point], closed: bool) -> Option<Path> {
    let (first, rest) = points.split_first()?;
    let mut path = PathBuilder::new();
    path.move_to(first.x, first.y);
    rest.iter().for_each(|point| path.line_to(point.x, point.y));
    if closed {
        path.close();
    }
    path.finish()
}

fn paint(Color(red, green, blue): Color) -> Paint<'static> {
    let mut paint = Paint { anti_alias: true, ..Paint::default() };
    paint.set_color_rgba8(red, green, blue, 255);
    paint
}

/// A PNG file of 8 bits a channel: three chunks. (The `png` crate compresses by whatever library the rest of the
/// program brings in, some of which give other bytes on other processors.)
fn encode(width: u32, height: u32, rgb: &[u8]) -> Vec<u8> {
    let mut rows = Vec::with_capacity(rgb.len() + height as usize);
    for row in rgb.chunks(3 * width.max(1) as usize) {
        // Its filter: none.
        rows.push(0);
        rows.extend_from_slice(row);
    }
    let mut header = [width.to_be_bytes(), height.to_be_bytes()].concat();
    // Bits, color type RGB, and the only methods of compression, filtering and interlacing.
    header.extend([8, 2, 0, 0, 0]);
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    push_chunk(&mut file, *b"IHDR", &header);
    push_chunk(&mut file, *b"IDAT", &miniz_oxide::deflate::compress_to_vec_zlib(&rows, 9));
    push_chunk(&mut file, *b"IEND", &[]);
    file
}

fn push_chunk(file: &mut Vec<u8>, kind: [u8; 4], data: &[u8]) {
    file.extend((data.len() as u32).to_be_bytes());
    let start = file.len();
    file.extend(kind);
    file.extend(data);
    let check = crc32fast::hash(&file[start..]);
    file.extend(check.to_be_bytes());
}
