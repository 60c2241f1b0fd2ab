//! JSON Schemas of the files that people write, for editors: pipelines and the registry of datasets.

use serde_json::{Map, Value, json};

use super::shape::{Mark, Shape};
use crate::evaluation::tasks::TaskKind;

/// A kind, as the schema of a pipeline needs it.
pub struct KindSchema {
    pub name: String,
    pub description: Option<String>,
    /// JSON Schema of the parameters.
    pub parameters: Value,
    /// The defaults, so that what has one is not required.
    pub defaults: Value,
}

/// A string that is nothing but a template may stand for a value of any type.
const TEMPLATE: &str = "^\\{[A-Za-z0-9_-]+\\}$";

/// The schema of a pipeline file.
pub fn pipeline_schema(kinds: &[KindSchema]) -> Value {
    let names: Vec<&str> = kinds.iter().map(|kind| kind.name.as_str()).collect();
    let mut definitions = Map::new();
    let mut by_name = Map::new();
    let mut choices = Vec::new();
    for kind in kinds {
        let reference = json!({ "$ref": format!("#/$defs/kind.{}", kind.name) });
        definitions.insert(format!("kind.{}", kind.name), stage_schema(kind));
        choices.push(json!({
            "if": { "properties": { "use": { "const": kind.name } }, "required": ["use"] },
            "then": reference,
        }));
        // `use` may be left out when the stage's name is its kind.
        by_name.insert(
            kind.name.clone(),
            json!({ "if": { "required": ["use"] }, "then": { "$ref": "#/$defs/stage" }, "else": reference }),
        );
    }
    definitions.insert(
        "stage".to_owned(),
        json!({
            "type": "object",
            "properties": { "use": { "enum": names, "description": "The kind of the stage." } },
            "required": ["use"],
            "allOf": choices,
        }),
    );
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "cmx pipeline",
        "type": "object",
        "properties": {
            "name": { "type": "string", "description": "The pipeline's name; the file's when left out." },
            "description": { "type": "string" },
            "vars": { "type": "object", "description": "Values for {templates}." },
            "stage": {
                "type": "object",
                "description": "The stages by name.",
                "minProperties": 1,
                "properties": by_name,
                "additionalProperties": { "$ref": "#/$defs/stage" },
            },
        },
        "required": ["stage"],
        "additionalProperties": false,
        "$defs": definitions,
    })
}

fn stage_schema(kind: &KindSchema) -> Value {
    let definitions = kind.parameters.get("$defs").cloned().unwrap_or(Value::Null);
    let mut schema = with_templates(&kind.parameters, &definitions, Some(&kind.defaults), 0);
    if let Some(map) = schema.as_object_mut() {
        for key in ["$schema", "$defs", "title"] {
            map.remove(key);
        }
        if let Some(description) = &kind.description {
            map.insert("description".to_owned(), description.as_str().into());
        }
        let properties = map.entry("properties").or_insert_with(|| json!({}));
        if let Some(properties) = properties.as_object_mut() {
            properties
                .insert("use".to_owned(), json!({ "const": kind.name, "description": "The kind of the stage." }));
            properties.insert(
                "foreach".to_owned(),
                json!({
                    "description": "One instance of the stage for each of these values; `{each}` stands for the value.",
                    "anyOf": [
                        { "type": "array", "items": { "type": ["string", "integer"] }, "minItems": 1 },
                        { "type": "string", "pattern": TEMPLATE },
                    ],
                }),
            );
            properties.insert(
                "expect".to_owned(),
                json!({
                    "type": "string",
                    "description":
                        "A `config.json` in the workspace: the model that the stage will bring. `cmx plan` forecasts \
                         with it before it is there.",
                }),
            );
            properties.insert(
                "resources".to_owned(),
                json!({
                    "type": "object",
                    "description": "What the stage takes of its host while it runs.",
                    "properties": {
                        "cpus": { "type": "integer", "minimum": 0, "description": "Threads; 0 means all there are." },
                        "memory": { "type": ["string", "integer"], "description": "A size such as \"2 GiB\", or bytes." },
                        "gpus": { "type": "integer", "minimum": 0 },
                    },
                    "additionalProperties": false,
                }),
            );
        }
        map.insert("additionalProperties".to_owned(), false.into());
    }
    schema
}

