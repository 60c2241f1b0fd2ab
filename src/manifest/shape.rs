//! The shape of a kind's parameters: read off its JSON Schema, it checks what people wrote, brings it into one
//! canonical JSON form, and finds the inputs in it.

use regex::Regex;
use serde_json::{Map, Value};

use super::place::Place;
use super::value::{Content, Located, Table};
use super::with_suggestion;
use crate::error::{Context, Error, Result};

/// What a value may be.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    Any,
    String,
    /// A string of a certain form: a regular expression, and an example for people.
    Formed {
        pattern: String,
        example: Option<String>,
    },
    Integer {
        minimum: Option<i64>,
        maximum: Option<i64>,
    },
    Number,
    Boolean,
    /// One of these strings.
    Word(Vec<String>),
    Input(Mark),
    List(Box<Shape>),
    /// A table with any keys.
    Map(Box<Shape>),
    /// A table with these keys and no others.
    Group(Vec<Field>),
    OneOf(Vec<Shape>),
}

/// One key of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    pub name: String,
    pub shape: Shape,
    pub required: bool,
}

/// The kinds of typed inputs: `x-cmx` in a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Input,
    Documents,
    Dataset,
    Share,
}

/// An input in a stage's parameters.
pub struct Found<'a> {
    pub mark: Mark,
    /// JSON pointer into the parameters.
    pub pointer: String,
    pub value: &'a Located,
}

impl Shape {
    /// Reads a JSON Schema as `schemars` derives it.
    pub fn of_schema(schema: &Value) -> Self {
        of_schema(schema, schema.get("$defs").unwrap_or(&Value::Null), 0)
    }

    /// A shape that takes values like `default`.
    pub fn like(default: &Located) -> Self {
        match &default.content {
            Content::String(_) => Shape::String,
            Content::Integer(_) => Shape::Integer { minimum: None, maximum: None },
            Content::Float(_) => Shape::Number,
            Content::Boolean(_) => Shape::Boolean,
            Content::List(items) => Shape::List(Box::new(items.first().map_or(Shape::Any, Self::like))),
            Content::Table(_) => Shape::Map(Box::new(Shape::Any)),
        }
    }

    /// The keys of a table with known keys.
    pub fn fields(&self) -> &[Field] {
        match self {
            Shape::Group(fields) => fields,
            _ => &[],
        }
    }

