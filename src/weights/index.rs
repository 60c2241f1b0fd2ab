//! `model.safetensors.index.json` (or `pytorch_model.bin.index.json`): which shard holds which tensor.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Context, Error, Result};

/// The index of a sharded checkpoint. `metadata` keeps what others wrote there.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    pub metadata: Map<String, Value>,
    /// Tensor → file name.
    pub weight_map: BTreeMap<String, String>,
}

impl Index {
    pub const NAME: &str = "model.safetensors.index.json";
    /// The index of shards that `torch.save` wrote.
    pub const TORCH: &str = "pytorch_model.bin.index.json";

    /// Reads and checks an index: every file must be a plain name in the same folder.
    pub fn read(path: &Path) -> Result<Self> {
        let damaged = |why: &str| Error::invalid(format!("{} is damaged: {why}", path.display()));
        let text = std::fs::read(path).context(|| format!("cannot read {}", path.display()))?;
        let value: Value =
            serde_json::from_slice(&text).map_err(|error| damaged("it is not valid JSON").caused_by(error))?;
        let entries =
            value.get("weight_map").and_then(Value::as_object).ok_or_else(|| damaged("no `weight_map`"))?;
        let mut weight_map = BTreeMap::new();
        for (name, file) in entries {
            let file = file.as_str().ok_or_else(|| damaged(&format!("the file of `{name}` is not a string")))?;
            if file.is_empty() || file.starts_with('.') || file.contains(['/', '\\', '\0']) {
                return Err(damaged(&format!("`{file}` is not the name of a file in the same folder")));
            }
            weight_map.insert(name.clone(), file.to_owned());
        }
        let metadata = value.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
        Ok(Self { metadata, weight_map })
    }

    /// Writes the index as transformers does: two spaces, tensors in name order, a line feed at the end.
    /// `bytes` and `elements` are the sums over all tensors; the count of parameters is stated only where it was.
    pub fn write(mut self, folder: &Path, bytes: u64, elements: u64) -> Result<()> {
        self.metadata.insert("total_size".to_owned(), bytes.into());
        if let Some(parameters) = self.metadata.get_mut("total_parameters") {
            *parameters = elements.into();
        }
        let mut index = Map::new();
        index.insert("metadata".to_owned(), self.metadata.into());
        index.insert(
            "weight_map".to_owned(),
            self.weight_map.into_iter().map(|(name, file)| (name, Value::from(file))).collect::<Map<_, _>>().into(),
        );
        let path = folder.join(Self::NAME);
        let text = format!("{:#}\n", Value::from(index));
        std::fs::write(&path, text).context(|| format!("cannot write {}", path.display()))
    }
}
