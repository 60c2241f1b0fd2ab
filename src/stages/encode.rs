//! `encode`: documents → blocks of token ids, as the original's training script and `datasets` read them.

mod line;

use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Dataset, Fault, Input, Outlook, Prospect, Stage, Work};
use line::{Dropout, Encoded, Form, LineEncoder};

use crate::corpus::{
    Batch, Batches, BlockWriter, Blocks, Checkpoint, Layout, Line, Packer, Packing, Place, Recipe, Rules, Shards,
    Storage,
};
use crate::error::{Context, Error, Result};
use crate::events::Unit;
use crate::files;
use crate::tokenizer::{Encoder, Tokenizer, chat_template};

/// The split that is trained on: that which dropout is for.
const TRAIN: &str = "train";

/// Writes one `save_to_disk` folder per split.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Encode {
    /// Taken split; provided encoded.
    pub dataset: Dataset,
    /// `tokenizer.model`, `tokenizer.json`, or a folder with one.
    pub tokenizer: Input,
    /// Whose ids a `tokenizer.model` gives, where the programs that read it disagree.
    pub encoder: Encoder,
    /// Ids in a block.
    pub sequence_length: usize,
    /// What stands between documents, and where a stream of them is cut anew.
    pub recipe: Recipe,
    /// How documents share blocks.
    pub packing: Packing,
    /// Which columns the blocks are stored in.
    pub storage: Storage,
    /// Adds a column with each token's place in its document.
    pub position_ids: bool,
    /// Adds a column that says which of the block's documents a token belongs to.
    pub document_ids: bool,
    /// Bytes of column data in an Arrow file at most, and the most work that a kill costs.
    pub max_shard_bytes: u64,
    /// The field of a line that holds the document.
    pub text_field: String,
    /// The field that holds a list of messages, where documents are dialogues.
    pub messages_field: Option<String>,
    /// A Jinja template by which messages become a text; the tokenizer's own when left out.
    pub chat_template: Option<Input>,
    /// Which tokens are to be predicted.
    pub loss: Loss,
    /// The probability that a merge is left out, in the split `train`.
    pub bpe_dropout: f64,
    /// How often the split `train` is encoded, each time with other merges left out.
    pub passes: u64,
    /// Of the merges that are left out.
    pub seed: u64,
}

/// Which tokens are to be predicted.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// Every one, as the published run did.
    All,
    /// What the assistant says, the end of its turns included.
    Answers,
}

/// What a split came to.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Counted {
    documents: u64,
    bytes: u64,
    characters: u64,
    blocks: u64,
    /// Ids made, `<s>` and `</s>` among them.
    tokens: u64,
    /// Those of them that went into no block.
    dropped: u64,
    /// Ids that fill blocks up, not counted above.
    padding: u64,
    /// Tokens in blocks that are to be predicted.
    counted: u64,
}

/// How much of a split is in the scratch folder, written there beside its blocks whenever a shard is whole: what a
/// kill costs is the shard that was being written.
#[derive(Serialize, Deserialize)]
enum Kept {
    Part(Part),
    Whole { counted: Counted, shards: Shards },
}

/// The documents before `place`, as far as the shards and what the checkpoint carries over.
#[derive(Default, Serialize, Deserialize)]
struct Part {
    place: Place,
    counted: Counted,
    checkpoint: Checkpoint,
}

/// A file to encode, and how.
struct Task<'a> {
    layout: &'a Layout,
    rules: Rules,
    /// What its blocks are called between attempts.
    name: String,
    lines: LineEncoder<'a>,
}

/// In bytes.
#[derive(Clone, Copy)]
struct Sizes {
    /// Text encoded at a time. Three batches with their ids and one record batch are what memory is needed for.
    batch: usize,
    /// Text that a thread takes of it at a time.
    portion: usize,
}

const SIZES: Sizes = Sizes { batch: 4 << 20, portion: 64 << 10 };

impl Stage for Encode {
    const KIND: &'static str = "encode";
    const REVISION: u32 = 3;

