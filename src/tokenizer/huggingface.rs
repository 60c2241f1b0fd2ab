//! Tokenizers that come as a `tokenizer.json`, run by the `tokenizers` crate.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokenizers::Tokenizer as Inner;

use super::added::{self, Added};
use super::proto::{Piece, PieceKind};
use super::usage::{CONFIG, token_name};
use super::vocabulary::Vocabulary;
use crate::error::{Context, Error, Result};
use crate::files;
use crate::guard::guarded;

/// A `tokenizer.json`, with the small files beside it that say which tokens are special.
pub struct HuggingFace {
    inner: Inner,
    /// What was opened, for errors.
    path: PathBuf,
    /// The files as they were found: name and content.
    files: Vec<(&'static str, Vec<u8>)>,
    /// By id; `None` where the ids have a hole.
    pieces: Vec<Option<String>>,
    /// By id: whether the piece stands for bytes and not for characters.
    bytes: Vec<bool>,
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    pad: Option<u32>,
}

/// The files beside `tokenizer.json` that name special tokens, the first one that does so first.
const COMPANIONS: [&str; 2] = [CONFIG, "special_tokens_map.json"];

/// Ids may have holes, and each stands for a row of the embeddings; a larger one is a mistake and no vocabulary.
const MOST_IDS: u32 = 1 << 22;

/// Characters of a text, or ids, that an error shows.
const SHOWN: usize = 40;

/// A text of letters, digits and signs of all widths, with a character that no vocabulary has.
const PROBE: &str = " The mill,  by\tthe river 12\n\u{1}é 水车、\u{2581}\u{1F600}\u{10FFFD}";

impl HuggingFace {
    /// `path` is the `tokenizer.json`; its companions are looked for in the same folder.
    pub fn open(path: &Path) -> Result<Self> {
        let mut files =
            vec![("tokenizer.json", std::fs::read(path).context(|| format!("cannot read {}", path.display()))?)];
        let folder = path.parent().unwrap_or(Path::new("."));
        for name in COMPANIONS {
            let companion = folder.join(name);
            if companion.is_file() {
                let bytes = std::fs::read(&companion).context(|| format!("cannot read {}", companion.display()))?;
                files.push((name, bytes));
            }
        }
        Self::of(files, path)
    }

    /// The tokenizer of these files, the first of which is the `tokenizer.json` at `path`.
    fn of(files: Vec<(&'static str, Vec<u8>)>, path: &Path) -> Result<Self> {
        let json = parse(&files[0].1, path)?;
        let inner = read(&files[0].1, &json, path)?;
        let companions = companions(&files, path)?;
        let special = |key: &str, usual: &[&str]| {
            let named = companions.iter().chain([&json["model"]]).find_map(|file| token_name(&file[key]));
            let names = named.as_deref().map_or(usual.to_vec(), |name| vec![name]);
            names.iter().find_map(|name| inner.token_to_id(name))
        };
        let pieces = pieces(&inner);
        Ok(Self {
            bos: special("bos_token", &["<s>", "<|begin_of_text|>", "<bos>"]),
            eos: special("eos_token", &["</s>", "<|end_of_text|>", "<eos>", "<|endoftext|>"]),
            unknown: special("unk_token", &["<unk>", "[UNK]"]),
            pad: special("pad_token", &[]),
            bytes: byte_pieces(&json, &pieces),
            pieces,
            inner,
            path: path.to_owned(),
            files,
        })
    }

    /// The `tokenizer.json` that another program would make of a model, with the model's special tokens.
    pub fn converted(json: &Value, vocabulary: &Vocabulary) -> Result<Self> {
        let text = json.to_string().into_bytes();
        let path = PathBuf::from("the converted tokenizer.json");
        let inner = read(&text, json, &path)?;
        let pieces = pieces(&inner);
        Ok(Self {
            bytes: byte_pieces(json, &pieces),
            pieces,
            inner,
            path,
            files: vec![("tokenizer.json", text)],
            bos: vocabulary.bos(),
            eos: vocabulary.eos(),
            unknown: Some(vocabulary.unknown()),
            pad: vocabulary.pad(),
        })
    }

    /// Fails for a text with a character that is not in the vocabulary if the model has nothing to put in its place,
    /// and where a step that the file describes fails for this text alone. Opening tries one text: it finds most files
    /// that do so, and cannot find all.
    pub fn encode_into(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let encoding = self.encoding(text, |inner| inner.encode_fast(text, false))?;
        ids.extend_from_slice(encoding.get_ids());
        Ok(())
    }

    /// The same, with the part of the text, in bytes, that each id stands for.
    pub fn encode_with_spans(&self, text: &str, ids: &mut Vec<u32>, spans: &mut Vec<Range<usize>>) -> Result<()> {
        let encoding = self.encoding(text, |inner| inner.encode(text, false))?;
        ids.extend_from_slice(encoding.get_ids());
        spans.extend(encoding.get_offsets().iter().map(|&(start, end)| start..end));
        Ok(())
    }

    fn encoding(
        &self,
        text: &str,
        encode: impl Fn(&Inner) -> tokenizers::Result<tokenizers::Encoding>,
    ) -> Result<tokenizers::Encoding> {
        let failed = || {
            let start: String = text.chars().take(SHOWN).collect();
            let more = if start.len() < text.len() { "…" } else { "" };
            Error::invalid(format!("{} cannot encode the text {start:?}{more}", self.path.display()))
        };
        guarded(|| encode(&self.inner))
            .map_err(|gave_up| failed().caused_by(gave_up))?
            .map_err(|error| failed().caused_by(error))
    }

    /// Fails where the decoder that the file describes does: some of its steps fail for some ids, and no text shows for
    /// which.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let failed = || {
            let (first, more) = (&ids[..ids.len().min(SHOWN)], if ids.len() > SHOWN { ", …" } else { "" });
            let shown: Vec<String> = first.iter().map(u32::to_string).collect();
            Error::invalid(format!("{} cannot decode the ids {}{more}", self.path.display(), shown.join(", ")))
        };
        guarded(|| self.inner.decode(ids, true))
            .map_err(|gave_up| failed().caused_by(gave_up))?
            .map_err(|error| failed().caused_by(error))
    }

