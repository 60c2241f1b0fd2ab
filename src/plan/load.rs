//! From manifests to the graph: reads, checks everything, binds every input.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use petgraph::graph::{DiGraph, NodeIndex};
use serde_json::Value;

use super::bind::{Asker, Binder, Bound};
use super::check::check_parameters;
use super::order::order;
use super::workspace::{CACHE, REGISTRY, normalize};
use super::{CommandLine, KindSpec, Kinds, Node, Plan, Resources};
use crate::error::{Error, Result, nearest};
use crate::manifest::{
    Braces, Content, Instance, Located, Mark, Pipeline, Place, Registry, Scope, Shape, ShareText, StageEntry,
    StageReference, Table, TextFile, parse_size, placeholders, substitute, with_suggestion,
};
use crate::stages::{Form, KINDS, Kind};

/// A stage on its way into the graph.
struct Draft<'a> {
    entry: &'a StageEntry,
    name: String,
    instance: Option<String>,
    kind: Rc<KindSpec>,
    /// Defaults below, the stage's own above, templates filled in.
    table: Table,
    resources: Resources,
    expect: Option<Located>,
    view: PathBuf,
    provides: Option<(String, Form)>,
}

impl Plan {
    /// `manifest`: path as given by the user, relative to the current folder or the workspace; `workspace`: absolute.
    /// Reads the pipeline, `stages/` overrides and `datasets.toml`; checks everything; builds the graph.
    pub fn load(workspace: &Path, manifest: &Path) -> Result<Plan> {
        Self::load_with(KINDS, &data_dir(), workspace, manifest)
    }

    /// [`Plan::load`] with other built-in kinds, and another value for `{DATA_DIR}`.
    pub fn load_with(builtin: &[Kind], data_dir: &Path, workspace: &Path, manifest: &Path) -> Result<Plan> {
        let path = find_manifest(workspace, manifest)?;
        let pipeline = Pipeline::parse(TextFile::read(&path, shown(&path))?)?;
        let registry = read_registry(workspace, data_dir)?;
        let mut kinds = Kinds::new(builtin, workspace, &path);
        let drafts = draft_all(&pipeline, &mut kinds)?;
        let (graph, places) = build(&drafts, &registry, workspace, &kinds)?;
        let order = order(&graph).map_err(|stages| loop_error(&graph, &stages, &places))?;
        Ok(Plan {
            name: pipeline.name.clone(),
            description: pipeline.description.clone(),
            manifest: path.strip_prefix(workspace).unwrap_or(&path).to_owned(),
            workspace: workspace.to_owned(),
            graph,
            order,
        })
    }
}

/// The name that a manifest of this workspace gives its pipeline; `None` if it is gone or can't be read.
pub fn pipeline_name(workspace: &Path, manifest: &Path) -> Option<String> {
    let file = TextFile::read(&workspace.join(manifest), manifest.to_owned()).ok()?;
    Pipeline::parse(file).ok().map(|pipeline| pipeline.name)
}

/// A path as errors name it: relative to the current folder if it lies in there.
fn shown(path: &Path) -> PathBuf {
    let here = std::env::current_dir().ok();
    here.and_then(|here| path.strip_prefix(here).ok()).unwrap_or(path).to_owned()
}

fn find_manifest(workspace: &Path, manifest: &Path) -> Result<PathBuf> {
    let here = std::path::absolute(manifest).unwrap_or_else(|_| manifest.to_owned());
    let there = workspace.join(manifest);
    for path in [&here, &there] {
        if path.is_file() {
            return Ok(normalize(path));
        }
    }
    let error = Error::invalid(format!("there is no pipeline {}", shown(&here).display()));
    let name = manifest.with_extension("toml").file_name().unwrap_or_default().to_string_lossy().into_owned();
    for folder in [here.parent().unwrap_or(workspace), &workspace.join("pipelines")] {
        let siblings = manifests_in(folder);
        if let Some(near) = nearest(&name, siblings.iter().map(String::as_str)) {
            return Err(error.hint(format!("did you mean `{}`?", shown(&folder.join(near)).display())));
        }
    }
    Err(error)
}