    /// The fields of a table, by name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields().iter().find(|field| field.name == name)
    }

    /// The parameters of stage `stage` as JSON: types checked, an integer where a number is wanted written as one,
    /// keys sorted. `place` is where the stage stands.
    pub fn read_parameters(&self, table: &Table, stage: &str, place: &Place) -> Result<Value> {
        self.read_group(self.fields(), table, &Path { stage, keys: String::new() }, place)
    }

    fn read(&self, value: &Located, path: &Path<'_>) -> Result<Value> {
        match (self, &value.content) {
            (Shape::Any, _) => Ok(any(value)),
            (Shape::String | Shape::Input(_), Content::String(text)) => Ok(text.clone().into()),
            (Shape::Formed { pattern, example }, Content::String(text)) => {
                let regex = Regex::new(pattern).context(|| format!("the schema of {path} is wrong"))?;
                if regex.is_match(text) {
                    return Ok(text.clone().into());
                }
                let error = value.error(format!("{path} cannot be \"{text}\""), "wrong form");
                Err(match example {
                    Some(example) => error.hint(format!("write it as \"{example}\"")),
                    None => error,
                })
            }
            (Shape::Boolean, Content::Boolean(yes)) => Ok((*yes).into()),
            (Shape::Number, Content::Float(number)) => Ok((*number).into()),
            (Shape::Number, Content::Integer(number)) => Ok((*number as f64).into()),
            (Shape::Integer { minimum, maximum }, Content::Integer(number)) => {
                if let Some(bound) = minimum.filter(|bound| number < bound) {
                    return Err(value.error(format!("{path} must be at least {bound}"), "too small"));
                }
                if let Some(bound) = maximum.filter(|bound| number > bound) {
                    return Err(value.error(format!("{path} must be at most {bound}"), "too large"));
                }
                Ok((*number).into())
            }
            (Shape::Word(words), Content::String(text)) => {
                if words.contains(text) {
                    return Ok(text.clone().into());
                }
                let error = value.error(format!("{path} does not know \"{text}\""), "unknown word");
                Err(with_suggestion(error, text, words.iter().map(String::as_str), "it may be"))
            }
            (Shape::List(shape), Content::List(items)) => {
                items.iter().enumerate().map(|(at, item)| shape.read(item, &path.item(at))).collect()
            }
            (Shape::Map(shape), Content::Table(table)) => {
                let mut map = Map::new();
                for entry in sorted(table) {
                    map.insert(entry.key.clone(), shape.read(&entry.value, &path.key(&entry.key))?);
                }
                Ok(Value::Object(map))
            }
            (Shape::Group(fields), Content::Table(table)) => self.read_group(fields, table, path, &value.place),
            (Shape::OneOf(shapes), _) => match shapes.iter().find_map(|shape| shape.read(value, path).ok()) {
                Some(json) => Ok(json),
                None => {
                    // Of a single choice for this type, what is wrong with the value; else, what types there are.
                    let mut likely = shapes.iter().filter(|shape| shape.takes(&value.content));
                    match (likely.next(), likely.next()) {
                        (Some(only), None) => only.read(value, path),
                        _ => Err(value.wrong_type(&path.to_string(), &self.describe())),
                    }
                }
            },
            _ => Err(value.wrong_type(&path.to_string(), &self.describe())),
        }
    }

    /// Whether a value of this type can have the shape.
    fn takes(&self, content: &Content) -> bool {
        match self {
            Shape::Any => true,
            Shape::String | Shape::Formed { .. } | Shape::Word(_) | Shape::Input(_) => {
                matches!(content, Content::String(_))
            }
            Shape::Integer { .. } => matches!(content, Content::Integer(_)),
            Shape::Number => matches!(content, Content::Integer(_) | Content::Float(_)),
            Shape::Boolean => matches!(content, Content::Boolean(_)),
            Shape::List(_) => matches!(content, Content::List(_)),
            Shape::Map(_) | Shape::Group(_) => matches!(content, Content::Table(_)),
            Shape::OneOf(shapes) => shapes.iter().any(|shape| shape.takes(content)),
        }
    }

    fn read_group(&self, fields: &[Field], table: &Table, path: &Path<'_>, place: &Place) -> Result<Value> {
        let mut map = Map::new();
        for entry in sorted(table) {
            let Some(field) = fields.iter().find(|field| field.name == entry.key) else {
                let error = entry
                    .place
                    .error(format!("{} has no parameter `{}`", path.owner(), entry.key), "unknown parameter");
                let names = fields.iter().map(|field| field.name.as_str());
                return Err(with_suggestion(error, &entry.key, names, "the parameters are"));
            };
            map.insert(entry.key.clone(), field.shape.read(&entry.value, &path.key(&entry.key))?);
        }
        match fields.iter().find(|field| field.required && !map.contains_key(&field.name)) {
            None => Ok(Value::Object(map)),
            Some(field) => {
                let error =
                    place.error(format!("{} lacks `{}`", path.owner(), field.name), "a parameter is missing");
                Err(error.hint(format!("it takes {}", field.shape.describe())))
            }
        }
    }

    /// Finds the inputs in parameters that have been read without an error.
    pub fn inputs<'a>(&self, table: &'a Table) -> Vec<Found<'a>> {
        let mut found = Vec::new();
        for entry in sorted(table) {
            if let Some(field) = self.field(&entry.key) {
                field.shape.find_inputs(&entry.value, pointer("", &entry.key), &mut found);
            }
        }
        found
    }

    fn find_inputs<'a>(&self, value: &'a Located, at: String, found: &mut Vec<Found<'a>>) {
        match (self, &value.content) {
            (Shape::Input(mark), _) => found.push(Found { mark: *mark, pointer: at, value }),
            (Shape::List(shape), Content::List(items)) => {
                for (index, item) in items.iter().enumerate() {
                    shape.find_inputs(item, format!("{at}/{index}"), found);
                }
            }
            (Shape::Map(shape), Content::Table(table)) => {
                for entry in sorted(table) {
                    shape.find_inputs(&entry.value, pointer(&at, &entry.key), found);
                }
            }
            (Shape::Group(_), Content::Table(table)) => {
                for entry in sorted(table) {
                    if let Some(field) = self.field(&entry.key) {
                        field.shape.find_inputs(&entry.value, pointer(&at, &entry.key), found);
                    }
                }
            }
            (Shape::OneOf(shapes), _) => {
                let path = Path { stage: "", keys: String::new() };
                if let Some(shape) = shapes.iter().find(|shape| shape.read(value, &path).is_ok()) {
                    shape.find_inputs(value, at, found);
                }
            }
            _ => {}
        }
    }

    /// With its article, as errors say it: `a list of strings`.
    pub fn describe(&self) -> String {
        match self {
            Shape::Any => "a value".to_owned(),
            Shape::String | Shape::Formed { example: None, .. } => "a string".to_owned(),
            Shape::Formed { example: Some(example), .. } => format!("a string such as \"{example}\""),
            Shape::Integer { .. } => "an integer".to_owned(),
            Shape::Number => "a number".to_owned(),
            Shape::Boolean => "a boolean".to_owned(),
            Shape::Word(words) => {
                format!("one of {}", words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", "))
            }
            Shape::Input(Mark::Input) => "an input (\"@stage\", \"@stage/path\" or a path)".to_owned(),
            Shape::Input(Mark::Documents) => "documents (\"dataset:NAME\", \"@stage/path\" or a path)".to_owned(),
            Shape::Input(Mark::Dataset) => "the name of a dataset".to_owned(),
            Shape::Input(Mark::Share) => "a share (\"RATIO:NAME\")".to_owned(),
            Shape::List(shape) => format!("a list of {}", shape.plural()),
            Shape::Map(_) | Shape::Group(_) => "a table".to_owned(),
            Shape::OneOf(shapes) => shapes.iter().map(Self::describe).collect::<Vec<_>>().join(" or "),
        }
    }

    fn plural(&self) -> &'static str {
        match self {
            Shape::String | Shape::Formed { .. } | Shape::Word(_) => "strings",
            Shape::Integer { .. } => "integers",
            Shape::Number => "numbers",
            Shape::Boolean => "booleans",
            Shape::Input(Mark::Input) => "inputs",
            Shape::Input(Mark::Documents) => "documents",
            Shape::Input(Mark::Dataset) => "names of datasets",
            Shape::Input(Mark::Share) => "shares (\"RATIO:NAME\")",
            Shape::List(_) => "lists",
            Shape::Map(_) | Shape::Group(_) => "tables",
            Shape::Any | Shape::OneOf(_) => "values",
        }
    }
}

