//! One JSON line, checked from end to end and searched for a field, in one pass and without a parser's tree.

use super::escapes::Escapes;

/// Values inside one another that are followed here; what is nested deeper goes to serde_json.
const DEPTH: u32 = 64;

/// What stands behind a `\` → the character that is meant; 0 for `u` and for what may not stand there.
const ESCAPES: [u8; 256] = {
    let mut escapes = [0; 256];
    let pairs = *b"\"\"\\\\//b\x08f\x0cn\nr\rt\t";
    let mut index = 0;
    while index < pairs.len() {
        escapes[pairs[index] as usize] = pairs[index + 1];
        index += 2;
    }
    escapes
};

/// The string that was looked for.
#[derive(Debug, PartialEq)]
pub enum Text<'a> {
    /// As it stands on the line.
    Plain(&'a str),
    /// In the buffer: it holds escapes.
    Unescaped,
}

/// The string `field` of the object on `line`, unescaped in `buffer` if need be. `None` if there is no such string, if
/// the line is not JSON, or if it takes more care than most: a key with escapes, the field twice, deep nesting. Then
/// serde_json decides. What is found here, serde_json would find too.
pub fn string_field<'a>(line: &'a str, field: &str, buffer: &mut String) -> Option<Text<'a>> {
    find(line, field, |scan| scan.text(buffer))
}

/// Whether [`string_field`] finds something; surrogate pairs take more care, too.
pub fn has_string_field(line: &str, field: &str) -> bool {
    find(line, field, |scan| scan.string(|unit| !(0xd800..0xe000).contains(&unit))).is_some()
}

/// The value of `field`, as `read` reads it.
fn find<'a, T>(line: &'a str, field: &str, mut read: impl FnMut(&mut Scan<'a>) -> Option<T>) -> Option<T> {
    let mut scan = Scan { line, bytes: line.as_bytes(), escapes: Escapes::of(line.as_bytes()), at: 0 };
    let mut found = None;
    scan.expect(b'{')?;
    loop {
        if scan.key()? == field {
            if found.is_some() {
                return None;
            }
            found = Some(read(&mut scan)?);
        } else {
            scan.value(DEPTH)?;
        }
        if scan.closes(b'}')? {
            break;
        }
    }
    scan.space();
    if scan.at < line.len() { None } else { found }
}

/// A line and how far it was read. Every method reads one thing, with the space before it, or gives `None`.
struct Scan<'a> {
    line: &'a str,
    bytes: &'a [u8],
    escapes: Escapes<'a>,
    at: usize,
}