/// The names of the TOML files in a folder, sorted; none if there is no folder.
pub fn manifests_in(folder: &Path) -> Vec<String> {
    let names = folder.read_dir().into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".toml")).collect();
    names.sort();
    names
}

/// The datasets of a workspace.
pub fn registry(workspace: &Path) -> Result<Registry> {
    read_registry(workspace, &data_dir())
}

/// What `{DATA_DIR}` stands for.
fn data_dir() -> PathBuf {
    std::env::var_os("DATA_DIR").map_or_else(|| PathBuf::from("data"), PathBuf::from)
}

fn read_registry(workspace: &Path, data_dir: &Path) -> Result<Registry> {
    let path = workspace.join(REGISTRY);
    if !path.exists() {
        return Ok(Registry::default());
    }
    Registry::parse(&TextFile::read(&path, REGISTRY)?, workspace, data_dir)
}

fn draft_all<'a>(pipeline: &'a Pipeline, kinds: &mut Kinds<'_>) -> Result<Vec<Draft<'a>>> {
    let mut drafts: Vec<Draft<'a>> = Vec::new();
    for entry in &pipeline.stages {
        let kind = kinds.get(&entry.kind, &entry.kind_place)?;
        let vars = Scope { vars: Some(&pipeline.vars), ..Scope::default() };
        match &entry.foreach {
            None => drafts.push(draft(entry, &kind, vars, None)?),
            Some(foreach) => {
                for (instance, each) in StageEntry::instances(&vars.expand(foreach)?)? {
                    let scope = Scope { each: Some(&each), ..vars };
                    drafts.push(draft(entry, &kind, scope, Some(instance))?);
                }
            }
        }
    }
    share_out_views(&mut drafts)?;
    Ok(drafts)
}