    pub fn pieces(&self) -> &[Option<String>] {
        &self.pieces
    }

    pub fn is_bytes(&self, id: u32) -> bool {
        self.bytes.get(id as usize).copied().unwrap_or(false)
    }

    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    pub fn pad(&self) -> Option<u32> {
        self.pad
    }

    pub fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    /// See [`super::Tokenizer::with`].
    pub fn with(&self, added: &Added) -> Result<Self> {
        let next = self.pieces.len() as u32;
        let mut json = parse(&self.files[0].1, &self.path)?;
        added::append_to_json(&mut json, added, next)?;
        let mut files = vec![("tokenizer.json", added::written(&json)?)];
        let mut companions: Vec<_> =
            self.files[1..].iter().map(|(name, _)| *name).zip(companions(&self.files, &self.path)?).collect();
        if !companions.iter().any(|(name, _)| *name == CONFIG) {
            companions.insert(0, (CONFIG, json!({"tokenizer_class": "PreTrainedTokenizerFast"})));
        }
        for (name, mut companion) in companions {
            let fields = companion.as_object_mut().ok_or_else(|| {
                Error::invalid(format!("{} is no object", self.path.with_file_name(name).display()))
            })?;
            added::append_to_companion(fields, name == CONFIG, added, next);
            files.push((name, format!("{companion:#}\n").into_bytes()));
        }
        let extended = Self::of(files, &self.path)?;
        // The library numbers added tokens itself.
        let moved =
            added.tokens.iter().zip(next..).find(|(token, id)| extended.inner.token_to_id(token) != Some(*id));
        match moved {
            None => Ok(extended),
            Some((token, id)) => {
                let message = format!("`{token}` would not get the id {id} in {}", self.path.display());
                Err(Error::invalid(message).hint("its ids have holes, which the `tokenizers` library fills"))
            }
        }
    }

