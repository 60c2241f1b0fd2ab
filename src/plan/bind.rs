//! What the inputs of a stage mean: which stage, which file, which form of which dataset.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use petgraph::graph::NodeIndex;

use super::workspace::{CACHE, REGISTRY, Unusable, normalize, source_path};
use crate::corpus::mix::Amount;
use crate::error::{Error, Result};
use crate::manifest::{
    Content, DatasetEntry, DocumentsReference, Found, Instance, Located, Mark, Registry, Shape, ShareText,
    StageReference, with_suggestion,
};
use crate::stages::Form;

/// An input and what it means.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    /// Where it stands in the parameters.
    pub pointer: String,
    /// As written, templates filled in.
    pub written: String,
    pub origin: Origin,
}

#[derive(Clone, Debug)]
pub(crate) enum Origin {
    Input(Location),
    Documents(Location),
    /// `dataset:NAME`, `dataset:NAME/SPLIT`.
    DatasetDocuments {
        dataset: BoundDataset,
        split: Option<String>,
    },
    Dataset(BoundDataset),
    Share {
        amount: Amount,
        dataset: BoundDataset,
    },
}

#[derive(Clone, Debug)]
pub(crate) enum Location {
    Artifact {
        stage: NodeIndex,
        part: Option<PathBuf>,
    },
    /// Relative to the workspace.
    Source(PathBuf),
}

#[derive(Clone, Debug)]
pub(crate) struct BoundDataset {
    pub entry: Arc<DatasetEntry>,
    /// `None` for a stage that takes no form, only the entry.
    pub form: Option<Form>,
    /// The stage that provides the form; `None` means the files under the registry's root.
    pub provider: Option<NodeIndex>,
    /// Whether the names of the splits' files matter to the stage: it takes or provides them.
    pub has_splits: bool,
    /// Asked for by its name, not as `@stage`.
    pub by_name: bool,
}

impl Bound {
    /// The stage whose artifact this is.
    pub fn parent(&self) -> Option<NodeIndex> {
        match &self.origin {
            Origin::Input(Location::Artifact { stage, .. })
            | Origin::Documents(Location::Artifact { stage, .. }) => Some(*stage),
            Origin::Dataset(dataset) | Origin::Share { dataset, .. } | Origin::DatasetDocuments { dataset, .. } => {
                dataset.provider
            }
            Origin::Input(Location::Source(_)) | Origin::Documents(Location::Source(_)) => None,
        }
    }
}

/// The stage that asks.
pub(super) struct Asker<'a> {
    pub node: NodeIndex,
    pub kind: &'a str,
    pub takes: Option<Form>,
    pub provides: Option<Form>,
}

