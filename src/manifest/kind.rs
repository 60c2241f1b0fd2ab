//! `stages/KIND.toml`: what a kind takes and provides, and the default of every parameter that has one.

use super::place::Place;
use super::value::{Located, Table};
use super::with_suggestion;
use crate::error::{Result, nearest};
use crate::stages::Form;

/// The manifest of a kind; of several layers (built in, workspace, beside the pipeline), merged key by key.
#[derive(Clone, Debug)]
pub struct KindManifest {
    pub description: Option<String>,
    /// The form in which `dataset` and shares are taken.
    pub takes: Option<Form>,
    /// The form of its `dataset` that the kind provides.
    pub provides: Option<Form>,
    /// A template over `{dataset}` and `{stage}`.
    pub view: Option<Located>,
    /// A user's kind: the program and its arguments.
    pub command: Option<Vec<Located>>,
    /// A user's kind: the names of the parameters that are inputs.
    pub inputs: Vec<Located>,
    /// The defaults.
    pub parameters: Table,
    pub resources: Table,
}

const KEYS: [&str; 8] =
    ["description", "takes", "provides", "view", "command", "inputs", "parameters", "resources"];

impl KindManifest {
    /// Reads the merged table of all layers.
    pub fn read(table: Table) -> Result<Self> {
        let mut manifest = Self {
            description: None,
            takes: None,
            provides: None,
            view: None,
            command: None,
            inputs: Vec::new(),
            parameters: Table::default(),
            resources: Table::default(),
        };
        for entry in table.entries {
            let value = entry.value;
            match entry.key.as_str() {
                "description" => manifest.description = Some(value.string("`description`")?.to_owned()),
                "takes" => manifest.takes = Some(form(&value, "`takes`")?),
                "provides" => manifest.provides = Some(form(&value, "`provides`")?),
                "view" => {
                    value.string("`view`")?;
                    manifest.view = Some(value);
                }
                "command" => {
                    if value.strings("`command`")?.is_empty() {
                        return Err(value.error("`command` is empty", "a program is expected"));
                    }
                    manifest.command = Some(items(value));
                }
                "inputs" => {
                    value.strings("`inputs`")?;
                    manifest.inputs = items(value);
                }
                "parameters" => manifest.parameters = value.table("`parameters`")?,
                "resources" => manifest.resources = value.table("`resources`")?,
                key => return Err(unknown_key(entry.place, key)),
            }
        }
        Ok(manifest)
    }
}

fn unknown_key(place: Place, key: &str) -> crate::error::Error {
    let error = place.error(format!("a stage manifest has no key `{key}`"), "unknown key");
    match nearest(key, KEYS) {
        None => error.hint(format!("a default belongs under [parameters]; the keys are {}", super::list(&KEYS))),
        Some(_) => with_suggestion(error, key, KEYS, "the keys are"),
    }
}

fn items(value: Located) -> Vec<Located> {
    match value.content {
        super::Content::List(items) => items,
        _ => Vec::new(),
    }
}

fn form(value: &Located, what: &str) -> Result<Form> {
    let text = value.string(what)?;
    Form::ALL.into_iter().find(|form| form.as_str() == text).ok_or_else(|| {
        let error = value.error(format!("\"{text}\" is not a form of a dataset"), "unknown form");
        with_suggestion(error, text, Form::ALL.map(Form::as_str), "the forms are")
    })
}

/// Whether `name` can name a kind, and so a file in `stages/`.
pub fn is_kind_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}
