//! A stage whose parents are finished: what goes into its key, and the parameters for its worker.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use petgraph::graph::NodeIndex;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::bind::{BoundDataset, Location, Origin};
use super::{Key, Materials, Plan, Resolved};
use crate::error::{Context, Error, Result};
use crate::stages::{Dataset, Documents, Form, Input, Share, Source};
use crate::store::Digest;

impl Plan {
    /// What goes into the stage's key, and its worker's parameters. The parents are finished: `materials` knows their
    /// artifacts.
    pub fn resolve(&self, node: NodeIndex, materials: &mut dyn Materials) -> Result<Resolved> {
        let stage = &self.graph[node];
        let mut key = Key::new(&stage.kind, stage.revision);
        for argument in stage.command.iter().flat_map(|command| &command.written) {
            key.push("command", argument.as_str());
        }
        flatten("", &stage.parameters, &mut key);
        let mut resolver = Resolver { plan: self, materials, facts: BTreeMap::new(), inputs: Vec::new() };
        let mut parameters = stage.parameters.clone();
        for bound in &stage.inputs {
            let value = resolver.value(&bound.written, &bound.origin);
            let value =
                value.context(|| format!("stage `{}`: input \"{}\" can't be used", stage.name, bound.written))?;
            if let Some(slot) = parameters.pointer_mut(&bound.pointer) {
                *slot = value;
            }
        }
        for (name, value) in resolver.facts {
            key.push(name, value);
        }
        for (name, digest) in &resolver.inputs {
            key.push_input(name, *digest);
        }
        Ok(match &stage.command {
            None => Resolved { kind: stage.kind.clone(), key, parameters },
            Some(command) => {
                let names = stage.inputs.iter().map(|bound| bound.pointer.trim_start_matches('/'));
                let parameters = json!({ "command": command.filled, "inputs": command_inputs(names, &parameters) });
                Resolved { kind: "command".to_owned(), key, parameters }
            }
        })
    }
}

/// One item per parameter, named by its dotted path, sorted; one item per entry of a list.
fn flatten(name: &str, value: &Value, key: &mut Key) {
    match value {
        Value::Object(map) if name.is_empty() || !map.is_empty() => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(name, _)| *name);
            for (child, value) in entries {
                let name = if name.is_empty() { child.clone() } else { format!("{name}.{child}") };
                flatten(&name, value, key);
            }
        }
        Value::Array(items) if !items.is_empty() => items.iter().for_each(|item| key.push(name, item.clone())),
        value => key.push(name, value.clone()),
    }
}

/// The resolved inputs of a user's kind, as the worker's `command` kind takes them.
fn command_inputs<'a>(names: impl Iterator<Item = &'a str>, parameters: &Value) -> Map<String, Value> {
    let mut inputs = Map::new();
    for name in names {
        let value = &parameters[name];
        let from = value.get("from").or_else(|| value.get("name"));
        if let (Some(from), Some(path @ Value::String(_))) = (from, value.get("path")) {
            inputs.insert(name.to_owned(), json!({ "from": from, "path": path }));
        }
    }
    inputs
}

struct Resolver<'a> {
    plan: &'a Plan,
    materials: &'a mut dyn Materials,
    /// What the registry says and the worker sees: `dataset books.task`.
    facts: BTreeMap<String, Value>,
    /// As written, and what it is now.
    inputs: Vec<(String, Digest)>,
}

