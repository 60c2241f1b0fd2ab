//! The `.vocab` file that `spm_train` puts beside a model: a piece, a tab and its score a line, for people and programs
//! that want no protocol buffer.

use std::fmt::Write;
use std::path::Path;

use super::proto::ModelProto;
use crate::error::{Context, Result};
use crate::files;

impl ModelProto {
    /// The text of the model's `.vocab` file, byte for byte as `spm_train` writes it.
    pub fn vocab_text(&self) -> String {
        let mut text = String::new();
        for piece in &self.pieces {
            let _ = writeln!(text, "{}\t{}", piece.text(), general(piece.score()));
        }
        text
    }

    /// Writes the model's `.vocab` file.
    pub fn write_vocab(&self, path: &Path) -> Result<()> {
        files::write_atomic(path, self.vocab_text().as_bytes())
            .context(|| format!("cannot write {}", path.display()))
    }
}

/// A number as C++ streams write it by default, which is C's `%g`: six significant digits, without zeros at the end.
fn general(value: f32) -> String {
    const DIGITS: i32 = 6;
    if !value.is_finite() {
        return if value.is_nan() { "nan".to_owned() } else { format!("{value}") };
    }
    let scientific = format!("{:.*e}", DIGITS as usize - 1, value);
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let shortened = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if (-4..DIGITS).contains(&exponent) {
        shortened(&format!("{value:.*}", (DIGITS - 1 - exponent) as usize))
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{}e{sign}{:02}", shortened(digits), exponent.abs())
    }
}

#[cfg(test)]
mod tests {
    use super::super::proto::{Piece, PieceKind};
    use super::*;

    /// What `printf "%g"` gives for the same numbers.
    #[test]
    fn numbers_are_written_as_in_cpp() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (-1.0, "-1"),
            (-40_741.0, "-40741"),
            (-999_999.0, "-999999"),
            (-1_000_000.0, "-1e+06"),
            (-1_234_567.0, "-1.23457e+06"),
            (-2.153_87, "-2.15387"),
            (-13.361_9, "-13.3619"),
            (-10.5, "-10.5"),
            (1e-4, "0.0001"),
            (1.5e-5, "1.5e-05"),
            (1e10, "1e+10"),
            (f32::NEG_INFINITY, "-inf"),
            (f32::NAN, "nan"),
        ] {
            assert_eq!(general(value), text);
        }
    }

    #[test]
    fn a_piece_a_line() {
        let pieces = [
            ("<unk>", 0.0, PieceKind::Unknown),
            ("春天", -0.0, PieceKind::Normal),
            ("▁a", -12.0, PieceKind::Normal),
        ];
        let pieces = pieces.map(|(text, score, kind)| Piece::new(text, score, kind)).to_vec();
        let model = ModelProto { pieces, ..ModelProto::default() };
        assert_eq!(model.vocab_text(), "<unk>\t0\n春天\t-0\n▁a\t-12\n");
    }
}