    fn check(&self) -> Result<(), Fault> {
        if self.sequence_length == 0 {
            return Err(Fault::new("sequence_length", "`sequence_length` is 0: a block must hold a token"));
        }
        if self.max_shard_bytes == 0 {
            return Err(Fault::new("max_shard_bytes", "`max_shard_bytes` is 0: a shard must hold a block"));
        }
        if self.messages_field.is_none() {
            if self.loss == Loss::Answers {
                return Err(Fault::new("loss", "`loss` is \"answers\", and texts have none")
                    .hint("name the field of the messages, `messages_field`"));
            }
            if self.chat_template.is_some() {
                return Err(Fault::new(
                    "chat_template",
                    "`chat_template` is for messages, and documents are texts",
                )
                .hint("name the field of the messages, `messages_field`"));
            }
        }
        if !(0.0..1.0).contains(&self.bpe_dropout) {
            let message = format!("`bpe_dropout` is {}; it must be at least 0 and below 1", self.bpe_dropout);
            return Err(Fault::new("bpe_dropout", message));
        }
        if self.bpe_dropout > 0.0 && self.encoder != Encoder::Native {
            return Err(Fault::new("bpe_dropout", "`bpe_dropout` needs `encoder = \"native\"`")
                .hint("the `tokenizers` library, which the other encoders run on, drops merges in another way"));
        }
        if self.passes == 0 {
            return Err(Fault::new("passes", "`passes` is 0: the documents must be encoded once"));
        }
        if self.passes > 1 && self.bpe_dropout == 0.0 {
            return Err(Fault::new("passes", "`passes` without `bpe_dropout` would write the same blocks again")
                .hint("leave `passes` out, and train several `epochs`"));
        }
        Ok(())
    }

    fn prospect(&self, _: &dyn Outlook) -> Option<Prospect> {
        Some(Prospect::blocks(self.sequence_length))
    }

    fn run(&self, work: &mut Work) -> Result<()> {
        self.run_with(SIZES, work)
    }
}

fn not_split(name: &str) -> Error {
    Error::invalid(format!("the dataset `{name}` is not split into the files that its `doc` names"))
        .hint("add a split stage for it, or look at its `root` and `doc` in datasets.toml")
}

impl Encode {
    fn run_with(&self, sizes: Sizes, work: &Work) -> Result<()> {
        let Dataset { name, path, doc, encoded, .. } = &self.dataset;
        let tokenizer = Tokenizer::open_as(self.tokenizer.path(), self.encoder)?;
        let form = self.form(&tokenizer)?;
        if self.bpe_dropout > 0.0 && tokenizer.sentencepiece().is_none() {
            return Err(tokenizer.no_dropout());
        }
        let layout = Layout {
            storage: self.storage,
            vocab_size: tokenizer.vocab_size(),
            sequence_length: self.sequence_length,
            padded: self.packing != Packing::Stream,
            labels: self.loss == Loss::Answers,
            position_ids: self.position_ids,
            document_ids: self.document_ids,
            max_shard_bytes: self.max_shard_bytes,
        };
        // What goes around a dialogue is the template's business.
        let around = |id: Option<u32>| id.filter(|_| matches!(form, Form::Text(_)));
        let rules = Rules {
            recipe: self.recipe,
            packing: self.packing,
            length: self.sequence_length,
            bos: around(tokenizer.bos()),
            eos: around(tokenizer.eos()),
            pad: tokenizer.pad().or(tokenizer.eos()).or(tokenizer.unk()).unwrap_or(0),
        };
        let root = path.as_deref().ok_or_else(|| not_split(name))?;
        let mut done = Vec::new();
        for (split, file) in doc {
            let file = root.join(format!("{file}.jsonl"));
            if !file.is_file() {
                return Err(not_split(name));
            }
            let folder = encoded.get(split).ok_or_else(|| {
                Error::invalid(format!("the dataset `{name}` names no `encoded` folder for its split `{split}`"))
            })?;
            let folder = work.output().join(folder);
            let is_sampled = split == TRAIN && self.bpe_dropout > 0.0;
            let mut all_counted = Vec::new();
            for pass in 0..if is_sampled { self.passes } else { 1 } {
                let dropout = is_sampled.then(|| Dropout::new(self.bpe_dropout, self.seed, pass));
                let lines = LineEncoder {
                    tokenizer: &tokenizer,
                    file: &file,
                    form: &form,
                    answers: self.loss == Loss::Answers,
                    dropout,
                };
                let folder = Blocks::pass_folder(&folder, pass);
                let name = if pass == 0 { split.clone() } else { format!("{split}.pass-{}", pass + 1) };
                let task = Task { layout: &layout, rules, name: name.clone(), lines };
                let (counted, shards) = task.run(sizes, work)?;
                all_counted.push(counted);
                done.push((name, folder, shards));
            }
            let Some(counted) = all_counted.into_iter().min_by_key(|counted| counted.blocks) else { continue };
            self.report(work, split, &counted);
        }
        // Not before all are done: what lies in the output folder does not outlive a kill. What lies in the scratch
        // folder does, until the runner has published the output.
        for (name, folder, shards) in done {
            std::fs::create_dir(&folder).context(|| format!("cannot create {}", folder.display()))?;
            shards.publish(&layout, &kept_in(work, &name).0, &folder)?;
        }
        Ok(())
    }

