//! JSON scalars, byte for byte as Python's `json.dumps(value, ensure_ascii=False)` writes them.

use std::io::Write;

use super::escapes::Escapes;

/// A string: `"` and `\` and what stands below U+0020 are escaped, nothing else.
pub fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut escapes = Escapes::of(bytes);
    let mut plain = 0;
    while let Some(index) = escapes.next(plain) {
        let byte = bytes[index];
        out.extend_from_slice(&bytes[plain..index]);
        plain = index + 1;
        let short = match byte {
            b'"' => b'"',
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0c => b'f',
            _ => {
                out.extend_from_slice(b"\\u00");
                let digit = |value: u8| if value < 10 { b'0' + value } else { b'a' + value - 10 };
                out.extend_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', short]);
    }
    out.extend_from_slice(&bytes[plain..]);
    out.push(b'"');
}

/// A float as `repr` writes it: the shortest digits that read back as the same double, with an exponent below 1e-4
/// and from 1e16 on. NaN and the infinities, which JSON lacks, become `null`.
pub fn float(value: f64, out: &mut Vec<u8>) {
    if !value.is_finite() {
        out.extend_from_slice(b"null");
        return;
    }
    let start = out.len();
    // Writing to a vector cannot fail. Rust changes to exponents at the same magnitudes as Python …
    let _ = write!(out, "{value:?}");
    // … but writes 1e16 and 1e-5 where Python writes 1e+16 and 1e-05.
    if let Some(e) = out[start..].iter().position(|&byte| byte == b'e') {
        let exponent = out.split_off(start + e + 1);
        let (sign, digits) = match exponent.strip_prefix(b"-") {
            Some(digits) => (b'-', digits),
            None => (b'+', exponent.as_slice()),
        };
        out.push(sign);
        if digits.len() < 2 {
            out.push(b'0');
        }
        out.extend_from_slice(digits);
    }
}

/// An integer.
pub fn integer(value: impl std::fmt::Display, out: &mut Vec<u8>) {
    let _ = write!(out, "{value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The right side is Python's output.
    #[test]
    fn as_python_writes_them() {
        let written = |value: f64| {
            let mut out = Vec::new();
            float(value, &mut out);
            String::from_utf8(out).unwrap()
        };
        for (value, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (0.1f32.into(), "0.10000000149011612"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (1e15, "1000000000000000.0"),
            (9999999999999998.0, "9999999999999998.0"),
            (1e16, "1e+16"),
            (1e100, "1e+100"),
            (0.0001, "0.0001"),
            (0.00001234, "1.234e-05"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::NAN, "null"),
            (f64::NEG_INFINITY, "null"),
        ] {
            assert_eq!(written(value), expected);
        }
        let mut out = Vec::new();
        string("a\"\\/\u{0}\u{8}\t\n\u{c}\r\u{1f}\u{7f}中\u{2028}😀", &mut out);
        let expected = "\"a\\\"\\\\/\\u0000\\b\\t\\n\\f\\r\\u001f\u{7f}中\u{2028}😀\"";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
