//! Checkpoints: the trained weights, the optimiser's moments, and the records, after a number of steps.
//!
//! ```text
//! checkpoints/step-00001000/state.safetensors   NAME, first.NAME, second.NAME of every trained weight
//!                           records.jsonl       the lines of metrics.jsonl so far
//!                           state.json          steps, identity of the run, digest of state.safetensors
//! ```
//! A folder is written under another name, made durable, and renamed: it is whole or not there.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::{AdamW, Records};
use crate::error::{Context, Error, Result};
use crate::files;
use crate::model::Parameter;
use crate::model::ops::{self, View};
use crate::weights::{Float, Shard, ShardWriter, Spec};

/// The checkpoints of one run, in a folder that survives it.
pub struct Checkpoints {
    folder: PathBuf,
    /// Says which run they belong to: everything that its course depends on.
    identity: String,
    /// How many are kept, the newest.
    keep: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    version: u32,
    step: u64,
    identity: String,
    digest: String,
}

const VERSION: u32 = 1;
const WEIGHTS: &str = "state.safetensors";
const RECORDS: &str = "records.jsonl";
const STATE: &str = "state.json";
const UNFINISHED: &str = ".unfinished";

impl Checkpoints {
    pub fn new(folder: PathBuf, identity: String, keep: usize) -> Result<Self> {
        fs::create_dir_all(&folder).context(|| format!("cannot create {}", folder.display()))?;
        Ok(Self { folder, identity, keep })
    }

    /// Saves the state after `step` steps, then removes checkpoints beyond the number to keep.
    pub fn save(&self, step: u64, parameters: &[&Parameter], optimiser: &AdamW, records: &Records) -> Result<()> {
        let target = self.folder.join(format!("step-{step:08}"));
        if target.exists() {
            return Ok(());
        }
        let unfinished = self.folder.join(UNFINISHED);
        self.write(&unfinished, step, parameters, optimiser, records)
            .and_then(|()| fs::rename(&unfinished, &target).context(|| "the rename failed".to_owned()))
            .and_then(|()| files::sync_folder(&self.folder).context(|| "the folder is not durable".to_owned()))
            .context(|| format!("cannot save the checkpoint {}", target.display()))?;
        let saved = self.list()?;
        for (_, old) in &saved[..saved.len().saturating_sub(self.keep.max(1))] {
            fs::remove_dir_all(old).context(|| format!("cannot remove {}", old.display()))?;
        }
        Ok(())
    }

    fn write(
        &self,
        folder: &Path,
        step: u64,
        parameters: &[&Parameter],
        optimiser: &AdamW,
        records: &Records,
    ) -> Result<()> {
        if folder.exists() {
            fs::remove_dir_all(folder).context(|| format!("cannot remove {}", folder.display()))?;
        }
        fs::create_dir(folder).context(|| format!("cannot create {}", folder.display()))?;
        let mut specs = BTreeMap::new();
        let mut sources = BTreeMap::new();
        for (index, parameter) in parameters.iter().enumerate() {
            for kind in Kind::ALL {
                let name = kind.name(&parameter.name);
                specs.insert(name.clone(), Spec::new(Dtype::F32, parameter.value.dims()));
                sources.insert(name, (kind, index));
            }
        }
        let path = folder.join(WEIGHTS);
        let mut writer = ShardWriter::create(&path, &specs)?;
        for name in ShardWriter::order(&specs) {
            let (kind, index) = sources[name];
            writer.begin(name)?;
            let bytes = match kind {
                Kind::Value => Float::F32.narrow(&View::of(&parameters[index].value)?),
                Kind::First => Float::F32.narrow(&optimiser.first[index]),
                Kind::Second => Float::F32.narrow(&optimiser.second[index]),
            };
            writer.write(&bytes)?;
        }
        writer.finish()?;
        let state = State { version: VERSION, step, identity: self.identity.clone(), digest: digest(&path)? };
        let state = serde_json::to_vec(&state).context(|| "cannot write the state".to_owned())?;
        for (name, text) in [(RECORDS, records.to_jsonl()?.into_bytes()), (STATE, state)] {
            fs::write(folder.join(name), text).context(|| format!("cannot write {name}"))?;
        }
        for name in [WEIGHTS, RECORDS, STATE] {
            File::open(folder.join(name))
                .and_then(|file| file.sync_all())
                .context(|| format!("cannot sync {name}"))?;
        }
        files::sync_folder(folder).context(|| format!("cannot sync {}", folder.display()))
    }

