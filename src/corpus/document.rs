//! Documents: the text of a JSONL line or of a whole `.txt` file.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::in_order::in_order;
use super::scan::{Text, has_string_field, string_field};
use super::{Batch, Batches, bad_line, parquet};
use crate::error::{Context, Error, Result};

/// One document of a corpus.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    pub text: String,
    /// Index of its file among those that were asked for.
    pub file: usize,
    /// Its line, counted from 1; 1 for a `.txt` file.
    pub line: u64,
}

/// Lines are read in batches of so many bytes.
const BATCH: usize = 1 << 20;

/// Streams the documents of `*.jsonl` files (the string `text` of each line) and `*.txt` files (the whole file) in
/// order. A line that is not valid UTF-8 or JSON, or whose `text` is missing or no string, is an error that names
/// file and line; the iteration ends with it.
pub fn documents(files: &[PathBuf]) -> impl Iterator<Item = Result<Document>> {
    documents_in(files, "text")
}

/// The endings of files that [`texts_in`] reads.
pub const TEXT_ENDINGS: [&str; 3] = ["jsonl", "parquet", "txt"];

/// Hands the texts of a file of any form to `each`, as long as it wants more: the string `field` of each line or row, or
/// a whole `.txt` file.
pub fn texts_in(path: &Path, field: &str, mut each: impl FnMut(String) -> Result<bool>) -> Result<()> {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("parquet") => parquet::each_text(path, field, |text| each(text.to_owned())),
        Some("jsonl" | "txt") => {
            for document in documents_in(&[path.to_owned()], field) {
                if !each(document?.text)? {
                    break;
                }
            }
            Ok(())
        }
        _ => Err(Error::invalid(format!("{} is no file of text", path.display()))
            .hint("documents are files *.jsonl, *.parquet or *.txt")),
    }
}

fn documents_in<'a>(files: &'a [PathBuf], field: &'a str) -> impl Iterator<Item = Result<Document>> + 'a {
    let mut failed = false;
    files
        .iter()
        .enumerate()
        .flat_map(move |(file, path)| -> Box<dyn Iterator<Item = Result<Document>> + 'a> {
            if is_text(path) {
                return Box::new(std::iter::once(whole_file(file, path)));
            }
            let batches = Batches::new(std::slice::from_ref(path), BATCH);
            Box::new(batches.flat_map(move |batch| match batch {
                Err(error) => vec![Err(error)],
                Ok(batch) => {
                    let mut buffer = String::new();
                    let document = |line: &super::Line| {
                        let text = text_of(batch.bytes_of(line), field, &mut buffer)
                            .map_err(|fault| bad_line(path, line.number, &fault))?;
                        Ok(Document { text: text.to_owned(), file, line: line.number })
                    };
                    batch.lines().iter().map(document).collect()
                }
            }))
        })
        .take_while(move |document| {
            let go_on = !failed;
            failed |= document.is_err();
            go_on
        })
}

/// Calls `each` with the text of every document that [`documents`] gives, in order, one at a time; `threads` threads
/// read and parse side by side.
pub fn each_text<'f>(
    files: &'f [PathBuf],
    threads: usize,
    mut each: impl FnMut(&str) -> Result<()> + Send,
) -> Result<()> {
    #[derive(Default)]
    struct Item<'a> {
        /// The file whose lines are in `batch`.
        path: Option<&'a Path>,
        batch: Batch,
        texts: String,
        ends: Vec<usize>,
    }
    let mut files = files.iter().enumerate();
    let mut open: Option<(&'f Path, Batches)> = None;
    let take = |item: &mut Item<'f>| {
        item.path = None;
        item.texts.clear();
        item.ends.clear();
        loop {
            if let Some((path, batches)) = &mut open
                && batches.read_into(&mut item.batch)?
            {
                item.path = Some(path);
                return Ok(true);
            }
            open = None;
            let Some((number, path)) = files.next() else { return Ok(false) };
            if is_text(path) {
                item.texts = whole_file(number, path)?.text;
                item.ends.push(item.texts.len());
                return Ok(true);
            }
            open = Some((path, Batches::new(std::slice::from_ref(path), BATCH)));
        }
    };
    let work = |item: &mut Item<'f>| {
        let Some(path) = item.path else { return Ok(()) };
        let mut buffer = String::new();
        for line in item.batch.lines() {
            let text = text_of(item.batch.bytes_of(line), "text", &mut buffer)
                .map_err(|fault| bad_line(path, line.number, &fault))?;
            item.texts.push_str(text);
            item.ends.push(item.texts.len());
        }
        Ok(())
    };
    let put = |item: &mut Item<'f>| {
        let mut start = 0;
        for &end in &item.ends {
            each(&item.texts[start..end])?;
            start = end;
        }
        Ok(())
    };
    in_order(threads, take, work, put)
}

