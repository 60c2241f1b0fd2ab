//! `cmx tokenizers`: what tokenizers make of the same text, side by side.

use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;

use indicatif::{HumanBytes, HumanCount, ProgressBar};
use serde_json::{Value, json};

use super::{Surroundings, print_json};
use crate::corpus::{TEXT_ENDINGS, files_below, texts_in};
use crate::error::{Error, Result, nearest};
use crate::evaluation::table::{Column, ColumnGroup, Table};
use crate::plan::registry;
use crate::runner::display::{count, counted};
use crate::tokenizer::Tokenizer;
use crate::tokenizer::efficiency::{self, Size, Tokens};

/// Compare how many tokens tokenizers need for the same text
///
/// Every document is encoded as a whole, as the kind `encode` does it, without the tokens that begin and end it.
/// `saved` is the share of the first tokenizer's tokens that another one does without. `bytes` is the share of tokens
/// that stand for bytes: those of byte fallback (`<0x0A>`), and in a byte-level vocabulary those that hold no whole
/// characters. `unknown` is the share of the token for what a vocabulary does not have; SentencePiece makes one of a
/// run of unknown characters.
#[derive(clap::Args)]
pub struct Args {
    /// Each a tokenizer.model (BPE or Unigram), a tokenizer.json, or a folder that holds one
    #[arg(required = true, value_name = "TOKENIZER")]
    tokenizers: Vec<PathBuf>,

    /// Text to encode: files and folders of *.jsonl, *.parquet and *.txt, `dataset:NAME` or `dataset:NAME/SPLIT` for the
    /// files of a dataset in datasets.toml; each is counted for itself
    #[arg(long, required = true, num_args = 1.., value_name = "CORPUS")]
    on: Vec<String>,

    /// The field of JSON lines, and column of Parquet files, that holds the text
    #[arg(long, value_name = "NAME", default_value = "text")]
    text_field: String,

    /// Encode the first N documents of each corpus only
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Texts are handed over in heaps of about so many bytes.
const HEAP: usize = 4 << 20;

/// As wide as a table is to be.
const WIDTH: usize = 100;

/// A corpus, and what the tokenizers made of it, in their order.
struct Measured {
    name: String,
    size: Size,
    tokens: Vec<Tokens>,
}

/// What a table and JSON say of a tokenizer on a corpus. Where there is nothing to divide by, nothing is said.
struct Figures {
    tokens: Tokens,
    tokens_per_character: Option<f64>,
    characters_per_token: Option<f64>,
    bytes_per_token: Option<f64>,
    /// Of all tokens.
    byte_token_share: Option<f64>,
    unknown_token_share: Option<f64>,
    /// Of the tokens of the first tokenizer.
    saved: Option<f64>,
}

impl Args {
    pub fn run(self, surroundings: &Surroundings) -> Result<()> {
        let names: Vec<String> = self.tokenizers.iter().map(|path| path.display().to_string()).collect();
        let tokenizers: Vec<Tokenizer> =
            self.tokenizers.iter().map(|path| open(&surroundings.located(path))).collect::<Result<_>>()?;
        let corpora: Vec<Vec<PathBuf>> =
            self.on.iter().map(|corpus| files(corpus, surroundings)).collect::<Result<_>>()?;

        let mut measured = Vec::new();
        for (name, files) in self.on.iter().zip(&corpora) {
            measured.push(self.measure(name, files, &tokenizers)?);
        }
        let all = Measured::all(&measured, tokenizers.len());
        if self.json {
            let vocabularies = names.iter().zip(&tokenizers);
            let vocabularies: Vec<Value> = vocabularies
                .map(|(name, tokenizer)| json!({"name": name, "vocabulary": tokenizer.vocab_size()}))
                .collect();
            let corpora: Vec<Value> = measured.iter().map(|corpus| corpus.json(&names)).collect();
            return print_json(
                &json!({"tokenizers": vocabularies, "corpora": corpora, "in_all": all.json(&names)}),
            );
        }
        if measured.len() > 1 {
            measured.push(all);
        }
        print!("{}", table(&names, &tokenizers, &measured).to_text(WIDTH));
        Ok(())
    }

