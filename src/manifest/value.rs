//! TOML values that remember where they stand.

use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::place::{Place, TextFile};
use crate::error::{Error, Result};

/// A value and its place.
#[derive(Clone, Debug)]
pub struct Located {
    pub content: Content,
    pub place: Place,
}

#[derive(Clone, Debug)]
pub enum Content {
    String(String),
    Integer(i64),
    /// Always finite.
    Float(f64),
    Boolean(bool),
    List(Vec<Located>),
    Table(Table),
}

/// Keys and values in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Table {
    pub entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub key: String,
    /// Where the key stands.
    pub place: Place,
    pub value: Located,
}

impl Table {
    /// Parses a whole file.
    pub fn parse(file: &Arc<TextFile>) -> Result<Self> {
        let table = DeTable::parse(&file.text).map_err(|error| {
            let sentence = error.message().lines().collect::<Vec<_>>().join(", ");
            let place = Place::new(file, error.span().unwrap_or(0..0));
            place.error(format!("{} is not valid TOML", file.name.display()), sentence)
        })?;
        read_table(file, table.into_inner())
    }

    pub fn get(&self, key: &str) -> Option<&Located> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: &str) -> Option<Entry> {
        let at = self.entries.iter().position(|entry| entry.key == key)?;
        Some(self.entries.remove(at))
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.key.as_str())
    }

    /// Lays `above` over this table: its values win; tables are merged key by key, lists are replaced whole.
    pub fn overlay(&mut self, above: Table) {
        for entry in above.entries {
            match self.entries.iter_mut().find(|own| own.key == entry.key) {
                None => self.entries.push(entry),
                Some(own) => match (&mut own.value.content, entry.value.content) {
                    (Content::Table(below), Content::Table(above)) => {
                        below.overlay(above);
                        own.place = entry.place;
                        own.value.place = entry.value.place;
                    }
                    (_, content) => {
                        *own =
                            Entry { key: entry.key, place: entry.place, value: Located { content, ..entry.value } };
                    }
                },
            }
        }
    }
}

impl Located {
    pub fn as_str(&self) -> Option<&str> {
        match &self.content {
            Content::String(text) => Some(text),
            _ => None,
        }
    }

    /// The type with its article, as errors say it: `a string`.
    pub fn type_name(&self) -> &'static str {
        match &self.content {
            Content::String(_) => "a string",
            Content::Integer(_) => "an integer",
            Content::Float(_) => "a number",
            Content::Boolean(_) => "a boolean",
            Content::List(_) => "a list",
            Content::Table(_) => "a table",
        }
    }

    /// An error that points at the value.
    pub fn error(&self, message: impl Into<String>, label: impl Into<String>) -> Error {
        self.place.error(message, label)
    }

    /// The string that stands here; `what` names the value in the error.
    pub fn string(&self, what: &str) -> Result<&str> {
        self.as_str().ok_or_else(|| self.wrong_type(what, "a string"))
    }

    /// The strings of the list that stands here.
    pub fn strings(&self, what: &str) -> Result<Vec<String>> {
        let Content::List(items) = &self.content else {
            return Err(self.wrong_type(what, "a list of strings"));
        };
        items.iter().map(|item| item.string(&format!("an entry of {what}")).map(str::to_owned)).collect()
    }

    /// The table that stands here.
    pub fn table(self, what: &str) -> Result<Table> {
        match self.content {
            Content::Table(table) => Ok(table),
            _ => Err(self.wrong_type(what, "a table")),
        }
    }

    pub fn wrong_type(&self, what: &str, expected: &str) -> Error {
        let found = self.type_name();
        self.error(format!("{what} takes {expected}, not {found}"), format!("{found}, but {expected} is expected"))
    }
}

fn read_table(file: &Arc<TextFile>, table: DeTable<'_>) -> Result<Table> {
    let entries = table.into_iter().map(|(key, value)| {
        let place = Place::new(file, key.span());
        let span = value.span();
        let value = Located {
            content: read_content(file, span.clone(), value.into_inner())?,
            place: Place::new(file, span),
        };
        Ok(Entry { key: key.into_inner().into_owned(), place, value })
    });
    Ok(Table { entries: entries.collect::<Result<_>>()? })
}

fn read_content(file: &Arc<TextFile>, span: std::ops::Range<usize>, value: DeValue<'_>) -> Result<Content> {
    let place = Place::new(file, span);
    Ok(match value {
        DeValue::String(text) => Content::String(text.into_owned()),
        DeValue::Boolean(value) => Content::Boolean(value),
        DeValue::Integer(value) => match i64::from_str_radix(value.as_str(), value.radix()) {
            Ok(value) => Content::Integer(value),
            Err(_) => return Err(place.error("the integer is too large", "more than 64 bits")),
        },
        DeValue::Float(value) => match value.as_str().parse::<f64>() {
            Ok(value) if value.is_finite() => Content::Float(value),
            _ => return Err(place.error("the number is not finite", "a finite number is expected")),
        },
        DeValue::Datetime(_) => {
            return Err(place.error("dates have no meaning here", "write it as a string"));
        }
        DeValue::Array(items) => Content::List(
            items
                .into_iter()
                .map(|item| {
                    let span = item.span();
                    let content = read_content(file, span.clone(), item.into_inner())?;
                    Ok(Located { content, place: Place::new(file, span) })
                })
                .collect::<Result<_>>()?,
        ),
        DeValue::Table(table) => Content::Table(read_table(file, table)?),
    })
}