fn is_text(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "txt")
}

fn whole_file(file: usize, path: &Path) -> Result<Document> {
    let bytes = std::fs::read(path).context(|| format!("cannot read {}", path.display()))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Document { text, file, line: 1 }),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let line = memchr::memchr_iter(b'\n', &error.as_bytes()[..valid]).count() as u64 + 1;
            Err(Error::invalid(format!("{}, line {line}: not valid UTF-8", path.display())))
        }
    }
}

/// Why a line is no document.
#[derive(Debug, PartialEq)]
pub enum Fault {
    Empty,
    ByteOrderMark,
    /// The byte, from 1, at which the line stops being UTF-8.
    Utf8(usize),
    Json(String),
    NotAnObject(&'static str),
    Missing(String),
    NotAString(String, &'static str),
    /// What is wrong with a dialogue, in words.
    Dialogue(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Empty => f.write_str("not valid JSON: the line is empty"),
            Fault::ByteOrderMark => f.write_str("not valid JSON: the line begins with a byte-order mark"),
            Fault::Utf8(byte) => write!(f, "not valid UTF-8 at byte {byte}"),
            Fault::Json(message) => write!(f, "not valid JSON: {message}"),
            Fault::NotAnObject(found) => write!(f, "{found} where an object was expected"),
            Fault::Missing(field) => write!(f, "the object has no field `{field}`"),
            Fault::NotAString(field, found) => write!(f, "`{field}` is {found}, not a string"),
            Fault::Dialogue(message) => f.write_str(message),
        }
    }
}

/// The string `field` of the JSON object on `line`: where it stands there, or in `buffer` if it holds escapes. The
/// whole line is checked: UTF-8 and JSON syntax. Of a field that comes twice the last counts, as in Python.
pub fn text_of<'a>(line: &'a [u8], field: &str, buffer: &'a mut String) -> Result<&'a str, Fault> {
    text_in(utf8(line)?, field, buffer)
}

fn utf8(line: &[u8]) -> Result<&str, Fault> {
    simdutf8::basic::from_utf8(line).map_err(|_| {
        let valid = simdutf8::compat::from_utf8(line).map_or_else(|error| error.valid_up_to(), str::len);
        Fault::Utf8(valid + 1)
    })
}

/// A line that may be JSON: it is UTF-8, and something stands on it.
pub(super) fn beginning(line: &[u8]) -> Result<&str, Fault> {
    let line = utf8(line)?;
    not_empty(line).map(|()| line)
}

fn not_empty(line: &str) -> Result<(), Fault> {
    if line.trim_ascii().is_empty() {
        return Err(Fault::Empty);
    }
    if line.starts_with('\u{feff}') { Err(Fault::ByteOrderMark) } else { Ok(()) }
}

/// [`text_of`] of a line that is known to be UTF-8.
pub fn text_in<'a>(line: &'a str, field: &str, buffer: &'a mut String) -> Result<&'a str, Fault> {
    match string_field(line, field, buffer) {
        Some(Text::Plain(text)) => Ok(text),
        Some(Text::Unescaped) => Ok(buffer),
        None => judged(line, field, buffer),
    }
}

/// Whether [`text_in`] finds a text, for less.
pub fn check(line: &str, field: &str) -> Result<(), Fault> {
    if has_string_field(line, field) { Ok(()) } else { judged(line, field, &mut String::new()).map(drop) }
}

/// What serde_json finds on a line, or why it does not.
pub(super) fn judged<'a>(line: &'a str, field: &str, buffer: &'a mut String) -> Result<&'a str, Fault> {
    not_empty(line)?;
    let mut json = serde_json::Deserializer::from_str(line);
    let node = Any { field: Some(field) }.deserialize(&mut json).map_err(syntax)?;
    json.end().map_err(syntax)?;
    match node {
        Node::Object(Some(value)) => match *value {
            Node::Text(Cow::Borrowed(text)) => Ok(text),
            Node::Text(Cow::Owned(text)) => {
                *buffer = text;
                Ok(buffer)
            }
            Node::Object(_) => Err(Fault::NotAString(field.to_owned(), "an object")),
            Node::Other(kind) => Err(Fault::NotAString(field.to_owned(), kind)),
        },
        Node::Object(None) => Err(Fault::Missing(field.to_owned())),
        Node::Text(_) => Err(Fault::NotAnObject("a string")),
        Node::Other(kind) => Err(Fault::NotAnObject(kind)),
    }
}

/// serde_json says `at line 1 column 7`; the line is ours to name.
pub(super) fn syntax(error: serde_json::Error) -> Fault {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((message, _)) => Fault::Json(format!("{message} at column {}", error.column())),
        None => Fault::Json(text),
    }
}