/// The way to a value, for errors: ``stage `train`: `lora.rank` ``.
struct Path<'a> {
    stage: &'a str,
    keys: String,
}

impl Path<'_> {
    fn key(&self, key: &str) -> Self {
        let keys = if self.keys.is_empty() { key.to_owned() } else { format!("{}.{key}", self.keys) };
        Self { keys, ..*self }
    }

    fn item(&self, at: usize) -> Self {
        Self { keys: format!("{}[{at}]", self.keys), ..*self }
    }

    /// What owns the keys of the table at this path.
    fn owner(&self) -> String {
        match self.keys.as_str() {
            "" => format!("stage `{}`", self.stage),
            keys => format!("`{keys}` of stage `{}`", self.stage),
        }
    }
}

impl std::fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "stage `{}`: `{}`", self.stage, self.keys)
    }
}

/// The entries in the order of their keys, so that the order of a file never reaches a fingerprint.
fn sorted(table: &Table) -> Vec<&super::value::Entry> {
    let mut entries: Vec<_> = table.entries.iter().collect();
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    entries
}

fn pointer(at: &str, key: &str) -> String {
    format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"))
}

/// A value as JSON, whatever its shape.
fn any(value: &Located) -> Value {
    match &value.content {
        Content::String(text) => text.clone().into(),
        Content::Integer(number) => (*number).into(),
        Content::Float(number) => (*number).into(),
        Content::Boolean(yes) => (*yes).into(),
        Content::List(items) => items.iter().map(any).collect(),
        Content::Table(table) => table.to_json(),
    }
}