impl<'a> Scan<'a> {
    #[inline]
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline]
    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    #[inline]
    fn expect(&mut self, byte: u8) -> Option<()> {
        self.space();
        self.take(byte)
    }

    #[inline]
    fn take(&mut self, byte: u8) -> Option<()> {
        let found = self.peek()? == byte;
        self.at += usize::from(found);
        found.then_some(())
    }

    /// A comma, or what closes an object or an array.
    #[inline]
    fn closes(&mut self, close: u8) -> Option<bool> {
        self.space();
        let byte = self.peek()?;
        self.at += 1;
        if byte == close { Some(true) } else { (byte == b',').then_some(false) }
    }

    /// A key without escapes, and the colon behind it.
    fn key(&mut self) -> Option<&'a str> {
        self.expect(b'"')?;
        let start = self.at;
        self.at = self.escapes.next(start)?;
        let key = self.line.get(start..self.at)?;
        self.take(b'"')?;
        self.expect(b':')?;
        Some(key)
    }

    /// A string whose text matters.
    fn text(&mut self, buffer: &mut String) -> Option<Text<'a>> {
        self.expect(b'"')?;
        let start = self.at;
        self.at = self.escapes.next(start)?;
        if self.take(b'"').is_some() {
            return Some(Text::Plain(self.line.get(start..self.at - 1)?));
        }
        buffer.clear();
        buffer.reserve(self.line.len() - start);
        let mut plain = start;
        loop {
            buffer.push_str(self.line.get(plain..self.at)?);
            while self.take(b'\\').is_some() {
                buffer.push(self.escaped()?);
            }
            plain = self.at;
            self.at = self.escapes.next(plain)?;
            if self.take(b'"').is_some() {
                buffer.push_str(self.line.get(plain..self.at - 1)?);
                return Some(Text::Unescaped);
            }
            if self.peek()? != b'\\' {
                return None;
            }
        }
    }

    /// A string whose syntax matters, and in it the numbers that stand behind `\u`.
    #[inline]
    fn string(&mut self, is_good: impl Fn(u32) -> bool) -> Option<()> {
        self.expect(b'"')?;
        loop {
            self.at = self.escapes.next(self.at)?;
            if self.take(b'"').is_some() {
                return Some(());
            }
            self.take(b'\\')?;
            let escape = self.peek()?;
            self.at += 1;
            match ESCAPES[usize::from(escape)] {
                0 if escape == b'u' && is_good(self.unit()?) => {}
                0 => return None,
                _ => {}
            }
        }
    }

    /// The character that an escape stands for, behind its `\`; `None` for half of a surrogate pair too.
    #[inline]
    fn escaped(&mut self) -> Option<char> {
        let byte = self.peek()?;
        self.at += 1;
        match ESCAPES[usize::from(byte)] {
            0 if byte == b'u' => self.escaped_unit(),
            0 => None,
            // What the mask says, the table does too: it is one byte long.
            character => Some(char::from(character & 0x7f)),
        }
    }

    /// The character of `\u4e2d` or of a surrogate pair, behind the first `u`.
    fn escaped_unit(&mut self) -> Option<char> {
        let unit = self.unit()?;
        let Some(high) = unit.checked_sub(0xd800).filter(|high| *high < 0x400) else { return char::from_u32(unit) };
        self.take(b'\\')?;
        self.take(b'u')?;
        let low = self.unit()?.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
        char::from_u32(0x10000 + (high << 10) + low)
    }

    /// Four hexadecimal digits.
    #[inline]
    fn unit(&mut self) -> Option<u32> {
        let digits = self.bytes.get(self.at..self.at + 4)?;
        self.at += 4;
        digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)?))
    }

    /// A value that is checked for syntax only.
    fn value(&mut self, depth: u32) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        self.space();
        match self.peek()? {
            b'"' => self.skip_string(),
            b'{' => self.skip_object(depth),
            b'[' => self.skip_array(depth),
            b'-' | b'0'..=b'9' => self.skip_number(),
            b't' => self.skip_word(b"true"),
            b'f' => self.skip_word(b"false"),
            b'n' => self.skip_word(b"null"),
            _ => None,
        }
    }

    /// Any four digits are an escape here, half of a surrogate pair too, as for serde_json.
    fn skip_string(&mut self) -> Option<()> {
        self.string(|_| true)
    }

    fn skip_object(&mut self, depth: u32) -> Option<()> {
        self.take(b'{')?;
        self.space();
        if self.take(b'}').is_some() {
            return Some(());
        }
        loop {
            self.space();
            self.skip_string()?;
            self.expect(b':')?;
            self.value(depth)?;
            if self.closes(b'}')? {
                return Some(());
            }
        }
    }

    fn skip_array(&mut self, depth: u32) -> Option<()> {
        self.take(b'[')?;
        self.space();
        if self.take(b']').is_some() {
            return Some(());
        }
        loop {
            self.value(depth)?;
            if self.closes(b']')? {
                return Some(());
            }
        }
    }

    fn skip_number(&mut self) -> Option<()> {
        let _ = self.take(b'-');
        if self.take(b'0').is_none() {
            self.skip_digits()?;
        }
        if self.take(b'.').is_some() {
            self.skip_digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.skip_digits()?;
        }
        Some(())
    }

    /// At least one.
    fn skip_digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    fn skip_word(&mut self, word: &[u8]) -> Option<()> {
        let found = self.bytes[self.at..].starts_with(word);
        self.at += word.len();
        found.then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::document::judged;

    const LINES: [&str; 12] = [
        r#"{"text": "plain"}"#,
        r#"{"id": 17, "text": "a\"\\\/\b\f\n\r\tb\u4e2d\ud83d\ude00", "meta": {"a": [1, -0.5e+3, {}], "b": null}}"#,
        r#" { "a" : [ ] , "text" : "" , "b" : { "c" : [ [ true , false ] , "\ud800" ] } } "#,
        r#"{"text": "中文，和 English mixed\n", "score": 0.125, "n": -12E-7}"#,
        r#"{"text": "\u0041\u00e9\uD83D\uDE00\uffff", "text2": "text", "x": "\"text\": 1"}"#,
        r#"{"te\u0078t": "key with an escape"}"#,
        r#"{"text": "once", "text": "twice"}"#,
        r#"{"text": "half a pair \ud83d"}"#,
        r#"{"text": 5}"#,
        r#"{"no": "text"}"#,
        r#"{}"#,
        r#"["text", "a"]"#,
    ];

    /// Whether the scanner and serde_json find the same; that serde_json finds whatever the scanner finds.
    fn compare(line: &str) -> bool {
        let (mut ours, mut theirs) = (String::new(), String::new());
        let scanned = string_field(line, "text", &mut ours);
        if has_string_field(line, "text") {
            assert!(scanned.is_some(), "{line:?}");
        }
        let judged = judged(line, "text", &mut theirs);
        match scanned {
            Some(Text::Plain(text)) => assert_eq!(Ok(text), judged, "{line:?}"),
            Some(Text::Unescaped) => assert_eq!(Ok(ours.as_str()), judged, "{line:?}"),
            None => return judged.is_err(),
        }
        true
    }

    #[test]
    fn common_lines_are_decided_here() {
        let decided = LINES.map(|line| string_field(line, "text", &mut String::new()).is_some());
        assert_eq!(decided, [true, true, true, true, true, false, false, false, false, false, false, false]);
    }

    /// Lines with bytes changed, dropped, doubled and put in, and cut short: what is accepted here, serde_json
    /// accepts too, with the same text; and it accepts little else.
    #[test]
    fn accepts_nothing_that_serde_json_rejects() {
        const PIECES: [&str; 34] = [
            "\"",
            "\\",
            "/",
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            " ",
            "\t",
            "\r",
            "0",
            "00",
            "1",
            "-",
            "+",
            ".",
            "e",
            "E5",
            "u",
            "\\u",
            "\\u12",
            "\\ud800",
            "\\udc00",
            "true",
            "nul",
            "\u{1}",
            "\u{7f}",
            "中",
            "\"text\":",
            "\"a\":[1,2]",
            "{}",
            "\u{2028}",
        ];
        let mut random = 1u64;
        let mut below = |bound: usize| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) as usize % bound
        };
        let (mut accepted, mut differing) = (0, 0);
        for round in 0..200_000 {
            let mut line: Vec<char> = LINES[round % LINES.len()].chars().collect();
            for _ in 0..=below(3) {
                let at = below(line.len() + 1);
                let to = (at + below(3)).min(line.len());
                match below(5) {
                    0 => drop(line.drain(at..to)),
                    1 => drop(line.splice(at..at, PIECES[below(PIECES.len())].chars())),
                    2 => drop(line.splice(at..to, PIECES[below(PIECES.len())].chars())),
                    3 => line.extend_from_within(at..),
                    _ => line.truncate(at),
                }
            }
            let line: String = line.into_iter().collect();
            let same = compare(&line);
            accepted += u32::from(string_field(&line, "text", &mut String::new()).is_some());
            differing += u32::from(!same);
        }
        // Many of both kinds were seen; only a key with escapes and a field that comes twice are left to serde_json.
        assert!(accepted > 5_000, "{accepted}");
        assert!(differing < 5_000, "{differing}");
    }

    #[test]
    fn nesting_is_followed_only_so_far() {
        for depth in [1, 60, 63, 64, 65, 100, 20_000] {
            let line = format!("{{\"a\": {}{}, \"text\": \"t\"}}", "[".repeat(depth), "]".repeat(depth));
            assert_eq!(compare(&line), depth <= 64, "{depth}");
        }
    }
}
