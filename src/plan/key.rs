//! What goes into a fingerprint: one description, walked by two writers, the hasher and the text that `explain` diffs.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::store::Digest;

/// Raised when the meaning of a key changes, so that no old receipt is taken for a new one.
const VERSION: u32 = 1;

/// Everything that decides whether a stage has to run, item by item and in order.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Key {
    pub version: u32,
    pub items: Vec<Item>,
}

/// One fact of a key. Items of one name form a list, whose order counts.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Item {
    /// `kind`, `revision`, a parameter (`mix`, `lora.rank`) or, after `input `, an input as written in the manifest.
    pub name: String,
    /// A parameter as JSON, or the digest of an input.
    pub value: Value,
}

impl Key {
    pub fn new(kind: &str, revision: u32) -> Self {
        let mut key = Self { version: VERSION, items: Vec::new() };
        key.push("kind", kind);
        key.push("revision", revision);
        key
    }

    pub fn push(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        self.items.push(Item { name: name.into(), value: value.into() });
    }

    /// An input: `name` as people wrote it, and the digest of what it is now.
    pub fn push_input(&mut self, name: &str, digest: Digest) {
        self.push(format!("input {name}"), digest.to_string());
    }

    /// The first writer: BLAKE3 over every item, each length-prefixed so that no two keys share their bytes.
    pub fn fingerprint(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.version.to_le_bytes());
        for item in &self.items {
            for text in [item.name.clone(), item.value.to_string()] {
                hasher.update(&(text.len() as u64).to_le_bytes());
                hasher.update(text.as_bytes());
            }
        }
        hasher.finalize().into()
    }
}
