//! The kinds that a pipeline may use: the built-in ones, and those that a `stages/` folder describes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::manifest::{
    Content, Field, KindManifest, KindSchema, Located, Mark, Place, Shape, Table, TextFile, is_kind_name,
    with_suggestion,
};
use crate::stages::{Check, Kind};

/// A kind with its manifest read and its parameters' shape known.
pub(crate) struct KindSpec {
    pub name: String,
    /// 0 for a user's kind.
    pub revision: u32,
    pub manifest: KindManifest,
    /// Always a [`Shape::Group`].
    pub shape: Shape,
    /// `None` for a user's kind.
    pub check: Option<Check>,
    /// JSON Schema of the parameters.
    schema: Value,
}

/// Every kind that the pipelines in `pipelines/` of a workspace can use, for the schema of a pipeline.
pub fn kind_schemas(builtin: &[Kind], workspace: &Path) -> Result<Vec<KindSchema>> {
    let kinds = Kinds::new(builtin, workspace, &workspace.join("pipelines/any.toml"));
    let mut schemas = Vec::new();
    for name in kinds.names() {
        if let Some(kind) = kinds.read_kind(&name)? {
            schemas.push(KindSchema {
                name,
                description: kind.manifest.description,
                parameters: kind.schema,
                defaults: kind.manifest.parameters.to_json(),
            });
        }
    }
    Ok(schemas)
}

/// Looks kinds up, each read once.
pub(crate) struct Kinds<'a> {
    builtin: &'a [Kind],
    /// Folders of stage manifests, the later ones over the earlier, and their names for errors.
    folders: Vec<(PathBuf, PathBuf)>,
    read: BTreeMap<String, Rc<KindSpec>>,
}

/// Names that a user's kind can't give to a parameter: they mean something in a stage or in a command line.
const RESERVED: [&str; 8] = ["use", "foreach", "resources", "expect", "command", "output", "scratch", "threads"];

impl<'a> Kinds<'a> {
    /// `stages/` of the workspace and, over it, `stages/` beside the pipeline.
    pub fn new(builtin: &'a [Kind], workspace: &Path, manifest: &Path) -> Self {
        let mut folders = vec![(workspace.join("stages"), PathBuf::from("stages"))];
        if let Some(beside) = manifest.parent().map(|folder| folder.join("stages"))
            && beside != folders[0].0
        {
            let shown = beside.strip_prefix(workspace).unwrap_or(&beside).to_owned();
            folders.push((beside, shown));
        }
        folders.retain(|(folder, _)| folder.is_dir());
        Self { builtin, folders, read: BTreeMap::new() }
    }

    /// The kind that a stage asks for at `place`.
    pub fn get(&mut self, name: &str, place: &Place) -> Result<Rc<KindSpec>> {
        if let Some(kind) = self.read.get(name) {
            return Ok(kind.clone());
        }
        let kind = Rc::new(self.read_kind(name)?.ok_or_else(|| self.unknown(name, place))?);
        self.read.insert(name.to_owned(), kind.clone());
        Ok(kind)
    }

    /// The names of all kinds, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.builtin.iter().map(|kind| kind.name.to_owned()).collect();
        for entry in self.folders.iter().filter_map(|(folder, _)| folder.read_dir().ok()).flatten().flatten() {
            if let Some(name) = entry.file_name().to_str().and_then(|name| name.strip_suffix(".toml"))
                && is_kind_name(name)
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        names.dedup();
        names
    }

    fn unknown(&self, name: &str, place: &Place) -> Error {
        let names = self.names();
        let error = place.error(format!("unknown kind `{name}`"), "no such kind");
        with_suggestion(error, name, names.iter().map(String::as_str), "the kinds are")
    }