/// `schema` with its references put in place, templates allowed wherever no string is expected anyway, and nothing
/// required that has a default.
fn with_templates(schema: &Value, definitions: &Value, default: Option<&Value>, depth: usize) -> Value {
    // Recursive types would have no end; no parameter is that deep.
    if depth > 16 {
        return Value::Bool(true);
    }
    let Some(object) = schema.as_object() else { return schema.clone() };
    let mut map = object.clone();
    if let Some(Value::String(reference)) = map.remove("$ref") {
        let name = reference.rsplit('/').next().unwrap_or_default();
        let mut whole = definitions.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
        whole.extend(map);
        map = whole;
    }
    let inner = |schema: &Value, default: Option<&Value>| with_templates(schema, definitions, default, depth + 1);
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        for (name, property) in properties.iter_mut() {
            let default = default.and_then(|default| default.get(name));
            *property = allow_template(inner(property, default), default);
        }
    }
    if let (Some(Value::Array(required)), Some(default)) = (map.get_mut("required"), default) {
        required.retain(|name| name.as_str().is_none_or(|name| default.get(name).is_none()));
    }
    for key in ["items", "additionalProperties"] {
        if let Some(schema @ Value::Object(_)) = map.get_mut(key) {
            *schema = allow_template(inner(schema, None), None);
        }
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        if let Some(Value::Array(choices)) = map.get_mut(key) {
            choices.iter_mut().for_each(|choice| *choice = inner(choice, default));
        }
    }
    Value::Object(map)
}

fn allow_template(mut schema: Value, default: Option<&Value>) -> Value {
    let Some(map) = schema.as_object_mut() else { return schema };
    let description = map.remove("description");
    let mut wrapped = match map.get("type") {
        Some(Value::String(name))
            if name == "string" && !map.contains_key("enum") && !map.contains_key("pattern") =>
        {
            map.clone()
        }
        _ => {
            let template = json!({ "type": "string", "pattern": TEMPLATE });
            Map::from_iter([("anyOf".to_owned(), json!([Value::Object(map.clone()), template]))])
        }
    };
    if let Some(description) = description {
        wrapped.insert("description".to_owned(), description);
    }
    if let Some(default) = default {
        wrapped.insert("default".to_owned(), default.clone());
    }
    Value::Object(wrapped)
}

/// The schema of `datasets.toml`.
pub fn registry_schema() -> Value {
    let strings =
        |description: &str| json!({ "type": "array", "items": { "type": "string" }, "description": description });
    let string = |description: &str| json!({ "type": "string", "description": description });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "cmx registry of datasets",
        "type": "object",
        "additionalProperties": {
            "type": "object",
            "properties": {
                "splits": strings("The splits; [\"train\", \"dev\"] when left out."),
                "root": string("Where its files are: a template over {name} and {DATA_DIR}."),
                "doc": string("Name of a split's documents without .jsonl: a template over {name} and {split}."),
                "encoded": string("Name of a split's folder of token blocks: a template over {name} and {split}."),
                "repo": string("Repository on the hub."),
                "revision": string("Branch, tag or commit; main when left out."),
                "include": strings("Globs of the files wanted; all when left out."),
                "exclude": strings("Globs of the files not wanted."),
                "urls": strings("Plain addresses, for a dataset that is not on a hub."),
                "task": {
                    "enum": TaskKind::ALL.map(TaskKind::as_str),
                    "description": "For an evaluation set: how it is read.",
                },
            },
            "additionalProperties": false,
        },
    })
}

impl Shape {
    /// The JSON Schema of a user's kind, which has no Rust type to derive it from.
    pub fn to_schema(&self) -> Value {
        match self {
            Shape::Any | Shape::OneOf(_) => json!({}),
            Shape::String => json!({ "type": "string" }),
            Shape::Formed { pattern, example } => {
                json!({ "type": "string", "pattern": pattern, "examples": example.iter().collect::<Vec<_>>() })
            }
            Shape::Integer { .. } => json!({ "type": "integer" }),
            Shape::Number => json!({ "type": "number" }),
            Shape::Boolean => json!({ "type": "boolean" }),
            Shape::Word(words) => json!({ "enum": words }),
            Shape::Input(mark) => {
                json!({ "type": "string", "x-cmx": mark.as_str(), "description": self.describe() })
            }
            Shape::List(shape) => json!({ "type": "array", "items": shape.to_schema() }),
            Shape::Map(shape) => json!({ "type": "object", "additionalProperties": shape.to_schema() }),
            Shape::Group(fields) => {
                let properties: Map<String, Value> =
                    fields.iter().map(|field| (field.name.clone(), field.shape.to_schema())).collect();
                let required: Vec<&str> =
                    fields.iter().filter(|field| field.required).map(|field| field.name.as_str()).collect();
                json!({ "type": "object", "properties": properties, "required": required })
            }
        }
    }
}

impl Mark {
    pub fn as_str(self) -> &'static str {
        match self {
            Mark::Input => "input",
            Mark::Documents => "documents",
            Mark::Dataset => "dataset",
            Mark::Share => "share",
        }
    }
}
