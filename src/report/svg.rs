//! A scene as SVG. Text stays text: it can be searched, read aloud, and is drawn in the viewer's own fonts.

use std::fmt::Write;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as STANDARD;

use super::png;
use super::scene::{Anchor, Color, Item, Point, Scene, Stroke, Text, Weight};

/// Those that look like the PNG's first, then what systems have for Chinese, Japanese and Korean.
const FONTS: &str = "'Noto Sans','Noto Sans SC','Noto Sans CJK SC','Source Han Sans SC','PingFang SC',\
                     'Microsoft YaHei','Hiragino Sans GB','WenQuanYi Micro Hei','Segoe UI','Helvetica Neue',Arial,sans-serif";

pub fn write(scene: &Scene) -> String {
    let (width, height) = (number(scene.width), number(scene.height));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\" aria-labelledby=\"title description\" \
         font-family=\"{FONTS}\">\n\
         <title id=\"title\">{}</title>\n<desc id=\"description\">{}</desc>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n",
        escaped(&scene.title),
        escaped(&scene.description),
    );
    for item in &scene.items {
        svg.push_str(&element(item));
        svg.push('\n');
    }
    svg.push_str("</svg>\n");
    svg
}

fn element(item: &Item) -> String {
    match item {
        Item::Line { points, stroke } => {
            format!(
                "<polyline points=\"{}\" fill=\"none\"{} stroke-linejoin=\"round\" stroke-linecap=\"round\"/>",
                list(points),
                stroked(stroke)
            )
        }
        Item::Polygon { points, fill } => {
            format!("<polygon points=\"{}\" fill=\"{}\"/>", list(points), color(*fill))
        }
        Item::Rectangle { corner, width, height, fill } => format!(
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\"/>",
            number(corner.x),
            number(corner.y),
            number(*width),
            number(*height),
            color(*fill)
        ),
        Item::Circle { center, radius, fill, stroke } => format!(
            "<circle cx=\"{}\" cy=\"{}\" r=\"{}\" fill=\"{}\"{}/>",
            number(center.x),
            number(center.y),
            number(*radius),
            fill.map_or_else(|| "none".to_owned(), color),
            stroke.as_ref().map(stroked).unwrap_or_default()
        ),
        Item::Image { corner, width, height, columns, pixels } => format!(
            "<image x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" preserveAspectRatio=\"none\" \
             image-rendering=\"pixelated\" href=\"data:image/png;base64,{}\"/>",
            number(corner.x),
            number(corner.y),
            number(*width),
            number(*height),
            STANDARD.encode(png::image(*columns, pixels))
        ),
        Item::Text(text) => text_element(text),
    }
}

fn text_element(text: &Text) -> String {
    let (x, y) = (number(text.at.x), number(text.at.y));
    let mut tag = format!("<text x=\"{x}\" y=\"{y}\" font-size=\"{}\"", number(text.size));
    let mut set = |attribute: &str| tag.push_str(attribute);
    match text.anchor {
        Anchor::Start => {}
        Anchor::Middle => set(" text-anchor=\"middle\""),
        Anchor::End => set(" text-anchor=\"end\""),
    }
    if text.weight == Weight::Bold {
        set(" font-weight=\"bold\"");
    }
    if text.upwards {
        set(&format!(" transform=\"rotate(-90 {x} {y})\""));
    }
    format!("{tag} fill=\"{}\">{}</text>", color(text.color), escaped(&text.text))
}

fn stroked(stroke: &Stroke) -> String {
    let mut text = format!(" stroke=\"{}\" stroke-width=\"{}\"", color(stroke.color), number(stroke.width));
    if let Some([dash, gap]) = stroke.dash {
        let _ = write!(text, " stroke-dasharray=\"{} {}\"", number(dash), number(gap));
    }
    text
}

fn list(points: &[Point]) -> String {
    let points: Vec<String> =
        points.iter().map(|point| format!("{},{}", number(point.x), number(point.y))).collect();
    points.join(" ")
}

fn color(Color(red, green, blue): Color) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

/// With at most two digits after the point: a hundredth of a pixel is not seen.
fn number(value: f32) -> String {
    let text = format!("{value:.2}");
    let short = text.trim_end_matches('0').trim_end_matches('.');
    if short == "-0" { "0".to_owned() } else { short.to_owned() }
}

/// Text as XML holds it; characters that it cannot hold at all become U+FFFD.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\0'..='\u{1F}' | '\u{7F}'..='\u{9F}' | '\u{FFFE}' | '\u{FFFF}' => out.push('\u{FFFD}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_numbers_are_short() {
        assert_eq!(escaped("a<b> & \"c\" 知乎\u{0}\u{8}"), "a&lt;b&gt; &amp; &quot;c&quot; 知乎\u{FFFD}\u{FFFD}");
        assert_eq!(
            [1.0, -0.001, 0.5, 12.345, -7.25].map(number),
            ["1", "0", "0.5", "12.35", "-7.25"].map(str::to_owned)
        );
    }

    #[test]
    fn a_picture_says_what_it_is() {
        let mut scene = Scene::new(100.0, 50.0);
        scene.title = "ALP <of> books".to_owned();
        scene.description = "It rises.".to_owned();
        scene.text(Text::new(1.0, 2.0, 14.0, "知乎").bold().upwards());
        let pixels = vec![Color::BLACK, Color::WHITE];
        scene.items.push(Item::Image { corner: Point::new(1.0, 2.0), width: 3.0, height: 4.0, columns: 1, pixels });
        let svg = write(&scene);
        let document = roxmltree::Document::parse(&svg).unwrap();
        let root = document.root_element();
        let text = |name: &str| root.children().find(|node| node.has_tag_name(name)).and_then(|node| node.text());
        assert_eq!(text("title"), Some("ALP <of> books"));
        assert_eq!(text("desc"), Some("It rises."));
        assert_eq!(text("text"), Some("知乎"));
        assert_eq!(root.attribute("aria-labelledby"), Some("title description"));
        assert_eq!(root.attribute("viewBox"), Some("0 0 100 50"));
        let image = root.children().find(|node| node.has_tag_name("image")).unwrap();
        let picture = image.attribute("href").unwrap().strip_prefix("data:image/png;base64,").unwrap();
        assert_eq!(STANDARD.decode(picture).unwrap(), png::image(1, &[Color::BLACK, Color::WHITE]));
    }
}