/// As much of a JSON value as matters here.
enum Node<'a> {
    Text(Cow<'a, str>),
    /// With the value of the field that is looked for, if there is one.
    Object(Option<Box<Node<'a>>>),
    /// Anything else, in words.
    Other(&'static str),
}

/// Any JSON value; of an object the value of `field` is kept and the rest only checked for syntax.
struct Any<'f> {
    field: Option<&'f str>,
}

impl<'de> DeserializeSeed<'de> for Any<'_> {
    type Value = Node<'de>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Node<'de>, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any<'_> {
    type Value = Node<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Node<'de>, E> {
        Ok(Node::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node<'de>, E> {
        Ok(Node::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Node<'de>, E> {
        Ok(Node::Other("null"))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node<'de>, E> {
        Ok(Node::Other("a boolean"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node<'de>, E> {
        Ok(Node::Other("a number"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node<'de>, E> {
        Ok(Node::Other("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node<'de>, E> {
        Ok(Node::Other("a number"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Node<'de>, A::Error> {
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Node::Other("an array"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node<'de>, A::Error> {
        let mut found = None;
        while let Some(wanted) = map.next_key_seed(Key(self.field))? {
            if wanted {
                found = Some(Box::new(map.next_value_seed(Any { field: None })?));
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Node::Object(found))
    }
}

/// Whether a key is the one that is looked for.
struct Key<'f>(Option<&'f str>);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string key")
    }

    fn visit_str<E>(self, key: &str) -> Result<bool, E> {
        Ok(self.0 == Some(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_line_or_what_is_wrong_with_it() {
        let mut buffer = String::new();
        let mut text = |line: &[u8], field: &str| text_of(line, field, &mut buffer).map(str::to_owned);
        assert_eq!(text(br#"{"a": [1, {}], "text": "plain"}"#, "text").unwrap(), "plain");
        assert_eq!(text(b"{\"text\": \"a\\u4e2d\\n\"}\r", "text").unwrap(), "a中\n");
        assert_eq!(text(br#"{"text": "first", "text": "\u006cast"}"#, "text").unwrap(), "last");
        assert_eq!(text(br#"{"text": 1, "content": "c"}"#, "content").unwrap(), "c");
        let mut fault = |line: &[u8]| text(line, "text").unwrap_err().to_string();
        assert_eq!(fault(b""), "not valid JSON: the line is empty");
        assert_eq!(fault(b"\xef\xbb\xbf{}"), "not valid JSON: the line begins with a byte-order mark");
        assert_eq!(fault(b"{\"text\": \"\xff\"}"), "not valid UTF-8 at byte 11");
        assert_eq!(fault(br#"{"text": "a""#), "not valid JSON: EOF while parsing an object at column 12");
        assert_eq!(fault(br#"{"text": "a"} x"#), "not valid JSON: trailing characters at column 15");
        assert_eq!(fault(br#"["a"]"#), "an array where an object was expected");
        assert_eq!(fault(br#"{"txt": "a"}"#), "the object has no field `text`");
        assert_eq!(fault(br#"{"text": null}"#), "`text` is null, not a string");
        assert_eq!(fault(br#"{"text": {"text": "a"}}"#), "`text` is an object, not a string");
    }

    #[test]
    fn documents_come_in_order_and_end_at_the_first_fault() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["a.txt", "b.jsonl", "c.jsonl"].map(|name| folder.path().join(name));
        std::fs::write(&paths[0], "one\ntwo\n").unwrap();
        std::fs::write(&paths[1], "{\"text\": \"three\"}\n{\"text\": 4}\n").unwrap();
        std::fs::write(&paths[2], "{\"text\": \"five\"}\n").unwrap();
        let found: Vec<_> = documents(&paths).collect();
        assert_eq!(found.len(), 3);
        let first = Document { text: "one\ntwo\n".into(), file: 0, line: 1 };
        assert_eq!(found[0].as_ref().unwrap(), &first);
        assert_eq!(found[1].as_ref().unwrap(), &Document { text: "three".into(), file: 1, line: 1 });
        let message = format!("{}, line 2: `text` is a number, not a string", paths[1].display());
        assert_eq!(found[2].as_ref().unwrap_err().message(), message);
    }
}