    /// Reads the files on one thread and encodes what was read on all others.
    fn measure(&self, name: &str, files: &[PathBuf], tokenizers: &[Tokenizer]) -> Result<Measured> {
        let mut measured = Measured {
            name: name.to_owned(),
            size: Size::default(),
            tokens: vec![Tokens::default(); tokenizers.len()],
        };
        // Draws on a terminal only.
        let progress = ProgressBar::new_spinner();
        let (heaps, received) = sync_channel::<Vec<String>>(1);
        std::thread::scope(|scope| {
            let reading = scope.spawn(move || self.read(files, |heap| heaps.send(heap).is_ok()));
            for heap in received {
                let counted = efficiency::count(tokenizers, &heap)?;
                measured.tokens.iter_mut().zip(counted).for_each(|(all, own)| all.add(own));
                heap.iter().for_each(|text| measured.size.add(Size::of(text)));
                let Size { documents, bytes, .. } = measured.size;
                progress.set_message(format!("{name}: {} documents, {}", HumanCount(documents), HumanBytes(bytes)));
                progress.tick();
            }
            reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        progress.finish_and_clear();
        if measured.size.documents == 0 {
            return Err(Error::invalid(format!("{name} holds no documents")));
        }
        Ok(measured)
    }

    /// Hands the texts of `files` to `each` in heaps, as long as it wants more.
    fn read(&self, files: &[PathBuf], mut each: impl FnMut(Vec<String>) -> bool) -> Result<()> {
        let (mut heap, mut bytes, mut left) = (Vec::new(), 0, self.limit.unwrap_or(u64::MAX));
        for file in files {
            let mut wanted = true;
            texts_in(file, &self.text_field, |text| {
                bytes += text.len();
                left -= 1;
                heap.push(text);
                if bytes >= HEAP {
                    bytes = 0;
                    wanted = each(std::mem::take(&mut heap));
                }
                wanted &= left > 0;
                Ok(wanted)
            })?;
            if !wanted {
                break;
            }
        }
        if !heap.is_empty() {
            each(heap);
        }
        Ok(())
    }
}

fn open(path: &Path) -> Result<Tokenizer> {
    if !path.exists() {
        return Err(Error::invalid(format!("there is no tokenizer {}", path.display())).hint(
            "name a tokenizer.model, a tokenizer.json, or a folder that holds one, for example outputs/vocab",
        ));
    }
    Tokenizer::open(path)
}

/// The files of a corpus as it was written on the command line, in the order of their paths.
fn files(corpus: &str, surroundings: &Surroundings) -> Result<Vec<PathBuf>> {
    let path = match corpus.strip_prefix("dataset:") {
        None => surroundings.located(Path::new(corpus)),
        Some(name) => {
            let (name, split) = name.split_once('/').map_or((name, None), |(name, split)| (name, Some(split)));
            let registry = registry(&surroundings.workspace()?)?;
            let entry = registry.get(name).ok_or_else(|| {
                let error = Error::invalid(format!("datasets.toml has no dataset `{name}`"));
                match nearest(name, registry.names()) {
                    Some(near) => error.hint(format!("did you mean `{near}`?")),
                    None => error,
                }
            })?;
            match split {
                None => entry.root.clone(),
                Some(split) => match entry.doc.get(split) {
                    Some(doc) => entry.root.join(format!("{doc}.jsonl")),
                    None => {
                        let message = format!("the dataset `{name}` has no split `{split}`");
                        return Err(
                            Error::invalid(message).hint(format!("its splits are: {}", entry.splits.join(", ")))
                        );
                    }
                },
            }
        }
    };
    if path.is_dir() {
        let mut files = Vec::new();
        for ending in TEXT_ENDINGS {
            files.extend(files_below(&path, ending)?);
        }
        files.sort();
        if files.is_empty() {
            let endings = TEXT_ENDINGS.map(|ending| format!("*.{ending}")).join(", ");
            return Err(Error::invalid(format!("{corpus} holds no file of text ({endings})")));
        }
        return Ok(files);
    }
    if !path.exists() {
        return Err(Error::invalid(format!("there is no file or folder {}", path.display()))
            .hint("`--on` takes files and folders, and `dataset:NAME` for a dataset of datasets.toml"));
    }
    Ok(vec![path])
}

impl Measured {
    fn all(corpora: &[Measured], tokenizers: usize) -> Self {
        let mut all =
            Self { name: "in all".to_owned(), size: Size::default(), tokens: vec![Tokens::default(); tokenizers] };
        for corpus in corpora {
            all.size.add(corpus.size);
            all.tokens.iter_mut().zip(&corpus.tokens).for_each(|(all, own)| all.add(*own));
        }
        all
    }

    fn figures(&self) -> Vec<Figures> {
        let ratio = |of: u64, to: u64| (to > 0).then(|| of as f64 / to as f64);
        let Size { bytes, characters, .. } = self.size;
        let first = self.tokens.first().map_or(0, |first| first.tokens);
        let figures = self.tokens.iter().map(|own| Figures {
            tokens: *own,
            tokens_per_character: ratio(own.tokens, characters),
            characters_per_token: ratio(characters, own.tokens),
            bytes_per_token: ratio(bytes, own.tokens),
            byte_token_share: ratio(own.bytes, own.tokens),
            unknown_token_share: ratio(own.unknown, own.tokens),
            saved: ratio(own.tokens, first).map(|share| 1.0 - share),
        });
        figures.collect()
    }

    fn json(&self, names: &[String]) -> Value {
        let of_one = |(name, own): (&String, Figures)| {
            json!({
                "tokenizer": name,
                "tokens": own.tokens.tokens,
                "byte_tokens": own.tokens.bytes,
                "unknown_tokens": own.tokens.unknown,
                "tokens_per_character": own.tokens_per_character,
                "characters_per_token": own.characters_per_token,
                "bytes_per_token": own.bytes_per_token,
                "byte_token_share": own.byte_token_share,
                "unknown_token_share": own.unknown_token_share,
                "saved": own.saved,
            })
        };
        json!({
            "name": self.name,
            "documents": self.size.documents,
            "bytes": self.size.bytes,
            "characters": self.size.characters,
            "tokenizers": names.iter().zip(self.figures()).map(of_one).collect::<Vec<_>>(),
        })
    }

    fn columns(&self) -> ColumnGroup {
        let figures = self.figures();
        let column = |heading: &str, cell: &dyn Fn(&Figures) -> Option<String>| Column {
            heading: heading.to_owned(),
            cells: figures.iter().map(|own| cell(own).unwrap_or_else(|| "–".to_owned())).collect(),
        };
        let number = |value: Option<f64>| value.map(|value| format!("{value:.3}"));
        let share = |value: Option<f64>| value.map(small_share);
        let mut columns = vec![column("tokens", &|own| Some(count(own.tokens.tokens)))];
        if figures.len() > 1 {
            let mut saved = column("saved", &|own| own.saved.map(|share| format!("{:.1} %", 100.0 * share)));
            saved.cells[0].clear();
            columns.push(saved);
        }
        columns.extend([
            column("tokens/char", &|own| number(own.tokens_per_character)),
            column("chars/token", &|own| number(own.characters_per_token)),
            column("bytes/token", &|own| number(own.bytes_per_token)),
            column("bytes", &|own| share(own.byte_token_share)),
            column("unknown", &|own| share(own.unknown_token_share)),
        ]);
        let Size { documents, characters, .. } = self.size;
        let title =
            format!("{}: {}, {}", self.name, counted(documents, "document"), counted(characters, "character"));
        ColumnGroup { title, columns }
    }
}

fn table(names: &[String], tokenizers: &[Tokenizer], corpora: &[Measured]) -> Table {
    let sizes = tokenizers.iter().map(|tokenizer| count(tokenizer.vocab_size() as u64)).collect();
    let vocabulary = Column { heading: "vocabulary".to_owned(), cells: sizes };
    let mut groups = vec![ColumnGroup { title: String::new(), columns: vec![vocabulary] }];
    groups.extend(corpora.iter().map(Measured::columns));
    Table { corner: "tokenizer".to_owned(), groups, labels: short(names) }
}

/// Paths without the folder that all of them lie in.
fn short(names: &[String]) -> Vec<String> {
    let folder = |name: &String| Path::new(name).parent().map(Path::to_owned).unwrap_or_default();
    let mut common = names.first().map(folder).unwrap_or_default();
    while !names.iter().all(|name| folder(name).starts_with(&common)) {
        common.pop();
    }
    let rest = |name: &String| Path::new(name).strip_prefix(&common).map(|rest| rest.display().to_string());
    names.iter().map(|name| rest(name).unwrap_or_else(|_| name.clone())).collect()
}

/// `0 %` is none at all.
fn small_share(share: f64) -> String {
    match 100.0 * share {
        0.0 => "0 %".to_owned(),
        percent if percent < 0.01 => "<0.01 %".to_owned(),
        percent => format!("{percent:.2} %"),
    }
}