    /// What a split came to; of several passes, that with the fewest blocks, which is how many of each are read.
    fn report(&self, work: &Work, split: &str, counted: &Counted) {
        let figures = [
            ("tokens", counted.tokens, true),
            ("documents", counted.documents, true),
            ("blocks", counted.blocks, true),
            ("bytes", counted.bytes, true),
            ("characters", counted.characters, true),
            ("dropped", counted.dropped, true),
            ("padding", counted.padding, self.packing != Packing::Stream),
            ("answers", counted.counted, self.loss == Loss::Answers),
        ];
        for (figure, value, _) in figures.into_iter().filter(|(.., wanted)| *wanted) {
            work.metric(format!("{figure}.{split}"), value);
        }
        let name = &self.dataset.name;
        if counted.blocks == 0 {
            work.warn(format!("the split `{split}` of `{name}` has no documents, and so no blocks"));
        } else if counted.counted == 0 {
            work.warn(format!("the split `{split}` of `{name}` has no answers: nothing in it is to be predicted"));
        }
    }

    /// How the documents are to be read.
    fn form(&self, tokenizer: &Tokenizer) -> Result<Form> {
        let Some(field) = &self.messages_field else {
            self.check_specials(tokenizer)?;
            return Ok(Form::Text(self.text_field.clone()));
        };
        let template = match &self.chat_template {
            Some(file) => {
                let path = file.path();
                Some(std::fs::read_to_string(path).context(|| format!("cannot read {}", path.display()))?)
            }
            None => chat_template(self.tokenizer.path())?,
        };
        let from = &self.tokenizer.from;
        let template = template.ok_or_else(|| {
            Error::invalid(format!("the tokenizer {from} has no chat template, and messages need one")).hint(
                "give a Jinja file, `chat_template`, or put one beside the tokenizer with an add-tokens stage",
            )
        })?;
        Form::dialogue(field, &template, tokenizer)
    }

    fn check_specials(&self, tokenizer: &Tokenizer) -> Result<()> {
        let (needed, has) = match self.recipe {
            Recipe::Clean => ("end-of-sequence", tokenizer.eos().is_some()),
            Recipe::AsPublished => ("beginning-of-sequence", tokenizer.bos().is_some()),
        };
        if has {
            return Ok(());
        }
        let from = &self.tokenizer.from;
        Err(Error::invalid(format!("the tokenizer {from} has no {needed} token to tell documents apart")))
    }
}