    /// Writes the files as they were read.
    pub fn save(&self, folder: &Path) -> Result<()> {
        for (name, bytes) in &self.files {
            let path = folder.join(name);
            files::write_atomic(&path, bytes).context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

/// The error for a file that is no `tokenizer.json`.
fn not_a_tokenizer(path: &Path) -> Error {
    Error::invalid(format!("{} is not a tokenizer.json", path.display()))
}

/// The files beside the `tokenizer.json` at `path`.
fn companions(files: &[(&'static str, Vec<u8>)], path: &Path) -> Result<Vec<Value>> {
    let parsed = files[1..].iter().map(|(name, bytes)| {
        serde_json::from_slice(bytes).map_err(|error| {
            Error::invalid(format!("{} is not JSON", path.with_file_name(name).display())).caused_by(error)
        })
    });
    parsed.collect()
}

fn parse(text: &[u8], path: &Path) -> Result<Value> {
    serde_json::from_slice(text).map_err(|error| not_a_tokenizer(path).caused_by(error))
}

/// `json` is what `text` says; `path` is for errors only. The library asserts some of what it should check, so it is
/// guarded.
fn read(text: &[u8], json: &Value, path: &Path) -> Result<Inner> {
    let not_a_tokenizer = || not_a_tokenizer(path);
    let read = || {
        let mut inner = Inner::from_bytes(text)?;
        inner.with_padding(None);
        inner.with_truncation(None)?;
        Ok(inner)
    };
    if !charsmaps_are_whole(json) {
        return Err(not_a_tokenizer().caused_by(Error::invalid("its precompiled_charsmap is cut short")));
    }
    let inner = guarded(read)
        .map_err(|gave_up| not_a_tokenizer().caused_by(gave_up))?
        .map_err(|error: tokenizers::Error| not_a_tokenizer().caused_by(error))?;
    let largest = inner.get_vocab(true).into_values().max();
    if let Some(id) = largest.filter(|id| *id >= MOST_IDS) {
        let message = format!("{} has the id {id}, and ids are below {MOST_IDS}", path.display());
        return Err(Error::invalid(message));
    }
    // What encoding fails on most is a character that the model does not know.
    let cannot_encode = || Error::invalid(format!("{} cannot encode unknown characters", path.display()));
    guarded(|| inner.encode_fast(PROBE, false))
        .map_err(|gave_up| cannot_encode().caused_by(gave_up))?
        .map_err(|error| cannot_encode().caused_by(error))?;
    Ok(inner)
}

/// Whether each `precompiled_charsmap` below `json` has the bytes that it says it has in the first four of them. The
/// library reserves memory for up to 8 GiB before it looks.
fn charsmaps_are_whole(json: &Value) -> bool {
    let is_whole = |map: &str| {
        let digit = |character: u8| match character {
            b'A'..=b'Z' => u64::from(character - b'A'),
            b'a'..=b'z' => u64::from(character - b'a') + 26,
            b'0'..=b'9' => u64::from(character - b'0') + 52,
            b'+' => 62,
            _ => 63,
        };
        // Six digits of base64 have 36 bits, and the number begins with its lowest byte.
        let bits = map.bytes().take(6).fold(0, |bits, character| bits << 6 | digit(character));
        let size = u32::swap_bytes((bits >> 4) as u32);
        map.len() < 6 || u64::from(size) <= map.len() as u64 / 4 * 3
    };
    match json {
        Value::Array(values) => values.iter().all(charsmaps_are_whole),
        Value::Object(members) => members.iter().all(|(name, value)| match value {
            Value::String(map) if name == "precompiled_charsmap" => is_whole(map),
            value => charsmaps_are_whole(value),
        }),
        _ => true,
    }
}

fn pieces(inner: &Inner) -> Vec<Option<String>> {
    let mut pieces = Vec::new();
    for (piece, id) in inner.get_vocab(true) {
        let id = id as usize;
        if pieces.len() <= id {
            pieces.resize(id + 1, None);
        }
        pieces[id] = Some(piece);
    }
    pieces
}

/// By id: whether a piece stands for bytes and not for characters. With byte fallback those are `<0x00>` to `<0xFF>`; in
/// a byte-level vocabulary the pieces whose bytes are no whole characters.
fn byte_pieces(json: &Value, pieces: &[Option<String>]) -> Vec<bool> {
    let is_byte_level = ["pre_tokenizer", "decoder"].iter().any(|step| has_step(&json[step], "ByteLevel"));
    let has_fallback = json["model"]["byte_fallback"] == Value::Bool(true);
    let added: HashSet<&str> = json["added_tokens"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|token| token["content"].as_str())
        .collect();
    let visible = visible_bytes();
    let stands_for_bytes = |piece: &str| {
        if is_byte_level {
            let bytes: Option<Vec<u8>> = piece.chars().map(|c| visible.get(&c).copied()).collect();
            return bytes.is_some_and(|bytes| std::str::from_utf8(&bytes).is_err());
        }
        has_fallback && Piece::new(piece, 0.0, PieceKind::Byte).byte().is_some()
    };
    let of_piece = |piece: &str| !added.contains(piece) && stands_for_bytes(piece);
    pieces.iter().map(|piece| piece.as_deref().is_some_and(of_piece)).collect()
}

/// Whether a step of a `tokenizer.json`, or one of those that it is a sequence of, is of the kind named.
fn has_step(step: &Value, kind: &str) -> bool {
    let parts = ["pretokenizers", "decoders"].iter().filter_map(|name| step[name].as_array()).flatten();
    step["type"] == kind || parts.into_iter().any(|part| has_step(part, kind))
}

/// The characters by which byte-level vocabularies write bytes: printing ones of Latin-1 stand for themselves, all
/// others are written, in order, as the characters from U+0100 on.
fn visible_bytes() -> HashMap<char, u8> {
    let is_printing = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = '\u{100}'..;
    let written = |byte| if is_printing(byte) { Some(char::from(byte)) } else { others.next() };
    (0..=u8::MAX).map(written).zip(0..=u8::MAX).filter_map(|(c, byte)| Some((c?, byte))).collect()
}
