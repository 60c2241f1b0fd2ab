//! Receipts: the record that a fingerprint produced an artifact, and which fingerprint a stage had last.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Digest, Store};
use crate::error::{Context, Result};

/// Raised when the form of a receipt changes; receipts of another version are as good as absent.
const VERSION: u32 = 1;

/// The proof that a stage was carried out. Written last, when the artifact is whole and on disk.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Receipt {
    pub version: u32,
    pub fingerprint: Digest,
    pub artifact: Digest,
    pub pipeline: String,
    pub stage: String,
    pub kind: String,
    /// The full text of the key, which `explain` compares item by item.
    pub key: Value,
    /// Named figures of the result.
    pub metrics: BTreeMap<String, Value>,
    /// Tables and remarks that the stage made for its user.
    pub notes: Vec<String>,
    /// Number and bytes of the artifact's files; the list itself is `cache/trees/<artifact>`.
    pub files: u64,
    pub bytes: u64,
    /// RFC 3339.
    pub started: String,
    /// Wall-clock seconds of the last attempt.
    pub seconds: f64,
    pub host: String,
    pub threads: usize,
    /// Version of cmx.
    pub program: String,
}

/// Why the last attempt at a fingerprint failed; lies in its scratch folder until the next attempt.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Failure {
    pub message: String,
    pub hint: Option<String>,
    /// Log of the attempt, relative to the workspace.
    pub log: PathBuf,
}

impl Receipt {
    pub fn version() -> u32 {
        VERSION
    }
}

impl Store {
    fn receipt_path(&self, fingerprint: Digest) -> PathBuf {
        self.root.join("receipts").join(format!("{fingerprint}.json"))
    }

    /// The receipt of a fingerprint. One that cannot be read counts as absent: the stage is then done again.
    pub fn receipt(&self, fingerprint: Digest) -> Option<Receipt> {
        let text = fs::read(self.receipt_path(fingerprint)).ok()?;
        let receipt: Receipt = serde_json::from_slice(&text).ok()?;
        (receipt.version == VERSION && receipt.fingerprint == fingerprint).then_some(receipt)
    }

    pub fn write_receipt(&self, receipt: &Receipt) -> Result<()> {
        let text = serde_json::to_vec_pretty(receipt).context(|| "cannot write a receipt".to_owned())?;
        self.write(&self.receipt_path(receipt.fingerprint), &text)
    }

    /// Every readable receipt.
    pub fn receipts(&self) -> Vec<Receipt> {
        let Ok(listing) = fs::read_dir(self.root.join("receipts")) else { return Vec::new() };
        let name = |item: fs::DirEntry| item.file_name().to_str()?.strip_suffix(".json")?.parse().ok();
        let mut fingerprints: Vec<Digest> = listing.flatten().filter_map(name).collect();
        fingerprints.sort();
        fingerprints.into_iter().filter_map(|fingerprint| self.receipt(fingerprint)).collect()
    }

    pub(super) fn remove_receipt(&self, fingerprint: Digest) -> Result<()> {
        let path = self.receipt_path(fingerprint);
        fs::remove_file(&path).context(|| format!("cannot remove {}", path.display()))
    }

    fn latest_path(&self, pipeline: &str, stage: &str) -> PathBuf {
        self.root.join("latest").join(file_name(pipeline)).join(file_name(stage))
    }

    /// The fingerprint under which a stage was last fresh.
    pub fn latest(&self, pipeline: &str, stage: &str) -> Option<Digest> {
        fs::read_to_string(self.latest_path(pipeline, stage)).ok()?.trim_end().parse().ok()
    }

    pub fn set_latest(&self, pipeline: &str, stage: &str, fingerprint: Digest) -> Result<()> {
        if self.latest(pipeline, stage) == Some(fingerprint) {
            return Ok(());
        }
        self.write(&self.latest_path(pipeline, stage), format!("{fingerprint}\n").as_bytes())
    }

    /// Every fingerprint that some stage of some pipeline had last.
    pub(super) fn all_latest(&self) -> Vec<Digest> {
        let Ok(pipelines) = fs::read_dir(self.root.join("latest")) else { return Vec::new() };
        let stages = pipelines.flatten().filter_map(|pipeline| fs::read_dir(pipeline.path()).ok());
        let texts = stages.flat_map(|stages| stages.flatten()).filter_map(|s| fs::read_to_string(s.path()).ok());
        texts.filter_map(|text| text.trim_end().parse().ok()).collect()
    }
}

/// The name of a pipeline or a stage as the name of a file.
pub(super) fn file_name(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2F")
}