/// Two stages can't be seen at one place: those that would are seen under their own names.
fn share_out_views(drafts: &mut [Draft<'_>]) -> Result<()> {
    let contested: Vec<PathBuf> = (1..drafts.len())
        .filter(|at| drafts[..*at].iter().any(|other| other.view == drafts[*at].view))
        .map(|at| drafts[at].view.clone())
        .collect();
    for draft in drafts.iter_mut().filter(|draft| contested.contains(&draft.view)) {
        draft.view = own_view(&draft.name);
    }
    for (at, draft) in drafts.iter().enumerate() {
        if let Some(other) = drafts[..at].iter().find(|other| other.view == draft.view) {
            return Err(draft.entry.place.error(
                format!(
                    "stages `{}` and `{}` would both be seen at {}",
                    other.name,
                    draft.name,
                    draft.view.display()
                ),
                "the second one",
            ));
        }
    }
    Ok(())
}

/// Stages by name: the instances of each and their indices.
type Stages<'a> = BTreeMap<&'a str, Vec<(Option<&'a str>, NodeIndex)>>;

/// Which stage stands for a form of a dataset when the dataset is asked for by name. Of several that provide it, those
/// that are referred to as `@stage` where a dataset is taken stand for themselves alone; one must be left.
fn providers<'a>(drafts: &'a [Draft<'_>], stages: &Stages<'_>) -> Result<BTreeMap<(&'a str, Form), NodeIndex>> {
    let mut referred = vec![false; drafts.len()];
    for draft in drafts {
        for found in draft.kind.shape.inputs(&draft.table) {
            let value = match found.mark {
                Mark::Dataset => Some(found.value.clone()),
                Mark::Share => ShareText::parse(found.value).ok().map(|share| share.dataset),
                Mark::Input | Mark::Documents => None,
            };
            let reference = value.and_then(|value| StageReference::parse(&value).ok().flatten());
            let Some(reference) = reference else { continue };
            for (instance, node) in stages.get(reference.stage.as_str()).into_iter().flatten() {
                referred[node.index()] |= match &reference.instance {
                    Some(Instance::Named(name)) => *instance == Some(name.as_str()),
                    _ => true,
                };
            }
        }
    }
    let mut groups: BTreeMap<(&str, Form), Vec<usize>> = BTreeMap::new();
    for (at, draft) in drafts.iter().enumerate() {
        if let Some((dataset, form)) = &draft.provides {
            groups.entry((dataset, *form)).or_default().push(at);
        }
    }
    let mut providers = BTreeMap::new();
    for ((dataset, form), mut group) in groups {
        if group.len() > 1 {
            group.retain(|at| !referred[*at]);
        }
        match group[..] {
            [] => {}
            [only] => {
                providers.insert((dataset, form), NodeIndex::new(only));
            }
            [first, second, ..] => {
                let (first, second) = (&drafts[first], &drafts[second]);
                let error = second.entry.place.error(
                    format!(
                        "stages `{}` and `{}` both provide the {} form of dataset \"{dataset}\"",
                        first.name,
                        second.name,
                        form.as_str()
                    ),
                    "the second one",
                );
                return Err(match form {
                    Form::Encoded => error.hint(format!("where one of them is meant, write \"@{}\"", second.name)),
                    // Those who take other forms provide one of the same dataset, and name it.
                    _ => error,
                });
            }
        }
    }
    Ok(providers)
}

fn draft<'a>(
    entry: &'a StageEntry,
    kind: &Rc<KindSpec>,
    scope: Scope<'_>,
    instance: Option<String>,
) -> Result<Draft<'a>> {
    let mut table = kind.manifest.parameters.clone();
    table.overlay(expand_parameters(entry, kind, scope)?);
    let name = match &instance {
        None => entry.name.clone(),
        Some(instance) => format!("{}[{instance}]", entry.name),
    };
    let mut resources = kind.manifest.resources.clone();
    if let Some(own) = &entry.resources {
        resources.overlay(scope.expand_table(own)?);
    }
    let dataset = table.get("dataset").and_then(Located::as_str).map(str::to_owned);
    Ok(Draft {
        view: view(kind, &name, dataset.as_deref())?,
        provides: kind.manifest.provides.and_then(|form| Some((dataset?, form))),
        resources: read_resources(&resources)?,
        expect: entry.expect.as_ref().map(|value| scope.expand(value)).transpose()?,
        kind: kind.clone(),
        entry,
        name,
        instance,
        table,
    })
}

/// Fills in the templates of a stage's own parameters. In the command line of a `command` stage, the names that the
/// worker fills in are left.
fn expand_parameters(entry: &StageEntry, kind: &KindSpec, scope: Scope<'_>) -> Result<Table> {
    let kept = kind.kept_placeholders(&entry.parameters);
    let mut expanded = Table::default();
    for parameter in &entry.parameters.entries {
        let scope = if parameter.key == "command" { Scope { kept: &kept, ..scope } } else { scope };
        let value = scope.expand(&parameter.value)?;
        expanded.entries.push(crate::manifest::Entry { value, ..parameter.clone() });
    }
    Ok(expanded)
}

fn read_resources(table: &Table) -> Result<Resources> {
    let mut resources = Resources::default();
    for entry in &table.entries {
        let count = || match entry.value.content {
            Content::Integer(count) => usize::try_from(count)
                .map_err(|_| entry.value.error(format!("`{}` must be at least 0", entry.key), "negative")),
            _ => Err(entry.value.wrong_type(&format!("`{}`", entry.key), "an integer")),
        };
        match entry.key.as_str() {
            "cpus" => resources.cpus = count()?,
            "gpus" => resources.gpus = count()?,
            "memory" => resources.memory = parse_size(&entry.value)?,
            key => {
                let error = entry.place.error(format!("there is no resource `{key}`"), "unknown resource");
                return Err(with_suggestion(error, key, ["cpus", "memory", "gpus"], "the resources are"));
            }
        }
    }
    Ok(resources)
}