impl Task<'_> {
    /// Encodes a file's documents in parallel, batch by batch, while another thread packs them in order into shards
    /// in the scratch folder. Goes on where an earlier attempt finished its last shard.
    fn run(&self, sizes: Sizes, work: &Work) -> Result<(Counted, Shards)> {
        let Self { layout, rules, name, lines } = self;
        let (blocks, state) = kept_in(work, name);
        let kept = Kept::read(&state, &blocks);
        if kept.is_none() && state.exists() {
            work.warn(format!("what an earlier attempt left of `{name}` is damaged; it is encoded anew"));
        }
        let mut part = match kept {
            Some(Kept::Whole { counted, shards }) => return Ok((counted, shards)),
            Some(Kept::Part(part)) => {
                work.info(format!("going on with `{name}` after {} documents", part.counted.documents));
                part
            }
            None => {
                if state.exists() {
                    std::fs::remove_file(&state).context(|| format!("cannot remove {}", state.display()))?;
                }
                empty_folder(&blocks)?;
                Part::default()
            }
        };
        let size = std::fs::metadata(lines.file).map_or(0, |metadata| metadata.len());
        let progress = work.progress(format!("encoded {name}"), Some(size), Unit::Bytes);
        progress.set(part.place.offset);

        let checkpoint = std::mem::take(&mut part.checkpoint);
        let writer = BlockWriter::resume(&blocks, layout, checkpoint.shards.clone());
        let mut packer = Packer::new(writer, *rules).resume(checkpoint)?;
        let files = [lines.file.to_path_buf()];
        let batches = Batches::from(&files, sizes.batch, part.place)?;
        let encode = |batch: &Batch, portion: &[Line]| {
            let mut encoded = Encoded::default();
            let mut buffer = String::new();
            for line in portion {
                let bytes = batch.bytes_of(line);
                lines.encode(line, bytes, &mut buffer, &mut encoded)?;
                progress.add(bytes.len() as u64 + 1);
            }
            Ok(encoded)
        };

        let (sender, receiver) = sync_channel::<Vec<Encoded>>(1);
        let (mut counted, mut place) = (part.counted, part.place);
        let packed: Result<Packer> = std::thread::scope(|scope| {
            let packing = scope.spawn(|| {
                for Encoded { ids, counted: is_counted, documents } in receiver.into_iter().flatten() {
                    let mut start = 0;
                    for document in &documents {
                        let own = start..start + document.ids;
                        start = own.end;
                        counted.documents += 1;
                        counted.bytes += document.bytes as u64;
                        counted.characters += document.characters as u64;
                        place = place.after(document.line);
                        let is_counted = lines.answers.then(|| &is_counted[own.clone()]);
                        if let Some(checkpoint) = packer.push(&ids[own], is_counted)? {
                            Kept::Part(Part { place, counted, checkpoint }).write(&state)?;
                        }
                    }
                }
                Ok(packer)
            });
            let read = (|| -> Result<()> {
                for (index, batch) in batches.enumerate() {
                    // Not after the last: what is left to do then takes less time than to do it again.
                    if index > 0 {
                        work.check()?;
                    }
                    let batch = batch?;
                    let portions: Vec<&[Line]> = portions(&batch, sizes.portion);
                    let encoded: Vec<Result<Encoded>> =
                        portions.par_iter().map(|lines| encode(&batch, lines)).collect();
                    // The first failure of all, whichever thread was first.
                    if sender.send(encoded.into_iter().collect::<Result<_>>()?).is_err() {
                        break;
                    }
                }
                Ok(())
            })();
            drop(sender);
            let packed: Result<Packer> = packing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let packed = packed?;
            read.map(|()| packed)
        });
        let (shards, dropped) = packed?.finish()?;
        progress.finish();
        let written = shards.written();
        let counted = Counted {
            blocks: written.rows,
            tokens: written.tokens + dropped,
            dropped,
            padding: written.padding,
            counted: written.counted,
            ..counted
        };
        Kept::Whole { counted, shards: shards.clone() }.write(&state)?;
        Ok((counted, shards))
    }
}

/// Cuts a batch into runs of lines of about `size` bytes.
fn portions(batch: &Batch, size: usize) -> Vec<&[Line]> {
    let mut taken = 0;
    batch
        .lines()
        .chunk_by(|line, _| {
            taken += batch.bytes_of(line).len();
            let go_on = taken < size;
            if !go_on {
                taken = 0;
            }
            go_on
        })
        .collect()
}

/// Where a pass's blocks and its [`Kept`] lie between attempts.
fn kept_in(work: &Work, name: &str) -> (PathBuf, PathBuf) {
    (work.scratch().join(name), work.scratch().join(format!("{name}.json")))
}

fn empty_folder(folder: &Path) -> Result<()> {
    let cannot_empty = || format!("cannot empty {}", folder.display());
    if folder.exists() {
        std::fs::remove_dir_all(folder).context(cannot_empty)?;
    }
    std::fs::create_dir(folder).context(cannot_empty)
}

impl Kept {
    /// Nothing if there is no such file or the blocks are not what it says; the work begins anew then.
    fn read(state: &Path, blocks: &Path) -> Option<Self> {
        let kept: Self = serde_json::from_slice(&std::fs::read(state).ok()?).ok()?;
        let shards = match &kept {
            Self::Part(part) => &part.checkpoint.shards,
            Self::Whole { shards, .. } => shards,
        };
        shards.are_in(blocks).then_some(kept)
    }

    fn write(&self, state: &Path) -> Result<()> {
        let cannot_write = || format!("cannot write {}", state.display());
        let text = serde_json::to_vec(self).context(cannot_write)?;
        files::write_atomic(state, &text).context(cannot_write)
    }
}

#[cfg(test)]
mod tests;
