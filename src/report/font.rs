//! The letters of pictures, from fonts in the program itself, so that a picture is the same on every machine.
//!
//! Latin, Greek and Cyrillic are Noto Sans, which are outlines. All other scripts are GNU Unifont, a bitmap of 8 or 16
//! by 16 dots a character; it is drawn with dots of whole pixels, so that it stays sharp. `NOTICE` names their licences.

use std::sync::LazyLock;

use ttf_parser::{Face, GlyphId};

use super::scene::{SCALE, Weight};

/// What stands for a character, with its lengths in units of the scene.
pub enum Glyph {
    Outline {
        face: &'static Face<'static>,
        id: GlyphId,
        /// Of a unit of the font.
        unit: f32,
    },
    Bitmap {
        glyph: &'static unifont::Glyph,
        /// Side of a dot.
        dot: f32,
    },
    /// No font has it.
    Missing { size: f32 },
}

/// How far a bitmap's dots reach below the baseline.
pub const BITMAP_DESCENT: usize = 2;

/// Regular and bold.
static FACES: LazyLock<Option<[Face<'static>; 2]>> = LazyLock::new(|| {
    let parse = |bytes| Face::parse(bytes, 0).ok();
    Some([parse(notosans::REGULAR_TTF)?, parse(notosans::BOLD_TTF)?])
});

impl Glyph {
    pub fn of(c: char, size: f32, weight: Weight) -> Self {
        let face = FACES.as_ref().map(|[regular, bold]| if weight == Weight::Bold { bold } else { regular });
        if let Some(face) = face
            && let Some(id) = face.glyph_index(c)
        {
            return Self::Outline { face, id, unit: size / f32::from(face.units_per_em()) };
        }
        // Noto's letters are a little larger in their square than the dots of Unifont in theirs.
        let pixels = (size * SCALE as f32 * 1.05 / 16.0).round().max(1.0);
        match unifont::get_glyph(c) {
            Some(glyph) => Self::Bitmap { glyph, dot: pixels / SCALE as f32 },
            None => Self::Missing { size },
        }
    }

    /// How far the next character stands from this one.
    pub fn advance(&self) -> f32 {
        match self {
            Self::Outline { face, id, unit } => f32::from(face.glyph_hor_advance(*id).unwrap_or(0)) * unit,
            Self::Bitmap { glyph, dot } => glyph.get_width() as f32 * dot,
            Self::Missing { size } => *size,
        }
    }
}

/// The width of a text, in units of the scene.
pub fn width(text: &str, size: f32, weight: Weight) -> f32 {
    text.chars().map(|c| Glyph::of(c, size, weight).advance()).sum()
}

/// The text, cut and with an ellipsis where it is wider than `room`.
pub fn fitted(text: &str, size: f32, weight: Weight, room: f32) -> String {
    if width(text, size, weight) <= room {
        return text.to_owned();
    }
    let mut left = room - width("…", size, weight);
    let kept = text.char_indices().take_while(|(_, c)| {
        left -= Glyph::of(*c, size, weight).advance();
        left >= 0.0
    });
    let end = kept.last().map_or(0, |(at, c)| at + c.len_utf8());
    format!("{}…", text[..end].trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_has_letters() {
        for c in "Aaé5,−…βЖ".chars() {
            assert!(matches!(Glyph::of(c, 14.0, Weight::Bold), Glyph::Outline { .. }), "{c}");
        }
        for c in "中国。，龘の한".chars() {
            assert!(matches!(Glyph::of(c, 14.0, Weight::Regular), Glyph::Bitmap { .. }), "{c}");
            // Whole pixels.
            assert_eq!(Glyph::of(c, 14.0, Weight::Regular).advance(), 16.0, "{c}");
        }
        assert!(matches!(Glyph::of('𠀀', 14.0, Weight::Regular), Glyph::Missing { .. }));
    }

    #[test]
    fn texts_are_cut_to_fit() {
        let text = "知乎问答 and its answers";
        assert_eq!(fitted(text, 14.0, Weight::Regular, 1000.0), text);
        let cut = fitted(text, 14.0, Weight::Regular, 90.0);
        assert!(cut.ends_with('…') && text.starts_with(cut.trim_end_matches('…')), "{cut}");
        assert!(width(&cut, 14.0, Weight::Regular) <= 90.0);
        assert_eq!(fitted(text, 14.0, Weight::Regular, 1.0), "…");
    }
}