/// `outputs/split-books` for `split[books]`.
fn own_view(name: &str) -> PathBuf {
    Path::new("outputs").join(name.replace('[', "-").replace(']', ""))
}

/// Where a stage's view stands: the kind's own place if all it needs is known, else `outputs/STAGE`.
fn view(kind: &KindSpec, name: &str, dataset: Option<&str>) -> Result<PathBuf> {
    let Some(template) = &kind.manifest.view else { return Ok(own_view(name)) };
    let text = template.string("`view`")?;
    if dataset.is_none() && placeholders(text).iter().any(|(_, name)| *name == "dataset") {
        return Ok(own_view(name));
    }
    let view = substitute(text, Braces::Single, |name| match name {
        "stage" => Ok(Some(name.replace('[', "-").replace(']', ""))),
        "dataset" => Ok(dataset.map(str::to_owned)),
        name => {
            let place = template.place.of_part(&format!("{{{name}}}"));
            let error = place.error(format!("unknown variable `{{{name}}}`"), "not known here");
            Err(with_suggestion(error, name, ["dataset", "stage"], "the variables are"))
        }
    })?;
    let path = PathBuf::from(&view);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    if !plain || view.is_empty() || path.starts_with(CACHE) {
        return Err(template
            .error(format!("\"{view}\" can't be the place of a view"), "a path in the workspace is expected"));
    }
    Ok(path)
}

/// Where an edge was written, for the error of a loop.
type Places = BTreeMap<(NodeIndex, NodeIndex), Place>;

