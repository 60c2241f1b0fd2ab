//! SentencePiece and HF tokenizers: encoding, BPE training, ALP, merging vocabularies.

mod added;
pub mod allocation;
pub mod alp;
mod bpe;
mod charsmap;
pub mod efficiency;
mod export;
pub mod extend;
mod huggingface;
pub mod knee;
mod normalizer;
mod pair_map;
pub(crate) mod proto;
mod sample;
mod scripts;
mod sentencepiece;
mod spans;
pub mod trainer;
mod unigram;
mod usage;
mod user_defined;
mod vocab_file;
mod vocabulary;

use std::path::{Path, PathBuf};

use huggingface::HuggingFace;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use unigram::Unigram;
use usage::Usage;
use vocabulary::{Vocabulary, named};

use crate::corpus::SpecialTokens;
use crate::error::{Context, Error, Result};
use crate::files;

pub use added::Added;
pub use knee::{Knee, knee};
pub use normalizer::Normalizer;
pub use proto::ModelProto;
use proto::{Piece, PieceKind};
pub use sample::Sample;
pub use scripts::Scripts;
pub use sentencepiece::SentencePiece;

/// A tokenizer of either family. Encoding and decoding fail for a `tokenizer.json` only, and only where the library that
/// runs it does: what a file plainly cannot do is found when it is opened.
pub struct Tokenizer(Family);

/// Whose ids a `tokenizer.model` gives. The programs that read it agree on most texts; where they do not, and why,
/// stands in `docs/formats.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Encoder {
    /// SentencePiece's; a `tokenizer.json`, which is no such model, gives those of the `tokenizers` library.
    Native,
    /// Those of the fast tokenizer that transformers 4 makes of the file (`legacy = True`, `add_prefix_space = True`).
    #[serde(rename = "transformers-4")]
    Transformers4,
    /// Those of the tokenizer that transformers 5 makes of the file (`legacy = True`).
    #[serde(rename = "transformers-5")]
    Transformers5,
}

enum Family {
    SentencePiece(Box<SentencePiece>),
    Unigram(Box<Unigram>),
    HuggingFace(Box<HuggingFace>),
}

