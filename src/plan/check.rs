//! Parameters that a kind refuses, before anything runs.

use serde_json::{Value, json};

use super::bind::{Bound, BoundDataset, Origin};
use crate::error::{Error, Result};
use crate::manifest::{Content, Place, Table};
use crate::stages::{Check, Fault};

/// Asks the kind of stage `name`, whose `inputs` are bound but not resolved. An error points at the parameter in
/// `table`, or at the stage's `place`.
pub(super) fn check_parameters(
    check: Check,
    name: &str,
    parameters: &Value,
    inputs: &[Bound],
    table: &Table,
    place: &Place,
) -> Result<()> {
    check(&unresolved(parameters, inputs)).map_err(|fault| error(&fault, name, table, place))
}

/// Parameters with every input as its type reads it, as far as it is known before anything runs.
pub(super) fn unresolved(parameters: &Value, inputs: &[Bound]) -> Value {
    let mut parameters = parameters.clone();
    for bound in inputs {
        if let Some(slot) = parameters.pointer_mut(&bound.pointer) {
            *slot = unresolved_input(bound);
        }
    }
    parameters
}

/// An input as its type reads it (`stages/inputs.rs`), without the paths that are not known yet.
fn unresolved_input(bound: &Bound) -> Value {
    match &bound.origin {
        Origin::Input(_) => json!({ "from": bound.written, "path": "" }),
        Origin::Documents(_) | Origin::DatasetDocuments { .. } => json!({ "from": bound.written, "files": [] }),
        Origin::Dataset(dataset) => unresolved_dataset(dataset),
        Origin::Share { amount, dataset } => json!({ "amount": amount, "dataset": unresolved_dataset(dataset) }),
    }
}

fn unresolved_dataset(dataset: &BoundDataset) -> Value {
    let entry = &dataset.entry;
    json!({
        "name": entry.name,
        "form": dataset.form,
        "path": null,
        "doc": entry.doc,
        "encoded": entry.encoded,
        "source": entry.source,
    })
}

fn error(fault: &Fault, name: &str, table: &Table, place: &Place) -> Error {
    let message = format!("stage `{name}`: {}", fault.error.one_line());
    let error = match place_of(table, &fault.parameter) {
        Some(parameter) => parameter.error(message, "this parameter"),
        None => place.error(message, "in this stage"),
    };
    match fault.error.advice() {
        Some(advice) => error.hint(advice),
        None => error,
    }
}

/// Where the value of a parameter stands, by its dotted path; of the innermost table that has a part of it.
fn place_of<'a>(table: &'a Table, path: &str) -> Option<&'a Place> {
    // The keys of a table may hold points themselves.
    let entry = table.entries.iter().find(|entry| {
        path.strip_prefix(entry.key.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    })?;
    let rest = path[entry.key.len()..].trim_start_matches('.');
    let inner = match &entry.value.content {
        Content::Table(inner) if !rest.is_empty() => place_of(inner, rest),
        _ => None,
    };
    Some(inner.unwrap_or(&entry.value.place))
}
