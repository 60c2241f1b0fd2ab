//! A scene as PNG, painted with two pixels for every unit of length.

use tiny_skia::{FillRule, LineCap, LineJoin, Paint, Path, PathBuilder, Pixmap, StrokeDash, Transform};
use ttf_parser::OutlineBuilder;

use super::font::{BITMAP_DESCENT, Glyph, width};
use super::scene::{Anchor, Color, Item, Point, SCALE, Scene, Stroke, Text, Weight};
use crate::error::{Error, Result};

/// Of the compression; higher ones take longer and make a chart no smaller.
const LEVEL: u8 = 5;

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
            Item::Image { corner, width, height, columns, pixels } => {
                self.image(*corner, (*width, *height), *columns, pixels);
            }
            Item::Text(text) => self.text(text),
        }
    }

    /// Every pixel of the page that lies in the image takes the colour of the image's pixel at its middle.
    fn image(&mut self, corner: Point, size: (f32, f32), columns: usize, colors: &[Color]) {
        let rows = colors.len() / columns.max(1);
        let place = |length: f32| (length * SCALE as f32).round().max(0.0) as usize;
        let (left, top) = (place(corner.x), place(corner.y));
        let (width, height) = (place(corner.x + size.0) - left, place(corner.y + size.1) - top);
        let page = self.page.width() as usize;
        let pixels = self.page.pixels_mut();
        for y in 0..height {
            let row = (2 * y + 1) * rows / (2 * height);
            for x in 0..width {
                let column = (2 * x + 1) * columns / (2 * width);
                let Color(red, green, blue) = colors[row * columns + column];
                if let Some(pixel) = pixels.get_mut((top + y) * page + left + x).filter(|_| left + x < page) {
                    *pixel = tiny_skia::ColorU8::from_rgba(red, green, blue, 255).premultiply();
                }
            }
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
            Glyph::Missing { size } => push_frame(&mut path, x, *size),
        }
        x += glyph.advance();
    }
    path.finish()
}

/// Rows of dots as rectangles. Dots that touch at a corner only are strokes on the slant: the two corners between them
/// are filled by half a dot, which makes the slant of a staircase.
fn push_dots(path: &mut PathBuilder, glyph: &unifont::Glyph, left: f32, dot: f32) {
    let set = |column: usize, row: usize| glyph.get_pixel(column, row);
    let place =
        |column: usize, row: usize| (left + column as f32 * dot, (row as f32 - (16 - BITMAP_DESCENT) as f32) * dot);
    for row in 0..16 {
        let mut column = 0;
        while column < glyph.get_width() {
            let first = column;
            while set(column, row) {
                column += 1;
            }
            if column > first {
                let ((x, y), width) = (place(first, row), (column - first) as f32 * dot);
                push_corners(path, &[(x, y), (x + width, y), (x + width, y + dot), (x, y + dot)]);
            }
            column += 1;
        }
    }
    for (row, column) in (1..16).flat_map(|row| (1..glyph.get_width()).map(move |column| (row, column))) {
        let (x, y) = place(column, row);
        let square = [set(column - 1, row - 1), set(column, row - 1), set(column - 1, row), set(column, row)];
        let (above, below, left, right) = ((x, y - dot), (x, y + dot), (x - dot, y), (x + dot, y));
        // All clockwise, as the rows: what overlaps must not count as a hole.
        match square {
            [true, false, false, true] => {
                push_corners(path, &[(x, y), above, right]);
                push_corners(path, &[(x, y), below, left]);
            }
            [false, true, true, false] => {
                push_corners(path, &[(x, y), left, above]);
                push_corners(path, &[(x, y), right, below]);
            }
            _ => {}
        }
    }
}

/// The empty frame of a character that no font has.
fn push_frame(path: &mut PathBuilder, left: f32, size: f32) {
    let corners = |inset: f32| {
        let (near, far, top, bottom) =
            (left + inset, left + size - inset, inset - 0.85 * size, 0.15 * size - inset);
        [(near, top), (far, top), (far, bottom), (near, bottom)]
    };
    push_corners(path, &corners(0.1 * size));
    // The other way round, so that it is a hole.
    let mut hole = corners(0.16 * size);
    hole.reverse();
    push_corners(path, &hole);
}