    /// Merges the layers of a kind's manifest; `None` when there is no layer at all.
    pub fn read_kind(&self, name: &str) -> Result<Option<KindSpec>> {
        if !is_kind_name(name) {
            return Ok(None);
        }
        let builtin = self.builtin.iter().find(|kind| kind.name == name);
        let file_name = format!("{name}.toml");
        let mut table = None;
        let mut last = None;
        if let Some(kind) = builtin {
            let file = TextFile::new(Path::new("stages").join(&file_name), kind.manifest);
            table = Some(Table::parse(&file)?);
        }
        for (folder, shown) in &self.folders {
            let path = folder.join(&file_name);
            if !path.is_file() {
                continue;
            }
            let file = TextFile::read(&path, shown.join(&file_name))?;
            let layer = Table::parse(&file)?;
            match &mut table {
                None => table = Some(layer),
                Some(table) => table.overlay(layer),
            }
            last = Some(file);
        }
        let Some(table) = table else { return Ok(None) };
        let manifest = KindManifest::read(table)?;
        match (builtin, last) {
            (Some(kind), _) => {
                if let Some(command) = manifest.command.as_ref().and_then(|command| command.first()) {
                    return Err(command
                        .error(format!("`{name}` is a built-in kind and can't have a command"), "not allowed here")
                        .hint("give the file of your own kind another name"));
                }
                let schema = kind.schema().to_value();
                let shape = Shape::of_schema(&schema);
                Ok(Some(KindSpec {
                    name: name.to_owned(),
                    revision: kind.revision,
                    manifest,
                    shape,
                    check: Some(kind.check()),
                    schema,
                }))
            }
            (None, Some(file)) => {
                if manifest.command.is_none() {
                    return Err(Place::new(&file, 0..0)
                        .error(format!("kind `{name}` has no `command`, and it is not built in"), "in this file")
                        .hint(
                            "give it a command, for example command = [\"python3\", \"{script}\", \"{output}\"]",
                        ));
                }
                let shape = shape_of_users_kind(&manifest)?;
                let schema = shape.to_schema();
                Ok(Some(KindSpec { name: name.to_owned(), revision: 0, manifest, shape, check: None, schema }))
            }
            (None, None) => Ok(None),
        }
    }
}

/// A user's kind has no schema: its inputs are named, and a parameter's default shows its type.
fn shape_of_users_kind(manifest: &KindManifest) -> Result<Shape> {
    let mut fields: Vec<Field> = Vec::new();
    for input in &manifest.inputs {
        let name = input.as_str().unwrap_or_default();
        check_name(name, &input.place)?;
        let required = manifest.parameters.get(name).is_none();
        fields.push(Field { name: name.to_owned(), shape: Shape::Input(Mark::Input), required });
    }
    if manifest.takes.is_some() || manifest.provides.is_some() {
        fields.retain(|field| field.name != "dataset");
        fields.push(Field { name: "dataset".to_owned(), shape: Shape::Input(Mark::Dataset), required: true });
    }
    for entry in &manifest.parameters.entries {
        check_name(&entry.key, &entry.place)?;
        if fields.iter().all(|field| field.name != entry.key) {
            fields.push(Field { name: entry.key.clone(), shape: Shape::like(&entry.value), required: false });
        }
    }
    Ok(Shape::Group(fields))
}

fn check_name(name: &str, place: &Place) -> Result<()> {
    if RESERVED.contains(&name) {
        return Err(place.error(format!("`{name}` can't name a parameter"), "this name has a meaning of its own"));
    }
    Ok(())
}

impl KindSpec {
    /// Whether stages of this kind give `{placeholders}` of a command line to the worker, and which.
    pub fn kept_placeholders<'t>(&self, parameters: &'t Table) -> Vec<&'t str> {
        if self.name != "command" || self.revision == 0 {
            return Vec::new();
        }
        let mut kept = vec!["output", "scratch", "threads"];
        if let Some(Located { content: Content::Table(inputs), .. }) = parameters.get("inputs") {
            kept.extend(inputs.keys());
        }
        kept
    }
}
