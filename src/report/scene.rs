//! A picture as a list of shapes, each drawn over those before it.

/// How many pixels of the PNG stand for one unit of length.
pub const SCALE: u32 = 2;

/// A white page with shapes. Lengths are in units of which an SVG viewer makes pixels; y grows downwards.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    pub width: f32,
    pub height: f32,
    /// What the picture is, for those who cannot see it.
    pub title: String,
    /// What it shows, in a sentence or two.
    pub description: String,
    pub items: Vec<Item>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A line through the points, with round joins and ends.
    Line {
        points: Vec<Point>,
        stroke: Stroke,
    },
    Polygon {
        points: Vec<Point>,
        fill: Color,
    },
    Rectangle {
        corner: Point,
        width: f32,
        height: f32,
        fill: Color,
    },
    Circle {
        center: Point,
        radius: f32,
        fill: Option<Color>,
        stroke: Option<Stroke>,
    },
    /// A grid of pixels, each as wide and as high as the picture's room gives it; they keep their edges.
    Image {
        corner: Point,
        width: f32,
        height: f32,
        /// Pixels in a row.
        columns: usize,
        /// Row by row, from the top.
        pixels: Vec<Color>,
    },
    Text(Text),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    pub x: f32,
    pub y: f32,
}

/// Red, green, blue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Color(pub u8, pub u8, pub u8);

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stroke {
    pub color: Color,
    pub width: f32,
    /// Lengths of a dash and of the gap after it.
    pub dash: Option<[f32; 2]>,
}

/// One line of text.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    /// A point of its baseline.
    pub at: Point,
    pub anchor: Anchor,
    pub text: String,
    /// Of the font.
    pub size: f32,
    pub weight: Weight,
    pub color: Color,
    /// It reads upwards instead of to the right.
    pub upwards: bool,
}

/// Which part of a text stands at its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    Regular,
    Bold,
}

impl Scene {
    pub fn new(width: f32, height: f32) -> Self {
        Self { width, height, title: String::new(), description: String::new(), items: Vec::new() }
    }

    pub fn line(&mut self, points: Vec<Point>, stroke: Stroke) {
        self.items.push(Item::Line { points, stroke });
    }

    pub fn text(&mut self, text: Text) {
        self.items.push(Item::Text(text));
    }
}

impl Point {
    pub fn new(x: f32, y: f32) -> Self {
        Self { x, y }
    }
}

impl Color {
    pub const WHITE: Color = Color(255, 255, 255);
    pub const BLACK: Color = Color(0, 0, 0);

    pub const fn grey(light: u8) -> Self {
        Self(light, light, light)
    }
}

impl Stroke {
    pub fn new(color: Color, width: f32) -> Self {
        Self { color, width, dash: None }
    }
}

impl Text {
    /// Regular black text that begins at a point and reads to the right.
    pub fn new(x: f32, y: f32, size: f32, text: impl Into<String>) -> Self {
        Self {
            at: Point::new(x, y),
            anchor: Anchor::Start,
            text: text.into(),
            size,
            weight: Weight::Regular,
            color: Color::BLACK,
            upwards: false,
        }
    }

    pub fn anchored(self, anchor: Anchor) -> Self {
        Self { anchor, ..self }
    }

    pub fn colored(self, color: Color) -> Self {
        Self { color, ..self }
    }

    pub fn bold(self) -> Self {
        Self { weight: Weight::Bold, ..self }
    }

    pub fn upwards(self) -> Self {
        Self { upwards: true, ..self }
    }
}
