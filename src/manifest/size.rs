//! Amounts of memory as people write them: `2 GiB`, `512 MiB`, `1.5 GB`, or bytes as an integer.

use super::value::{Content, Located};
use crate::error::Result;

const UNITS: [(&str, f64); 9] = [
    ("B", 1.0),
    ("KB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("TB", 1e12),
    ("KiB", 1024.0),
    ("MiB", 1048576.0),
    ("GiB", 1073741824.0),
    ("TiB", 1099511627776.0),
];

/// Reads an amount of memory; the result is in bytes.
pub fn parse_size(value: &Located) -> Result<u64> {
    let bytes = match &value.content {
        Content::Integer(bytes) => u64::try_from(*bytes).ok(),
        Content::String(text) => parse(text),
        _ => return Err(value.wrong_type("`memory`", "a size such as \"2 GiB\"")),
    };
    bytes.ok_or_else(|| {
        value
            .error("`memory` is not a size", "a number and a unit are expected")
            .hint("write \"512 MiB\", \"2 GiB\" or a number of bytes")
    })
}

fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let unit = text[digits..].trim();
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
    Some((number * factor) as u64)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes() {
        assert_eq!(parse("2 GiB"), Some(2 << 30));
        assert_eq!(parse("1.5GB"), Some(1_500_000_000));
        assert_eq!(parse("17 B"), Some(17));
        for wrong in ["", "GiB", "2", "2 gib", "-1 GiB", "2 GiB or so"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