/// What a tokenizer is as long as nothing is encoded.
enum View<'a> {
    Model(&'a Vocabulary),
    Json(&'a HuggingFace),
}

impl Tokenizer {
    /// `path`: a `tokenizer.model`, a `tokenizer.json`, or a folder that holds one. In a folder `tokenizer.model` comes
    /// first; a model that cannot be encoded with (of words, of characters) gives way to the `tokenizer.json` beside it,
    /// and any other `*.model` is taken last.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.is_dir() {
            return Self::open_file(path);
        }
        let (model, json) = (path.join("tokenizer.model"), path.join("tokenizer.json"));
        if model.is_file() {
            let opened = Self::open_file(&model);
            return if opened.is_err() && json.is_file() { Self::open_file(&json) } else { opened };
        }
        if json.is_file() {
            return Self::open_file(&json);
        }
        match &models(path)?[..] {
            [model] => Self::open_file(model),
            [] => Err(Error::invalid(format!("{} holds no tokenizer.model and no tokenizer.json", path.display()))),
            [first, second, ..] => Err(Error::invalid(format!("{} holds several models", path.display()))
                .hint(format!("name one of them: {} or {}", first.display(), second.display()))),
        }
    }

    /// As [`Self::open`], with the ids of `encoder`. One other than [`Encoder::Native`] needs a `tokenizer.model`: a
    /// `tokenizer.json` says itself how it encodes.
    pub fn open_as(path: &Path, encoder: Encoder) -> Result<Self> {
        let tokenizer = Self::open(path)?;
        let conversion = match encoder {
            Encoder::Native => return Ok(tokenizer),
            Encoder::Transformers4 => export::transformers_4,
            Encoder::Transformers5 => export::transformers_5,
        };
        let model = match &tokenizer.0 {
            Family::SentencePiece(model) => model,
            Family::Unigram(_) => {
                return Err(Error::invalid(format!("{} is a Unigram model, and no BPE one", path.display()))
                    .hint("leave `encoder` out; the other encoders say how a BPE model is converted"));
            }
            Family::HuggingFace(_) => {
                let message = format!("{} is a tokenizer.json, which says itself how it encodes", path.display());
                return Err(Error::invalid(message)
                    .hint("leave `encoder` out; the other encoders say how a tokenizer.model is converted"));
            }
        };
        let json = conversion(model).ok_or_else(|| {
            Error::invalid(format!("{} makes texts ready in a way that transformers cannot", path.display()))
                .hint("leave `encoder` out")
        })?;
        let converted = HuggingFace::converted(&json, model.vocabulary())?;
        Ok(Self(Family::HuggingFace(Box::new(converted))))
    }

    fn open_file(path: &Path) -> Result<Self> {
        let is_json = path.extension().is_some_and(|extension| extension == "json");
        Ok(Self(if is_json {
            Family::HuggingFace(Box::new(HuggingFace::open(path)?))
        } else {
            let model = ModelProto::read(path)?;
            let usage = Usage::beside(path, &model)?;
            if model.trainer()?.is_unigram() {
                Family::Unigram(Box::new(named(path, Unigram::new(model))?.with_usage(usage)))
            } else {
                Family::SentencePiece(Box::new(named(path, SentencePiece::new(model))?.with_usage(usage)))
            }
        }))
    }

    /// The SentencePiece BPE model within, if it is one.
    pub fn sentencepiece(&self) -> Option<&SentencePiece> {
        match &self.0 {
            Family::SentencePiece(tokenizer) => Some(tokenizer),
            Family::Unigram(_) | Family::HuggingFace(_) => None,
        }
    }

    fn view(&self) -> View<'_> {
        match &self.0 {
            Family::SentencePiece(tokenizer) => View::Model(tokenizer.vocabulary()),
            Family::Unigram(tokenizer) => View::Model(tokenizer.vocabulary()),
            Family::HuggingFace(tokenizer) => View::Json(tokenizer),
        }
    }

    /// The ids of `text`, with SentencePiece's dummy prefix where the model has one, and without beginning or end
    /// tokens.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        self.encode_into(text, &mut ids)?;
        Ok(ids)
    }

    /// Appends what [`Self::encode`] gives.
    pub fn encode_into(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        match &self.0 {
            Family::SentencePiece(tokenizer) => {
                tokenizer.encode_into(text, ids);
                Ok(())
            }
            Family::Unigram(tokenizer) => {
                tokenizer.encode_into(text, ids);
                Ok(())
            }
            Family::HuggingFace(tokenizer) => tokenizer.encode_into(text, ids),
        }
    }

    /// Appends the ids of `text` with merges left out at random (BPE-dropout): `drops` is asked at every merge whose turn
    /// it is. Fails for what is no SentencePiece BPE model.
    pub fn sample_into(&self, text: &str, drops: &mut dyn FnMut() -> bool, ids: &mut Vec<u32>) -> Result<()> {
        let Some(tokenizer) = self.sentencepiece() else { return Err(self.no_dropout()) };
        tokenizer.sample_into(text, drops, ids);
        Ok(())
    }

    /// The error for a tokenizer that merges nothing, or whose merges are another program's.
    pub fn no_dropout(&self) -> Error {
        let what = match &self.0 {
            Family::SentencePiece(_) => "a SentencePiece BPE model",
            Family::Unigram(_) => "a Unigram model, which merges nothing",
            Family::HuggingFace(_) => "run by the `tokenizers` library, whose dropout is another one",
        };
        Error::invalid(format!("BPE-dropout needs a SentencePiece BPE model, and the tokenizer is {what}"))
            .hint("give a BPE `tokenizer.model` with `encoder = \"native\"`, or leave `bpe_dropout` out")
    }

    /// The text of `ids`, without control tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        match self.view() {
            View::Model(vocabulary) => Ok(vocabulary.decode(ids)),
            View::Json(tokenizer) => tokenizer.decode(ids),
        }
    }

    /// The number of ids, which is the number of embedding rows needed; added tokens count.
    pub fn vocab_size(&self) -> usize {
        match self.view() {
            View::Model(vocabulary) => vocabulary.model().pieces.len(),
            View::Json(tokenizer) => tokenizer.pieces().len(),
        }
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        match self.view() {
            View::Model(vocabulary) => vocabulary.bos(),
            View::Json(tokenizer) => tokenizer.bos(),
        }
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        match self.view() {
            View::Model(vocabulary) => vocabulary.eos(),
            View::Json(tokenizer) => tokenizer.eos(),
        }
    }

    /// The token of what the vocabulary does not have.
    pub fn unk(&self) -> Option<u32> {
        match self.view() {
            View::Model(vocabulary) => Some(vocabulary.unknown()),
            View::Json(tokenizer) => tokenizer.unknown(),
        }
    }

    /// The token that fills up a batch, where one is named.
    pub fn pad(&self) -> Option<u32> {
        match self.view() {
            View::Model(vocabulary) => vocabulary.pad(),
            View::Json(tokenizer) => tokenizer.pad(),
        }
    }

    /// The texts of the tokens that a chat template can name.
    pub fn special_tokens(&self) -> SpecialTokens {
        let text = |id: Option<u32>| Some(self.piece(id?)?.to_owned());
        SpecialTokens { bos: text(self.bos()), eos: text(self.eos()), pad: text(self.pad()), unk: text(self.unk()) }
    }

    /// The text of a piece as the model has it (`▁the`, `<0x0A>`).
    pub fn piece(&self, id: u32) -> Option<&str> {
        match self.view() {
            View::Model(vocabulary) => vocabulary.model().pieces.get(id as usize).map(Piece::text),
            View::Json(tokenizer) => tokenizer.pieces().get(id as usize)?.as_deref(),
        }
    }

    /// Whether a token stands for bytes and not for characters: a piece of byte fallback, or one of a byte-level
    /// vocabulary that holds no whole characters.
    pub fn is_bytes(&self, id: u32) -> bool {
        match self.view() {
            View::Model(vocabulary) => {
                vocabulary.model().pieces.get(id as usize).is_some_and(|piece| piece.kind() == PieceKind::Byte)
            }
            View::Json(tokenizer) => tokenizer.is_bytes(id),
        }
    }

    /// Writes `tokenizer.model`, `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`, those that
    /// apply, into `folder`, which exists.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let vocabulary = match self.view() {
            View::Model(vocabulary) => vocabulary,
            View::Json(tokenizer) => return tokenizer.save(folder),
        };
        vocabulary.model().write(&folder.join("tokenizer.model"))?;
        let companions = [
            ("tokenizer.json", self.sentencepiece().and_then(export::tokenizer_json)),
            ("tokenizer_config.json", Some(export::tokenizer_config(vocabulary))),
            ("special_tokens_map.json", Some(export::special_tokens_map(vocabulary))),
        ];
        for (name, value) in companions {
            let Some(value) = value else { continue };
            let path = folder.join(name);
            let text = format!("{value:#}\n");
            files::write_atomic(&path, text.as_bytes()).context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

/// The chat template of the tokenizer at `path`, a file or a folder: `chat_template.jinja` there, or what
/// `tokenizer_config.json` says, and where that names several the one for dialogues, `default`.
pub fn chat_template(path: &Path) -> Result<Option<String>> {
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    let (own, config) = (folder.join("chat_template.jinja"), folder.join(usage::CONFIG));
    if own.is_file() {
        return std::fs::read_to_string(&own).map(Some).context(|| format!("cannot read {}", own.display()));
    }
    if !config.is_file() {
        return Ok(None);
    }
    let template = usage::read(&config)?["chat_template"].take();
    let default = |named: &serde_json::Value| named["name"] == "default";
    let template = match template.as_array() {
        Some(several) => several.iter().find(|named| default(named)).map(|named| &named["template"]),
        None => Some(&template),
    };
    Ok(template.and_then(serde_json::Value::as_str).map(str::to_owned))
}

impl From<SentencePiece> for Tokenizer {
    fn from(tokenizer: SentencePiece) -> Self {
        Self(Family::SentencePiece(Box::new(tokenizer)))
    }
}

/// The `*.model` files of a folder, by name.
fn models(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).context(|| format!("cannot read the folder {}", folder.display()))?;
    let mut models = Vec::new();
    for entry in entries {
        let path = entry.context(|| format!("cannot read the folder {}", folder.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "model") {
            models.push(path);
        }
    }
    models.sort();
    Ok(models)
}
