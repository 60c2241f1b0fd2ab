//! The invented world: tables of things, each with a name in both languages and with attributes that name other things.

use std::collections::BTreeMap;

use super::Result;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Language {
    English,
    Chinese,
}

impl Language {
    pub fn code(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Chinese => "zh",
        }
    }
}

/// One thing: its columns by name. `id` names it within the world.
pub type Row = BTreeMap<String, String>;

pub struct World {
    tables: BTreeMap<String, Vec<Row>>,
    /// Where the thing of an id is: its table and row.
    places: BTreeMap<String, (String, usize)>,
}

impl World {
    /// Reads tables of the form `[name]`, a line of column names, and one line for each thing, all with `|` between.
    pub fn parse(text: &str) -> Result<Self> {
        let mut world = Self { tables: BTreeMap::new(), places: BTreeMap::new() };
        let mut table = String::new();
        let mut columns: Vec<&str> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                table = name.to_owned();
                columns.clear();
                continue;
            }
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            if columns.is_empty() {
                columns = cells;
                continue;
            }
            if cells.len() != columns.len() {
                return Err(format!("world line {number}: {} cells, {} columns", cells.len(), columns.len()).into());
            }
            let row: Row = columns.iter().zip(&cells).map(|(c, v)| (c.to_string(), v.to_string())).collect();
            let rows = world.tables.entry(table.clone()).or_default();
            if world.places.insert(row["id"].clone(), (table.clone(), rows.len())).is_some() {
                return Err(format!("world line {number}: {} is named twice", row["id"]).into());
            }
            rows.push(row);
        }
        Ok(world)
    }

    pub fn table(&self, name: &str) -> Result<&[Row]> {
        Ok(self.tables.get(name).ok_or_else(|| format!("no table {name}"))?)
    }

    pub fn row(&self, id: &str) -> Option<&Row> {
        self.places.get(id).map(|(table, index)| &self.tables[table][*index])
    }

    /// The text at the end of a path of attributes, in one language: `["home", "bridge"]` of a person is the name of
    /// what the bridge of that person's village is made of. `attribute_en` and `attribute_zh` stand for `attribute`.
    pub fn text(&self, row: &Row, path: &[&str], language: Language) -> Result<String> {
        let code = language.code();
        let Some((first, rest)) = path.split_first() else {
            return Ok(row.get(code).ok_or_else(|| format!("{} has no name", row["id"]))?.clone());
        };
        if let Some(text) = row.get(&format!("{first}_{code}")) {
            return Ok(text.clone());
        }
        let value = row.get(*first).ok_or_else(|| format!("{} has no {first}", row["id"]))?;
        match self.row(value) {
            Some(next) => self.text(next, rest, language),
            None => Ok(value.clone()),
        }
    }
}
