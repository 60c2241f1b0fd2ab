//! `parquet2jsonl`: a dataset's Parquet files → JSONL, one file each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Dataset, Fault, Stage, Work};
use crate::corpus::files_below;
use crate::corpus::parquet::{self, Binary, Options};
use crate::error::{Error, Result};
use crate::events::Unit;

/// `train.parquet` becomes `train.jsonl`: a row a line, as Python's `json.dumps(row, ensure_ascii=False)` writes it.
/// Dates and times are ISO 8601, decimals strings of all their digits, maps arrays of pairs; NaN and the infinities,
/// which JSON lacks, are `null`.
///
/// Parquet files in different folders keep their paths in their names: `en/train.parquet` beside `zh/train.parquet`
/// becomes `en-train.jsonl`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parquet2Jsonl {
    /// Taken raw; provided as JSONL.
    pub dataset: Dataset,
    /// The top-level columns wanted, in this order; all if absent.
    pub columns: Option<Vec<String>>,
    /// Name of a column in the files → name in the JSON; `content = "text"`.
    pub rename: Option<BTreeMap<String, String>>,
    /// How binary columns are written.
    pub binary: Binary,
}

impl Stage for Parquet2Jsonl {
    const KIND: &'static str = "parquet2jsonl";
    const REVISION: u32 = 1;

    fn check(&self) -> Result<(), Fault> {
        if self.columns.as_ref().is_some_and(Vec::is_empty) {
            return Err(
                Fault::new("columns", "`columns` is empty: nothing would be written").hint("leave it out for all")
            );
        }
        Ok(())
    }

    fn run(&self, work: &mut Work) -> Result<()> {
        let dataset = &self.dataset;
        let root = dataset.path.as_deref().ok_or_else(|| {
            Error::invalid(format!("there are no files of the dataset `{}`", dataset.name))
                .hint("add a download stage for it, or give it a `root` in datasets.toml")
        })?;
        let files = files_below(root, "parquet")?;
        if files.is_empty() {
            let message = format!("the dataset `{}` has no *.parquet file in {}", dataset.name, root.display());
            return Err(
                Error::invalid(message).hint("JSONL files need no parquet2jsonl; split takes them as they are")
            );
        }
        let names = jsonl_names(&files)?;
        let rows = files.iter().map(|file| parquet::rows(file)).sum::<Result<u64>>()?;
        let rename = self.rename.clone().unwrap_or_default();
        let options = Options { columns: self.columns.as_deref(), rename: &rename, binary: self.binary };

        let pairs: Vec<(PathBuf, PathBuf)> =
            files.iter().zip(&names).map(|(file, name)| (file.clone(), work.output().join(name))).collect();
        let progress = work.progress("rows", Some(rows), Unit::Documents);
        let total = parquet::to_jsonl(&pairs, &options, work.threads(), |rows| {
            progress.add(rows);
            work.check()
        })?;
        progress.finish();
        work.metric("files", files.len());
        work.metric("documents", total.documents);
        work.metric("bytes", total.bytes);
        Ok(())
    }
}

/// The names of the JSONL files: paths below the deepest folder that holds all, with `-` for `/`.
fn jsonl_names(files: &[PathBuf]) -> Result<Vec<String>> {
    let mut common = files[0].parent().unwrap_or(Path::new("")).to_path_buf();
    while !files.iter().all(|file| file.starts_with(&common)) {
        common.pop();
    }
    let mut names: Vec<String> = Vec::new();
    for file in files {
        let below = file.strip_prefix(&common).unwrap_or(file).with_extension("jsonl");
        let parts: Vec<_> = below.iter().map(|part| part.to_string_lossy()).collect();
        let name = parts.join("-");
        if names.contains(&name) {
            let message = format!("two Parquet files would become {name}; the second is {}", file.display());
            return Err(Error::invalid(message).hint("fetch only one of them, see `include` of download"));
        }
        names.push(name);
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_what_tells_files_apart() {
        let names = |files: &[&str]| jsonl_names(&files.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(names(&["/r/data/a.parquet", "/r/data/b.x.parquet"]).unwrap(), ["a.jsonl", "b.x.jsonl"]);
        assert_eq!(names(&["/r/en/a.parquet", "/r/zh/a.parquet"]).unwrap(), ["en-a.jsonl", "zh-a.jsonl"]);
        assert!(names(&["/r/a-b.parquet", "/r/a/b.parquet"]).is_err());
    }
}