impl Table {
    /// The table as JSON, keys sorted.
    pub fn to_json(&self) -> Value {
        Value::Object(sorted(self).into_iter().map(|entry| (entry.key.clone(), any(&entry.value))).collect())
    }
}

/// Recursive types have no bottom in their schema; parameters that deep have none in practice.
const DEEPEST: usize = 16;

fn of_schema(schema: &Value, definitions: &Value, depth: usize) -> Shape {
    if depth > DEEPEST {
        return Shape::Any;
    }
    let inner = |schema: &Value| of_schema(schema, definitions, depth + 1);
    if let Some(mark) = schema.get("x-cmx").and_then(Value::as_str).and_then(Mark::parse) {
        return Shape::Input(mark);
    }
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let name = reference.rsplit('/').next().unwrap_or_default();
        return definitions.get(name).map_or(Shape::Any, inner);
    }
    if let Some(words) = schema.get("enum").and_then(Value::as_array) {
        return Shape::Word(words.iter().filter_map(Value::as_str).map(str::to_owned).collect());
    }
    if let Some(word) = schema.get("const").and_then(Value::as_str) {
        return Shape::Word(vec![word.to_owned()]);
    }
    for key in ["oneOf", "anyOf"] {
        if let Some(choices) = schema.get(key).and_then(Value::as_array) {
            return one_of(choices.iter().filter(|choice| !is_null(choice)).map(inner).collect());
        }
    }
    if let Some([only]) = schema.get("allOf").and_then(Value::as_array).map(Vec::as_slice) {
        return inner(only);
    }
    let types: Vec<&str> = match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).filter(|t| *t != "null").collect(),
        _ => Vec::new(),
    };
    one_of(types.into_iter().map(|name| of_type(name, schema, &inner)).collect())
}

fn of_type(name: &str, schema: &Value, inner: &dyn Fn(&Value) -> Shape) -> Shape {
    match name {
        "string" => match schema.get("pattern").and_then(Value::as_str) {
            None => Shape::String,
            Some(pattern) => Shape::Formed {
                pattern: pattern.to_owned(),
                example: schema.pointer("/examples/0").and_then(Value::as_str).map(str::to_owned),
            },
        },
        "boolean" => Shape::Boolean,
        "number" => Shape::Number,
        "integer" => Shape::Integer {
            minimum: schema.get("minimum").and_then(Value::as_i64),
            maximum: schema.get("maximum").and_then(Value::as_i64),
        },
        "array" => Shape::List(Box::new(schema.get("items").map_or(Shape::Any, inner))),
        "object" => match schema.get("properties").and_then(Value::as_object) {
            None => Shape::Map(Box::new(schema.get("additionalProperties").map_or(Shape::Any, inner))),
            Some(properties) => {
                let required = schema.get("required").and_then(Value::as_array);
                let is_required =
                    |name: &str| required.is_some_and(|names| names.iter().any(|required| required == name));
                let field = |(name, schema): (&String, &Value)| Field {
                    name: name.clone(),
                    shape: inner(schema),
                    required: is_required(name),
                };
                Shape::Group(properties.iter().map(field).collect())
            }
        },
        _ => Shape::Any,
    }
}

/// Several choices as one shape; words of all of them are joined.
fn one_of(choices: Vec<Shape>) -> Shape {
    let mut words = Vec::new();
    let mut others = Vec::new();
    for choice in choices {
        match choice {
            Shape::Word(more) => words.extend(more),
            other => others.push(other),
        }
    }
    if !words.is_empty() {
        others.insert(0, Shape::Word(words));
    }
    match others.len() {
        0 => Shape::Any,
        1 => others.remove(0),
        _ => Shape::OneOf(others),
    }
}

fn is_null(schema: &Value) -> bool {
    schema.get("type").is_some_and(|name| name == "null")
}

impl Mark {
    fn parse(text: &str) -> Option<Self> {
        [Mark::Input, Mark::Documents, Mark::Dataset, Mark::Share].into_iter().find(|mark| mark.as_str() == text)
    }
}

impl Found<'_> {
    /// An error that points at the input.
    pub fn error(&self, message: impl Into<String>, label: impl Into<String>) -> Error {
        self.value.error(message, label)
    }
}