impl Resolver<'_> {
    fn value(&mut self, written: &str, origin: &Origin) -> Result<Value> {
        match origin {
            Origin::Input(location) => {
                let path = self.location(written, location)?;
                to_json(&Input { from: written.to_owned(), path })
            }
            Origin::Documents(location) => {
                let path = self.location(written, location)?;
                let files = if path.is_dir() { files_under(&path, &["jsonl", "txt"])? } else { vec![path] };
                documents(written, files)
            }
            Origin::DatasetDocuments { dataset, split } => {
                let files = self.dataset_files(dataset, split.as_deref())?;
                documents(written, files)
            }
            Origin::Dataset(dataset) => to_json(&self.dataset(dataset)?),
            Origin::Share { amount, dataset } => {
                to_json(&Share { amount: *amount, dataset: self.dataset(dataset)? })
            }
        }
    }

    fn location(&mut self, written: &str, location: &Location) -> Result<PathBuf> {
        match location {
            Location::Artifact { stage, part: None } => {
                let (digest, path) = self.artifact(*stage)?;
                self.input(written, digest);
                Ok(path)
            }
            Location::Artifact { stage, part: Some(part) } => {
                let (digest, path) = self.artifact(*stage)?;
                let digest = self.materials.part(digest, part)?;
                self.input(written, digest);
                Ok(path.join(part))
            }
            Location::Source(path) => {
                let absolute = self.plan.workspace.join(path);
                let digest = self.materials.source(&absolute)?;
                // A path may be written in several ways; the key knows one.
                self.input(&path.to_string_lossy(), digest);
                Ok(absolute)
            }
        }
    }

    fn artifact(&mut self, stage: NodeIndex) -> Result<(Digest, PathBuf)> {
        self.materials.artifact(&self.plan.graph[stage].name)
    }

    /// The same input may serve two parameters; it counts once.
    fn input(&mut self, name: &str, digest: Digest) {
        if !self.inputs.iter().any(|(known, _)| known == name) {
            self.inputs.push((name.to_owned(), digest));
        }
    }

    /// A registered dataset as its worker sees it, and nothing more than that in the key.
    fn dataset(&mut self, dataset: &BoundDataset) -> Result<Dataset> {
        let entry = &dataset.entry;
        let name = entry.name.as_str();
        let source = match dataset.form {
            // Where the data come from matters to the one who fetches them; to others the data themselves do.
            None => entry.source.clone(),
            Some(_) => Source { task: entry.source.task, ..Source::default() },
        };
        for (key, value) in to_json(&source)?.as_object().into_iter().flatten() {
            let is_empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
            if !is_empty {
                self.facts.insert(format!("dataset {name}.{key}"), value.clone());
            }
        }
        let (doc, encoded) = match dataset.has_splits {
            true => (entry.doc.clone(), entry.encoded.clone()),
            false => (BTreeMap::new(), BTreeMap::new()),
        };
        for (key, names) in [("doc", &doc), ("encoded", &encoded)] {
            for (split, file) in names {
                self.facts.insert(format!("dataset {name}.{key}.{split}"), file.as_str().into());
            }
        }
        let path = match dataset.form {
            None => None,
            Some(form) => Some(self.form(dataset, form)?),
        };
        Ok(Dataset { name: entry.name.clone(), form: dataset.form, path, doc, encoded, source })
    }

    /// The folder that holds a form; of a registered root only the files of that form count.
    fn form(&mut self, dataset: &BoundDataset, form: Form) -> Result<PathBuf> {
        let entry = &dataset.entry;
        let name = &entry.name;
        let Some(provider) = dataset.provider else {
            let parts = match form {
                Form::Raw => {
                    let digest = self.materials.source(&entry.root)?;
                    self.input(&format!("dataset:{name} as raw"), digest);
                    Vec::new()
                }
                Form::Jsonl => jsonl_files(&entry.root)?,
                Form::Split => entry.doc.values().map(|doc| entry.root.join(format!("{doc}.jsonl"))).collect(),
                Form::Encoded => entry.encoded.values().map(|folder| entry.root.join(folder)).collect(),
            };
            for part in parts {
                self.registered(dataset, &part)?;
            }
            return Ok(entry.root.clone());
        };
        let (digest, path) = self.artifact(provider)?;
        if dataset.by_name {
            self.input(&format!("dataset:{name} as {}", form.as_str()), digest);
        } else {
            self.input(&format!("@{}", self.plan.graph[provider].name), digest);
        }
        Ok(path)
    }

    /// A file or folder under a registered root; the key names it by its place there.
    fn registered(&mut self, dataset: &BoundDataset, path: &Path) -> Result<()> {
        let digest = self.materials.source(path)?;
        let relative = path.strip_prefix(&dataset.entry.root).unwrap_or(path);
        self.input(&format!("dataset:{}/{}", dataset.entry.name, relative.display()), digest);
        Ok(())
    }

    /// The files of `dataset:NAME` or `dataset:NAME/SPLIT`.
    fn dataset_files(&mut self, dataset: &BoundDataset, split: Option<&str>) -> Result<Vec<PathBuf>> {
        let entry = &dataset.entry;
        let splits = || entry.splits.iter().filter(|name| split.is_none_or(|split| split == name.as_str()));
        let split_files = |folder: &Path| -> Vec<PathBuf> {
            splits()
                .filter_map(|split| entry.doc.get(split))
                .map(|doc| folder.join(format!("{doc}.jsonl")))
                .collect()
        };
        let form = dataset.form.unwrap_or(Form::Jsonl);
        let files_in = |folder: &Path| match form {
            Form::Split => Ok(split_files(folder)),
            Form::Jsonl => jsonl_files(folder),
            _ => files_under(folder, &["jsonl"]),
        };
        let Some(provider) = dataset.provider else {
            let files = files_in(&entry.root)?;
            for file in &files {
                self.registered(dataset, file)?;
            }
            return Ok(files);
        };
        let (digest, path) = self.artifact(provider)?;
        let files = files_in(&path)?;
        match (split, &files[..]) {
            (Some(split), [file]) => {
                let part = file.strip_prefix(&path).unwrap_or(file);
                let digest = self.materials.part(digest, part)?;
                self.input(&format!("dataset:{}/{split}", entry.name), digest);
            }
            _ => self.input(&format!("dataset:{} as {}", entry.name, form.as_str()), digest),
        }
        Ok(files)
    }
}

fn documents(written: &str, files: Vec<PathBuf>) -> Result<Value> {
    if files.is_empty() {
        return Err(Error::invalid(format!("\"{written}\" holds no documents"))
            .hint("documents are files *.jsonl with a `text` field, or *.txt"));
    }
    to_json(&Documents { from: written.to_owned(), files })
}

fn to_json(value: &impl Serialize) -> Result<Value> {
    serde_json::to_value(value).context(|| "an input can't be written as JSON".to_owned())
}

/// `*.jsonl` in a folder, sorted by name.
fn jsonl_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in folder.read_dir().context(|| format!("cannot read folder {}", folder.display()))? {
        let path = entry.context(|| format!("cannot read folder {}", folder.display()))?.path();
        if path.is_file() && path.extension().is_some_and(|end| end == "jsonl") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Files with one of these endings in a folder and all folders below it, sorted.
fn files_under(folder: &Path, endings: &[&str]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().context(|| format!("cannot read folder {}", folder.display()))? {
            let path = entry.context(|| format!("cannot read folder {}", folder.display()))?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().and_then(|end| end.to_str()).is_some_and(|end| endings.contains(&end)) {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}
