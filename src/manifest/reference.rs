//! References as they are written: `@stage`, `@stage[instance]/path`, `dataset:NAME/SPLIT`.

use std::path::{Component, Path, PathBuf};

use super::value::Located;
use crate::error::Result;

/// `@stage`, `@stage/path`, `@stage[instance]`, `@stage[instance]/path`, `@stage[*]`.
#[derive(Clone, Debug, PartialEq)]
pub struct StageReference {
    pub stage: String,
    pub instance: Option<Instance>,
    /// A file or folder of the artifact; it has no `..` and is not absolute.
    pub part: Option<PathBuf>,
}

/// Which instance of a `foreach` stage.
#[derive(Clone, Debug, PartialEq)]
pub enum Instance {
    Named(String),
    All,
}

/// `dataset:NAME` or `dataset:NAME/SPLIT`.
#[derive(Clone, Debug, PartialEq)]
pub struct DocumentsReference {
    pub dataset: String,
    pub split: Option<String>,
}

impl StageReference {
    /// `None` when `value` does not start with `@`.
    pub fn parse(value: &Located) -> Result<Option<Self>> {
        let Some(rest) = value.as_str().and_then(|text| text.strip_prefix('@')) else {
            return Ok(None);
        };
        // An instance's name may hold no bracket, so the first `]` ends it; its name may hold anything else.
        let (stage, instance, after) = match rest.find(['[', '/']) {
            Some(at) if rest[at..].starts_with('[') => {
                let Some(end) = rest[at..].find(']').map(|end| at + end) else {
                    return Err(value.error(format!("\"@{rest}\" has a `[` without a `]`"), "`]` is missing"));
                };
                let instance = match &rest[at + 1..end] {
                    "*" => Instance::All,
                    name => Instance::Named(name.to_owned()),
                };
                (&rest[..at], Some(instance), &rest[end + 1..])
            }
            Some(at) => (&rest[..at], None, &rest[at..]),
            None => (rest, None, ""),
        };
        let part = match after.strip_prefix('/') {
            None if after.is_empty() => None,
            Some(part) if is_plain(Path::new(part)) => Some(PathBuf::from(part)),
            Some(part) => {
                return Err(value.place.of_part(part).error(
                    format!("\"@{rest}\" leaves the artifact of stage `{stage}`"),
                    "a path inside the artifact is expected",
                ));
            }
            None => {
                return Err(value.error(format!("\"@{rest}\" is not a reference"), "`/` is expected after `]`"));
            }
        };
        if stage.is_empty() {
            return Err(value
                .error(format!("\"@{rest}\" names no stage"), "no name after `@`")
                .hint("write \"@stage\" or \"@stage/path\""));
        }
        Ok(Some(Self { stage: stage.to_owned(), instance, part }))
    }
}

impl DocumentsReference {
    /// `None` when `value` does not start with `dataset:`.
    pub fn parse(value: &Located) -> Option<Self> {
        let name = value.as_str()?.strip_prefix("dataset:")?;
        Some(match name.split_once('/') {
            Some((dataset, split)) => Self { dataset: dataset.to_owned(), split: Some(split.to_owned()) },
            None => Self { dataset: name.to_owned(), split: None },
        })
    }
}

/// Not empty, relative, and made of names only.
fn is_plain(path: &Path) -> bool {
    !path.as_os_str().is_empty() && path.components().all(|part| matches!(part, Component::Normal(_)))
}
