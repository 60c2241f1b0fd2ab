//! What people write → typed values with source spans: pipelines, stage manifests, the dataset registry, templates.

mod kind;
mod pipeline;
mod place;
mod reference;
mod registry;
mod schema;
mod shape;
mod share;
mod size;
mod template;
mod value;

pub use kind::{KindManifest, is_kind_name};
pub use pipeline::{Pipeline, StageEntry};
pub use place::{Place, TextFile};
pub use reference::{DocumentsReference, Instance, StageReference};
pub use registry::{DatasetEntry, Registry};
pub use schema::{KindSchema, pipeline_schema, registry_schema};
pub use shape::{Field, Found, Mark, Shape};
pub use share::ShareText;
pub use size::parse_size;
pub use template::{Braces, Scope, placeholders, substitute};
pub use value::{Content, Entry, Located, Table};

use crate::error::{Error, nearest};

/// Adds the nearest of `candidates` to an error as its hint, or else all of them, introduced by `these` ("the kinds
/// are").
pub(crate) fn with_suggestion<'a>(
    error: Error,
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
    these: &str,
) -> Error {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    match nearest(word, candidates.iter().copied()) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None if candidates.is_empty() => error,
        None => error.hint(format!("{these} {}", list(&candidates))),
    }
}

/// `a`, `b`, `c`, each in backticks.
pub(crate) fn list(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