fn push_corners(path: &mut PathBuilder, corners: &[(f32, f32)]) {
    for (at, (x, y)) in corners.iter().enumerate() {
        if at == 0 { path.move_to(*x, *y) } else { path.line_to(*x, *y) }
    }
    path.close();
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
        self.path.cubic_to(left + x1 * unit, -y1 * unit, left + x2 * unit, -y2 * unit, left + x * unit, -y * unit);
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

/// Colours row by row as a PNG file.
pub fn image(columns: usize, colors: &[Color]) -> Vec<u8> {
    let rgb: Vec<u8> = colors.iter().flat_map(|Color(red, green, blue)| [*red, *green, *blue]).collect();
    encode(columns as u32, (colors.len() / columns.max(1)) as u32, &rgb)
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
    push_chunk(&mut file, *b"IDAT", &miniz_oxide::deflate::compress_to_vec_zlib(&rows, LEVEL));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn scene() -> Scene {
        let mut scene = Scene::new(200.0, 100.0);
        let corner = Point::new(10.0, 20.0);
        scene.items.push(Item::Rectangle { corner, width: 30.0, height: 10.0, fill: Color(255, 0, 0) });
        let dashed = Stroke { dash: Some([4.0, 3.0]), ..Stroke::new(Color(0, 114, 178), 2.0) };
        scene.line(vec![Point::new(5.0, 90.0), Point::new(90.0, 40.0), Point::new(190.0, 95.0)], dashed);
        let center = Point::new(150.0, 30.0);
        let ring = Some(Stroke::new(Color(0, 0, 255), 2.0));
        scene.items.push(Item::Circle { center, radius: 10.0, fill: Some(Color(0, 255, 0)), stroke: ring });
        let points = vec![Point::new(100.0, 10.0), Point::new(110.0, 30.0), Point::new(90.0, 30.0)];
        scene.items.push(Item::Polygon { points, fill: Color::BLACK });
        scene.text(Text::new(10.0, 60.0, 14.0, "Añ 知乎 𠀀").bold());
        scene.text(Text::new(180.0, 60.0, 14.0, "词表 8x7B").upwards().anchored(Anchor::Middle));
        scene
    }

    fn pixels(file: &[u8]) -> Vec<u8> {
        let start = file.windows(4).position(|window| window == b"IDAT").unwrap();
        let length = u32::from_be_bytes(file[start - 4..start].try_into().unwrap()) as usize;
        let rows = miniz_oxide::inflate::decompress_to_vec_zlib(&file[start + 4..start + 4 + length]).unwrap();
        rows.chunks(1 + 3 * 400).flat_map(|row| row[1..].to_vec()).collect()
    }

    fn pixels_of(scene: &Scene) -> Vec<u8> {
        pixels(&write(scene).unwrap())
    }

    #[test]
    fn shapes_are_where_they_belong() {
        let pixels = pixels_of(&scene());
        assert_eq!(pixels.len(), 400 * 200 * 3);
        let at = |x: usize, y: usize| &pixels[3 * (400 * 2 * y + 2 * x)..][..3];
        assert_eq!(at(0, 0), [255; 3]);
        assert_eq!(at(25, 25), [255, 0, 0]);
        assert_eq!(at(150, 30), [0, 255, 0]);
        assert_eq!(at(140, 30), [0, 0, 255]);
        assert_eq!(at(100, 25), [0; 3]);
        // The text that reads upwards stands above and below its point, left of it.
        let dark = |xs: std::ops::Range<usize>, ys: std::ops::Range<usize>| {
            xs.flat_map(|x| ys.clone().map(move |y| (x, y))).filter(|(x, y)| at(*x, *y)[1] < 128).count()
        };
        assert!(dark(166..182, 25..58) > 20 && dark(166..182, 62..95) > 20);
        assert_eq!(dark(182..200, 0..80), 0);
        assert!(dark(10..90, 46..64) > 50);
    }

    /// The same bytes on every machine. A new version of a library or font may give others: look at a picture then.
    #[test]
    fn every_machine_paints_the_same() {
        let digest = blake3::hash(&write(&scene()).unwrap()).to_string();
        assert_eq!(digest, "fd3315cfbe162f5379ffa2d57e1afbb862107fa5173574fc641274788f277b69");
    }

    #[test]
    fn pixels_of_an_image_keep_their_edges() {
        let mut scene = Scene::new(200.0, 100.0);
        let pixels = [0, 50, 100, 150, 200, 250].map(Color::grey).to_vec();
        scene.items.push(Item::Image {
            corner: Point::new(10.0, 20.0),
            width: 30.0,
            height: 40.0,
            columns: 3,
            pixels,
        });
        // What reaches beyond the page is cut off.
        let pixels = vec![Color::BLACK];
        scene.items.push(Item::Image {
            corner: Point::new(190.0, 90.0),
            width: 30.0,
            height: 40.0,
            columns: 1,
            pixels,
        });
        let pixels = pixels_of(&scene);
        let at = |x: usize, y: usize| pixels[3 * (400 * y + x)];
        assert_eq!([at(19, 40), at(20, 40), at(39, 79), at(40, 79), at(79, 79)], [255, 0, 0, 50, 100]);
        assert_eq!([at(20, 80), at(79, 119), at(80, 119), at(79, 120)], [150, 250, 255, 255]);
        assert_eq!([at(379, 199), at(380, 180), at(399, 199), at(0, 180)], [255, 0, 0, 255]);
    }

    #[test]
    fn a_scene_without_area_is_an_error() {
        assert!(write(&Scene::new(0.0, 10.0)).is_err());
    }
}