    /// Puts the newest whole checkpoint into the parameters and the optimiser. Returns its step and records, or `None`
    /// if there is none. Damaged ones are passed over, and `warn` is told; one of another run is an error.
    pub fn resume(
        &self,
        parameters: &[&Parameter],
        optimiser: &mut AdamW,
        warn: impl Fn(String),
    ) -> Result<Option<(u64, Records)>> {
        for (step, folder) in self.list()?.into_iter().rev() {
            match self.read(&folder, step, parameters, optimiser) {
                Ok(records) => return Ok(Some((step, records))),
                Err(Unusable::Foreign) => {
                    return Err(Error::new(format!("the checkpoint {} belongs to another run", folder.display()))
                        .hint(format!("remove {} to train from the beginning", self.folder.display())));
                }
                Err(Unusable::Damaged(error)) => {
                    warn(format!(
                        "the checkpoint {} is damaged and passed over: {}",
                        folder.display(),
                        error.one_line()
                    ));
                }
            }
        }
        Ok(None)
    }

    fn read(
        &self,
        folder: &Path,
        step: u64,
        parameters: &[&Parameter],
        optimiser: &mut AdamW,
    ) -> Result<Records, Unusable> {
        let text = fs::read(folder.join(STATE)).context(|| format!("cannot read {STATE}"))?;
        let state: State = serde_json::from_slice(&text).context(|| format!("cannot read {STATE}"))?;
        if state.version != VERSION || state.identity != self.identity {
            return Err(Unusable::Foreign);
        }
        let path = folder.join(WEIGHTS);
        if state.step != step || digest(&path)? != state.digest {
            return Err(Unusable::Damaged(Error::new(format!("{WEIGHTS} is not what was saved"))));
        }
        let records = Records::read(&folder.join(RECORDS))?;
        let shard = Shard::open(&path)?;
        for (index, parameter) in parameters.iter().enumerate() {
            for kind in Kind::ALL {
                let name = kind.name(&parameter.name);
                let found = shard.spec(&name).zip(shard.bytes(&name));
                let Some((_, bytes)) = found.filter(|(spec, _)| spec.shape == parameter.value.dims()) else {
                    return Err(Unusable::Foreign);
                };
                let values = Float::F32.widen(bytes);
                match kind {
                    Kind::Value => ops::modify(&parameter.value, |old| old.copy_from_slice(&values))?,
                    Kind::First => optimiser.first[index] = values,
                    Kind::Second => optimiser.second[index] = values,
                }
                shard.release_tensor(&name);
            }
        }
        Ok(records)
    }

    /// The step of the newest checkpoint.
    pub fn newest(&self) -> Option<u64> {
        self.list().ok()?.last().map(|(step, _)| *step)
    }

    /// Steps and folders, in order.
    fn list(&self) -> Result<Vec<(u64, PathBuf)>> {
        let cannot_list = || format!("cannot list {}", self.folder.display());
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder).context(cannot_list)? {
            let path = entry.context(cannot_list)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(step) = name.strip_prefix("step-").and_then(|step| step.parse().ok()) {
                found.push((step, path));
            }
        }
        found.sort();
        Ok(found)
    }
}

/// What a tensor of a checkpoint is.
#[derive(Clone, Copy)]
enum Kind {
    Value,
    First,
    Second,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Value, Self::First, Self::Second];

    fn name(self, parameter: &str) -> String {
        match self {
            Self::Value => parameter.to_owned(),
            Self::First => format!("first.{parameter}"),
            Self::Second => format!("second.{parameter}"),
        }
    }
}

/// Why a checkpoint cannot be continued from.
enum Unusable {
    /// It belongs to another run.
    Foreign,
    Damaged(Error),
}

impl From<Error> for Unusable {
    fn from(error: Error) -> Self {
        Self::Damaged(error)
    }
}

/// Read in pieces, not mapped: a map would add the whole file to the memory of a training.
fn digest(path: &Path) -> Result<String> {
    const PIECE: usize = 4 << 20;
    let cannot_read = || format!("cannot read {}", path.display());
    let mut file = File::open(path).context(cannot_read)?;
    let (mut hasher, mut piece) = (blake3::Hasher::new(), Vec::with_capacity(PIECE));
    while file.by_ref().take(PIECE as u64).read_to_end(&mut piece).context(cannot_read)? > 0 {
        hasher.update_rayon(&piece);
        piece.clear();
    }
    Ok(hasher.finalize().to_hex().to_string())
}