/// What the whole pipeline offers to an input.
pub(super) struct Binder<'a> {
    pub workspace: &'a Path,
    pub registry: &'a Registry,
    /// Stage → its instances; a stage without `foreach` has one without a name.
    pub stages: BTreeMap<&'a str, Vec<(Option<&'a str>, NodeIndex)>>,
    /// (dataset, form) → the stage that provides it to those who ask for the dataset by name.
    pub providers: BTreeMap<(&'a str, Form), NodeIndex>,
    /// What each stage provides, by its index.
    pub provided: Vec<Option<(&'a str, Form)>>,
    /// Views, relative to the workspace, and the names of their stages.
    pub views: Vec<(&'a Path, &'a str)>,
    /// Kinds that provide a form: for advice.
    pub kinds_that_provide: &'a dyn Fn(Form) -> Vec<String>,
}

impl Binder<'_> {
    /// In lists of inputs, replaces `@stage` and `@stage[*]` of a `foreach` stage by all its instances.
    pub fn expand_lists(&self, shape: &Shape, value: &mut Located) -> Result<()> {
        match (shape, &mut value.content) {
            (Shape::List(item), Content::List(items)) => {
                if !matches!(**item, Shape::Input(Mark::Input | Mark::Documents | Mark::Dataset)) {
                    return items.iter_mut().try_for_each(|value| self.expand_lists(item, value));
                }
                let mut expanded = Vec::with_capacity(items.len());
                for item in items.drain(..) {
                    match self.all_instances(&item)? {
                        None => expanded.push(item),
                        Some(texts) => expanded.extend(
                            texts
                                .into_iter()
                                .map(|text| Located { content: Content::String(text), place: item.place.clone() }),
                        ),
                    }
                }
                *items = expanded;
                Ok(())
            }
            (Shape::Map(shape), Content::Table(table)) => {
                table.entries.iter_mut().try_for_each(|entry| self.expand_lists(shape, &mut entry.value))
            }
            (Shape::Group(_), Content::Table(table)) => {
                for entry in &mut table.entries {
                    if let Some(field) = shape.field(&entry.key) {
                        self.expand_lists(&field.shape, &mut entry.value)?;
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn all_instances(&self, value: &Located) -> Result<Option<Vec<String>>> {
        let Some(reference) = StageReference::parse(value)? else { return Ok(None) };
        let Some(instances) = self.stages.get(reference.stage.as_str()) else { return Ok(None) };
        let part = reference.part.map_or(String::new(), |part| format!("/{}", part.display()));
        let names: Vec<&str> = instances.iter().filter_map(|(name, _)| *name).collect();
        Ok(match reference.instance {
            None | Some(Instance::All) if !names.is_empty() => {
                Some(names.into_iter().map(|name| format!("@{}[{name}]{part}", reference.stage)).collect())
            }
            _ => None,
        })
    }

    /// Says what an input means, or why it means nothing.
    pub fn bind(&self, found: Found<'_>, asker: &Asker<'_>) -> Result<Bound> {
        let written = found.value.string("an input")?.to_owned();
        let origin = match found.mark {
            Mark::Input => Origin::Input(self.location(found.value)?),
            Mark::Documents => match DocumentsReference::parse(found.value) {
                None => Origin::Documents(self.location(found.value)?),
                Some(reference) => self.documents(found.value, reference, asker)?,
            },
            Mark::Dataset => Origin::Dataset(self.dataset(found.value, asker)?),
            Mark::Share => {
                let share = ShareText::parse(found.value)?;
                Origin::Share { amount: share.amount, dataset: self.dataset(&share.dataset, asker)? }
            }
        };
        Ok(Bound { pointer: found.pointer, written, origin })
    }

    /// `@stage`, `@stage/path`, or a path in the workspace.
    fn location(&self, value: &Located) -> Result<Location> {
        match StageReference::parse(value)? {
            Some(reference) => {
                let stage = self.stage(value, &reference)?;
                Ok(Location::Artifact { stage, part: reference.part })
            }
            None => self.source(value).map(Location::Source),
        }
    }

    fn stage(&self, value: &Located, reference: &StageReference) -> Result<NodeIndex> {
        let name = reference.stage.as_str();
        let Some(instances) = self.stages.get(name) else {
            let error = value.place.of_part(name).error(format!("unknown stage `{name}`"), "no such stage");
            return Err(with_suggestion(error, name, self.stages.keys().copied(), "the stages are"));
        };
        match (&reference.instance, &instances[..]) {
            (None, [(None, node)]) => Ok(*node),
            (Some(_), [(None, _)]) => Err(value
                .error(format!("stage `{name}` has no instances"), "it has no `foreach`")
                .hint(format!("write \"@{name}\""))),
            (Some(Instance::Named(instance)), _) => {
                let found = instances.iter().find(|(name, _)| *name == Some(instance.as_str()));
                found.map(|(_, node)| *node).ok_or_else(|| {
                    let place = value.place.of_part(instance);
                    let error =
                        place.error(format!("stage `{name}` has no instance `{instance}`"), "no such instance");
                    let names = instances.iter().filter_map(|(name, _)| *name);
                    with_suggestion(error, instance, names, "its instances are")
                })
            }
            (None | Some(Instance::All), _) => {
                let first = instances.iter().find_map(|(name, _)| *name).unwrap_or_default();
                Err(value
                    .error(
                        format!("stage `{name}` has {} instances, and one is expected here", instances.len()),
                        "only a list takes them all",
                    )
                    .hint(format!("name one: \"@{name}[{first}]\"")))
            }
        }
    }

    /// Absolute path of a file in the workspace.
    pub fn file(&self, value: &Located) -> Result<PathBuf> {
        let path = self.workspace.join(self.source(value)?);
        if path.is_file() { Ok(path) } else { Err(value.error("a file is expected here", "this is a folder")) }
    }

    fn source(&self, value: &Located) -> Result<PathBuf> {
        let text = value.string("an input")?;
        if text.is_empty() {
            return Err(value.error("the input is empty", "a path or a reference is expected"));
        }
        let error = match source_path(self.workspace, text) {
            Ok(path) => return Ok(path),
            Err(error) => error,
        };
        let lexical = normalize(&self.workspace.join(text));
        let relative = lexical.strip_prefix(self.workspace).unwrap_or(&lexical);
        let view = self.views.iter().find(|(view, _)| relative.starts_with(view));
        let stage_hint = view.map(|(view, stage)| match relative.strip_prefix(view) {
            Ok(part) if !part.as_os_str().is_empty() => format!("write \"@{stage}/{}\"", part.display()),
            _ => format!("write \"@{stage}\""),
        });
        Err(match error {
            Unusable::Leaves => value
                .error(format!("\"{text}\" leaves the workspace"), "outside the workspace")
                .hint("copy it into the workspace, so that the pipeline finds it on any machine"),
            Unusable::InStore => value
                .error(format!("\"{text}\" is the output of a stage, not a source"), format!("it lies in {CACHE}/"))
                .hint(stage_hint.unwrap_or_else(|| "name the stage that made it: \"@stage\"".to_owned())),
            Unusable::Missing => {
                let error =
                    value.error(format!("\"{text}\" does not exist"), "no such file or folder in the workspace");
                match stage_hint {
                    Some(hint) => error.hint(hint),
                    None if self.stages.contains_key(text) => {
                        error.hint(format!("write \"@{text}\" for the stage"))
                    }
                    None if self.registry.get(text).is_some() => {
                        error.hint(format!("write \"dataset:{text}\" for the documents of the dataset"))
                    }
                    None => error,
                }
            }
        })
    }

    fn entry(&self, value: &Located, name: &str) -> Result<&Arc<DatasetEntry>> {
        self.registry.get(name).ok_or_else(|| {
            let place = value.place.of_part(name);
            let error = place.error(format!("dataset \"{name}\" is not registered"), format!("not in {REGISTRY}"));
            let advice = format!("{REGISTRY} registers");
            if self.registry.datasets.is_empty() {
                return error.hint(format!("register it in {REGISTRY}: [{name}] with its `repo` or its `root`"));
            }
            with_suggestion(error, name, self.registry.names(), &advice)
        })
    }

    /// The dataset in the nearest form at or below the one that the asker takes: from a stage of this pipeline, or
    /// else from the registry's root. `@stage` takes the form that this very stage provides.
    fn dataset(&self, value: &Located, asker: &Asker<'_>) -> Result<BoundDataset> {
        let name = value.string("a dataset")?;
        let forms = asker.takes.map_or(Vec::new(), forms_for);
        if let Some(reference) = StageReference::parse(value)? {
            return self.dataset_of_stage(value, &reference, &forms, asker);
        }
        let entry = self.entry(value, name)?.clone();
        let has_splits = asker.has_splits();
        let Some(takes) = asker.takes else {
            return Ok(BoundDataset { entry, form: None, provider: None, has_splits, by_name: true });
        };
        let provided = forms.iter().find_map(|form| Some((*form, self.provider(name, *form, asker)?)));
        if let Some((form, node)) = provided {
            return Ok(BoundDataset { entry, form: Some(form), provider: Some(node), has_splits, by_name: true });
        }
        match forms.iter().find(|form| is_registered(&entry, **form)) {
            Some(form) => Ok(BoundDataset { entry, form: Some(*form), provider: None, has_splits, by_name: true }),
            None => Err(self.no_form(value, &entry, takes, asker)),
        }
    }

    fn dataset_of_stage(
        &self,
        value: &Located,
        reference: &StageReference,
        forms: &[Form],
        asker: &Asker<'_>,
    ) -> Result<BoundDataset> {
        let node = self.stage(value, reference)?;
        let stage = &reference.stage;
        if asker.provides.is_some() {
            // Its own dataset would have no name before the graph is known.
            return Err(value
                .error(format!("a stage of kind `{}` takes its dataset by name", asker.kind), "a name is expected")
                .hint("write the name of the dataset in datasets.toml"));
        }
        match self.provided[node.index()] {
            Some((name, form)) if forms.contains(&form) && reference.part.is_none() => {
                let entry = self.entry(value, name)?.clone();
                Ok(BoundDataset {
                    entry,
                    form: Some(form),
                    provider: Some(node),
                    has_splits: asker.has_splits(),
                    by_name: false,
                })
            }
            Some((name, form)) => Err(value.error(
                format!("stage `{stage}` provides the {} form of dataset \"{name}\"", form.as_str()),
                format!(
                    "`{}` needs the {} form",
                    asker.kind,
                    forms.first().map_or("registered", |form| form.as_str())
                ),
            )),
            None => Err(value.error(format!("stage `{stage}` provides no dataset"), "a dataset is expected")),
        }
    }

    /// The stage that provides a form of a dataset to others than itself.
    fn provider(&self, name: &str, form: Form, asker: &Asker<'_>) -> Option<NodeIndex> {
        self.providers.get(&(name, form)).copied().filter(|node| *node != asker.node)
    }

    /// `dataset:NAME/SPLIT`: that split's file. `dataset:NAME`: the JSONL form, else all splits, else raw JSONL files.
    fn documents(&self, value: &Located, reference: DocumentsReference, asker: &Asker<'_>) -> Result<Origin> {
        let entry = self.entry(value, &reference.dataset)?.clone();
        if let Some(split) = &reference.split
            && !entry.splits.contains(split)
        {
            let place = value.place.of_part(&format!("/{split}"));
            let error = place.error(format!("dataset \"{}\" has no split `{split}`", entry.name), "no such split");
            let splits = entry.splits.iter().map(String::as_str);
            return Err(with_suggestion(error, split, splits, "its splits are"));
        }
        let forms: &[Form] = match reference.split {
            Some(_) => &[Form::Split],
            None => &[Form::Jsonl, Form::Split, Form::Raw],
        };
        let provided = forms.iter().find_map(|form| Some((*form, Some(self.provider(&entry.name, *form, asker)?))));
        let registered = || forms.iter().find(|form| is_registered(&entry, **form)).map(|form| (*form, None));
        let Some((form, provider)) = provided.or_else(registered) else {
            return Err(self.no_form(value, &entry, forms[0], asker));
        };
        let dataset = BoundDataset { entry, form: Some(form), provider, has_splits: true, by_name: true };
        Ok(Origin::DatasetDocuments { dataset, split: reference.split })
    }

    fn no_form(&self, value: &Located, entry: &DatasetEntry, form: Form, asker: &Asker<'_>) -> Error {
        let name = &entry.name;
        let place = value.place.of_part(name);
        let error = place.error(
            format!(
                "dataset \"{name}\" has no {} form: no stage of this pipeline provides it, and {} holds none",
                form.as_str(),
                entry.root_text
            ),
            format!("`{}` needs it", asker.kind),
        );
        let nothing = !is_registered(entry, Form::Raw) && self.provider(name, Form::Raw, asker).is_none();
        if form == Form::Jsonl && nothing {
            return error
                .hint(format!("put its *.jsonl files under {}, or add a download stage for it", entry.root_text));
        }
        let kinds = (self.kinds_that_provide)(form);
        match kinds.first() {
            Some(kind) => error.hint(format!("add a stage with use = \"{kind}\" and dataset = \"{name}\"")),
            None => error.hint(format!("put its files under {}", entry.root_text)),
        }
    }
}

impl Asker<'_> {
    /// Whether the names of splits matter to the stage.
    fn has_splits(&self) -> bool {
        self.takes.max(self.provides) >= Some(Form::Split)
    }
}

/// The forms that serve one who takes `takes`, best first. Token blocks can be had from nothing but token blocks; a
/// form of text can stand for the next one.
fn forms_for(takes: Form) -> Vec<Form> {
    let serves = |form: &Form| *form == takes || (*form < takes && takes < Form::Encoded);
    Form::ALL.into_iter().rev().filter(serves).collect()
}

/// Whether the registry's root holds a dataset in that form.
fn is_registered(entry: &DatasetEntry, form: Form) -> bool {
    let root = &entry.root;
    match form {
        Form::Encoded => !entry.encoded.is_empty() && entry.encoded.values().all(|name| root.join(name).is_dir()),
        Form::Split => {
            !entry.doc.is_empty() && entry.doc.values().all(|name| root.join(format!("{name}.jsonl")).is_file())
        }
        Form::Jsonl => root.read_dir().is_ok_and(|mut entries| {
            entries.any(|entry| entry.is_ok_and(|entry| entry.path().extension().is_some_and(|end| end == "jsonl")))
        }),
        Form::Raw => root.read_dir().is_ok_and(|mut entries| entries.next().is_some()),
    }
}
