//! Pipeline files: a name, variables, and named stages.

use std::sync::Arc;

use super::place::{Place, TextFile};
use super::value::{Content, Located, Table};
use super::with_suggestion;
use crate::error::{Error, Result};

/// A pipeline as written; nothing is looked up yet.
#[derive(Clone, Debug)]
pub struct Pipeline {
    pub file: Arc<TextFile>,
    /// The file's stem when it gives none.
    pub name: String,
    pub description: Option<String>,
    pub vars: Table,
    /// In the order of the file.
    pub stages: Vec<StageEntry>,
}

/// `[stage.NAME]`.
#[derive(Clone, Debug)]
pub struct StageEntry {
    pub name: String,
    /// Of the name, in the header.
    pub place: Place,
    pub kind: String,
    /// Of `use`, or else of the name.
    pub kind_place: Place,
    /// A list, or a template that gives one.
    pub foreach: Option<Located>,
    pub resources: Option<Table>,
    /// `config.json` of the model that the stage will bring, for forecasts.
    pub expect: Option<Located>,
    /// All other keys.
    pub parameters: Table,
}

impl Pipeline {
    pub fn parse(file: Arc<TextFile>) -> Result<Self> {
        let mut pipeline = Self {
            name: file.name.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            file: file.clone(),
            description: None,
            vars: Table::default(),
            stages: Vec::new(),
        };
        for entry in Table::parse(&file)?.entries {
            match entry.key.as_str() {
                "name" => pipeline.name = entry.value.string("`name`")?.to_owned(),
                "description" => pipeline.description = Some(entry.value.string("`description`")?.to_owned()),
                "vars" => pipeline.vars = entry.value.table("`vars`")?,
                "stage" => {
                    for stage in entry.value.table("`stage`")?.entries {
                        let stage = StageEntry::read(stage.key, stage.place, stage.value)?;
                        pipeline.stages.push(stage);
                    }
                }
                key => {
                    let error = entry.place.error(format!("a pipeline has no key `{key}`"), "unknown key");
                    let keys = ["name", "description", "vars", "stage"];
                    return Err(with_suggestion(error, key, keys, "the keys are"));
                }
            }
        }
        if pipeline.stages.is_empty() {
            return Err(Error::invalid(format!("{} has no stages", file.name.display()))
                .hint("a stage is a table [stage.NAME] with `use = \"KIND\"`"));
        }
        Ok(pipeline)
    }
}

impl StageEntry {
    fn read(name: String, place: Place, value: Located) -> Result<Self> {
        if !is_name(&name) {
            return Err(place
                .error(format!("\"{name}\" can't name a stage"), "not a name")
                .hint("a name is made of letters, digits, `_`, `-` and `.`"));
        }
        let mut parameters = value.table(&format!("`stage.{name}`"))?;
        let (kind, kind_place) = match parameters.remove("use") {
            Some(entry) => (entry.value.string("`use`")?.to_owned(), entry.value.place),
            None => (name.clone(), place.clone()),
        };
        let foreach = parameters.remove("foreach").map(|entry| entry.value);
        let resources = parameters.remove("resources").map(|entry| entry.value.table("`resources`")).transpose()?;
        let expect = parameters.remove("expect").map(|entry| entry.value);
        Ok(Self { name, place, kind, kind_place, foreach, resources, expect, parameters })
    }

    /// The values of `foreach`, whose templates are filled in; each becomes an instance's name.
    pub fn instances(foreach: &Located) -> Result<Vec<(String, Located)>> {
        let Content::List(items) = &foreach.content else {
            return Err(foreach.wrong_type("`foreach`", "a list"));
        };
        if items.is_empty() {
            return Err(foreach.error("`foreach` is an empty list", "at least one value is expected"));
        }
        let mut instances: Vec<(String, Located)> = Vec::with_capacity(items.len());
        for item in items {
            let name = match &item.content {
                Content::String(text) => text.clone(),
                Content::Integer(number) => number.to_string(),
                _ => return Err(item.wrong_type("an entry of `foreach`", "a string or an integer")),
            };
            if !is_name(&name) {
                return Err(item
                    .error(format!("\"{name}\" can't name an instance of a stage"), "not a name")
                    .hint("a name is made of letters, digits, `_`, `-` and `.`"));
            }
            if instances.iter().any(|(other, _)| *other == name) {
                return Err(item.error(format!("`foreach` names \"{name}\" twice"), "the second time"));
            }
            instances.push((name, item.clone()));
        }
        Ok(instances)
    }
}

/// Letters and digits of any script, `_`, `-` and `.`, not starting with a dot: safe as the name of a folder.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'))
}