fn build(
    drafts: &[Draft<'_>],
    registry: &Registry,
    workspace: &Path,
    kinds: &Kinds<'_>,
) -> Result<(DiGraph<Node, ()>, Places)> {
    let kinds_that_provide = |form: Form| kinds_that_provide(kinds, form);
    let mut stages = Stages::new();
    for (at, draft) in drafts.iter().enumerate() {
        stages.entry(&draft.entry.name).or_default().push((draft.instance.as_deref(), NodeIndex::new(at)));
    }
    let binder = Binder {
        workspace,
        registry,
        providers: providers(drafts, &stages)?,
        provided: drafts
            .iter()
            .map(|draft| draft.provides.as_ref().map(|(dataset, form)| (dataset.as_str(), *form)))
            .collect(),
        stages,
        views: drafts.iter().map(|draft| (draft.view.as_path(), draft.name.as_str())).collect(),
        kinds_that_provide: &kinds_that_provide,
    };
    let mut graph = DiGraph::with_capacity(drafts.len(), drafts.len());
    let mut places = Places::new();
    for (at, draft) in drafts.iter().enumerate() {
        let (node, inputs) = read_node(draft, NodeIndex::new(at), &binder)?;
        graph.add_node(node);
        for (parent, place) in inputs {
            places.entry((parent, NodeIndex::new(at))).or_insert(place);
        }
    }
    for (parent, child) in places.keys() {
        graph.add_edge(*parent, *child, ());
    }
    Ok((graph, places))
}

fn read_node(draft: &Draft<'_>, node: NodeIndex, binder: &Binder<'_>) -> Result<(Node, Vec<(NodeIndex, Place)>)> {
    let kind = &draft.kind;
    let place = &draft.entry.place;
    let mut whole = Located { content: Content::Table(draft.table.clone()), place: place.clone() };
    binder.expand_lists(&kind.shape, &mut whole)?;
    let table = whole.table("a stage")?;
    let parameters = kind.shape.read_parameters(&table, &draft.name, place)?;
    let asker = Asker { node, kind: &kind.name, takes: kind.manifest.takes, provides: kind.manifest.provides };
    let mut inputs: Vec<Bound> = Vec::new();
    let mut parents = Vec::new();
    for found in kind.shape.inputs(&table) {
        let place = found.value.place.clone();
        let bound = binder.bind(found, &asker)?;
        parents.extend(bound.parent().map(|parent| (parent, place)));
        inputs.push(bound);
    }
    if let Some(check) = kind.check {
        check_parameters(check, &draft.name, &parameters, &inputs, &table, place)?;
    }
    let command = kind.manifest.command.as_deref();
    let command = command
        .map(|command| {
            let written = command.iter().map(|part| part.string("an argument of `command`").map(str::to_owned));
            let written = written.collect::<Result<_>>()?;
            Ok::<_, Error>(CommandLine { written, filled: render_command(command, kind, &parameters)? })
        })
        .transpose()?;
    let node = Node {
        name: draft.name.clone(),
        stage: draft.entry.name.clone(),
        kind: kind.name.clone(),
        revision: kind.revision,
        command,
        parameters,
        resources: draft.resources,
        expect: draft.expect.as_ref().map(|value| binder.file(value)).transpose()?,
        view: draft.view.clone(),
        provides: draft.provides.clone(),
        inputs,
    };
    Ok((node, parents))
}

/// Fills the plain parameters into the command line of a user's kind; an argument that is nothing but `{list}` becomes
/// as many arguments as the list has entries.
fn render_command(command: &[Located], kind: &KindSpec, parameters: &Value) -> Result<Vec<String>> {
    let is_input = |name: &str| match kind.shape.field(name).map(|field| &field.shape) {
        Some(Shape::Input(Mark::Dataset)) => kind.manifest.takes.is_some(),
        Some(Shape::Input(_)) => true,
        _ => matches!(name, "output" | "scratch" | "threads"),
    };
    let mut rendered = Vec::with_capacity(command.len());
    for argument in command {
        let text = argument.string("an argument of `command`")?;
        if let [(whole, name)] = &placeholders(text)[..]
            && *whole == (0..text.len())
            && let Some(Value::Array(items)) = parameters.get(*name)
        {
            let double = |text: String| text.replace('{', "{{").replace('}', "}}");
            rendered.extend(items.iter().map(plain_text).map(double));
            continue;
        }
        rendered.push(substitute(text, Braces::Doubled, |name| match parameters.get(name) {
            _ if is_input(name) => Ok(None),
            Some(Value::Array(_) | Value::Object(_)) => {
                let place = argument.place.of_part(&format!("{{{name}}}"));
                Err(place.error(format!("`{{{name}}}` is not plain text"), "a list must be an argument of its own"))
            }
            Some(value) => Ok(Some(plain_text(value))),
            None => {
                let place = argument.place.of_part(&format!("{{{name}}}"));
                let error =
                    place.error(format!("kind `{}` has no parameter `{name}`", kind.name), "unknown parameter");
                let names = kind.shape.fields().iter().map(|field| field.name.as_str());
                Err(with_suggestion(error, name, names.chain(["output", "scratch", "threads"]), "the names are"))
            }
        })?);
    }
    Ok(rendered)
}

fn plain_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn kinds_that_provide(kinds: &Kinds<'_>, form: Form) -> Vec<String> {
    let provides = |name: &String| {
        kinds.read_kind(name).ok().flatten().is_some_and(|kind| kind.manifest.provides == Some(form))
    };
    kinds.names().into_iter().filter(provides).collect()
}

fn loop_error(graph: &DiGraph<Node, ()>, stages: &[NodeIndex], places: &Places) -> Error {
    let names: Vec<&str> = stages.iter().chain(stages.first()).map(|node| graph[*node].name.as_str()).collect();
    let message = match &names[..] {
        [one, _] => format!("stage `{one}` waits for itself"),
        names => format!("the stages wait for each other in a loop: {}", names.join(" → ")),
    };
    // The first of them waits for the second (or for itself) because of what is written here.
    let edge = stages.first().map(|first| (*stages.get(1).unwrap_or(first), *first));
    match edge.and_then(|edge| places.get(&edge)) {
        Some(place) => place.error(message, format!("`{}` waits for `{}`", names[0], names[1])),
        None => Error::invalid(message),
    }
}
