//! What the plan promises, on kinds made for the tests.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Change, Materials, Plan, Resolved};
use crate::error::{Error, Result};
use crate::stages::{Dataset, Documents, Input, Kind, Share, Stage, Work};
use crate::store::Digest;

/// Declares a kind that does nothing.
macro_rules! test_kind {
    ($name:ident, $kind:literal, { $($field:ident: $type:ty),* $(,)? }) => {
        #[derive(Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        struct $name { $($field: $type),* }
        impl Stage for $name {
            const KIND: &'static str = $kind;
            const REVISION: u32 = 3;
            fn run(&self, _: &mut Work) -> Result<()> {
                Ok(())
            }
        }
    };
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Method {
    Lora,
    Full,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Lora {
    rank: u32,
    dropout: f64,
    target_modules: Vec<String>,
}

test_kind!(Download, "download", { dataset: Option<Dataset>, repo: Option<String> });
test_kind!(Split, "split", { dataset: Dataset, ratio: String });
test_kind!(Encode, "encode", { dataset: Dataset, tokenizer: Input, sequence_length: u64 });
test_kind!(Vocab, "vocab", { base: Option<Input>, train: Vec<Documents> });
test_kind!(Train, "train", { model: Input, mix: Vec<Share>, valid: Vec<Dataset>, method: Method, lora: Option<Lora>, learning_rate: f64 });
test_kind!(Gather, "gather", { parts: Vec<Input>, named: Option<BTreeMap<String, Input>> });
test_kind!(Command, "command", { command: Vec<String>, inputs: BTreeMap<String, Input> });

fn kinds() -> Vec<Kind> {
    vec![
        Kind::of::<Download>("provides = \"raw\"\nview = \"data/{dataset}/raw\""),
        Kind::of::<Split>(
            "takes = \"jsonl\"\nprovides = \"split\"\n[parameters]\nratio = \"999:1\"\n[resources]\nmemory = \"1 GiB\"",
        ),
        Kind::of::<Encode>("takes = \"split\"\nprovides = \"encoded\"\n[parameters]\nsequence_length = 2048"),
        Kind::of::<Vocab>(""),
        Kind::of::<Train>(
            "takes = \"encoded\"\n[parameters]\nmethod = \"lora\"\nlearning_rate = 1e-5\nvalid = []\n\
             [parameters.lora]\nrank = 64\ndropout = 0.05\ntarget_modules = [\"q_proj\", \"v_proj\"]\n[resources]\ncpus = 0\nmemory = \"2 GiB\"",
        ),
        Kind::of::<Gather>(""),
        Kind::of::<Command>("[parameters.inputs]"),
    ]
}

const REGISTRY: &str = r#"
[books]
splits = ["train", "dev"]
root = "{DATA_DIR}/zh/{name}"
doc = "{name}-{split}"
encoded = "encoded-{name}-{split}"
repo = "someone/books"

[laws]
splits = ["train"]
root = "{DATA_DIR}/zh/{name}"
doc = "{name}-{split}"
encoded = "encoded-{name}-{split}"
"#;

/// A workspace in a temporary folder.
struct Project(tempfile::TempDir);

impl Project {
    fn new() -> Self {
        let project = Self(tempfile::tempdir().unwrap());
        project.write("datasets.toml", REGISTRY);
        project
    }

    fn path(&self) -> PathBuf {
        self.0.path().canonicalize().unwrap()
    }

    fn write(&self, path: &str, text: &str) -> &Self {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn load(&self, pipeline: &str) -> Result<Plan> {
        self.write("pipelines/p.toml", pipeline);
        Plan::load_with(&kinds(), Path::new("data"), &self.path(), Path::new("pipelines/p.toml"))
    }

    fn plan(&self, pipeline: &str) -> Plan {
        self.load(pipeline).unwrap_or_else(|error| panic!("{error}\n{:?}", error.advice()))
    }

    fn error(&self, pipeline: &str) -> Error {
        match self.load(pipeline) {
            Ok(_) => panic!("the pipeline was accepted"),
            Err(error) => error,
        }
    }
}

/// Artifacts whose digests are those of their stages' names, unless told otherwise.
#[derive(Default)]
struct World {
    root: PathBuf,
    versions: BTreeMap<String, u32>,
}

impl Materials for World {
    fn artifact(&mut self, stage: &str) -> Result<(Digest, PathBuf)> {
        let version = self.versions.get(stage).copied().unwrap_or_default();
        Ok((Digest::of(format!("{stage} {version}").as_bytes()), self.root.join(stage)))
    }

    fn part(&mut self, artifact: Digest, path: &Path) -> Result<Digest> {
        Ok(Digest::of(format!("{artifact} {}", path.display()).as_bytes()))
    }

    fn source(&mut self, path: &Path) -> Result<Digest> {
        Ok(Digest::of(&fs::read(path).unwrap_or_default()))
    }
}

fn resolve(plan: &Plan, stage: &str) -> Resolved {
    let mut world = World { root: PathBuf::from("/artifacts"), ..World::default() };
    plan.resolve(plan.node(stage).unwrap(), &mut world).unwrap()
}

fn names(plan: &Plan, nodes: &[petgraph::graph::NodeIndex]) -> Vec<String> {
    nodes.iter().map(|node| plan.graph[*node].name.clone()).collect()
}

const WHOLE: &str = r#"
[vars]
corpora = ["books", "laws"]

[stage.train]
model = "@base"
mix = ["1:books", "0.1:laws"]
valid = ["books"]

[stage.base]
use = "download"
repo = "some/model"

[stage.download]
foreach = "{corpora}"
dataset = "{each}"

[stage.split]
foreach = "{corpora}"
dataset = "{each}"

[stage.vocab]
base = "@base/tokenizer.model"
train = ["dataset:books", "dataset:laws/train"]

[stage.encode]
foreach = "{corpora}"
dataset = "{each}"
tokenizer = "@vocab"
"#;

#[test]
fn datasets_flow_through_their_forms() {
    let project = Project::new();
    let plan = project.plan(WHOLE);
    let order = names(&plan, &plan.order);
    let expected = [
        "base",
        "download[books]",
        "download[laws]",
        "split[books]",
        "split[laws]",
        "vocab",
        "encode[books]",
        "encode[laws]",
        "train",
    ];
    assert_eq!(order, expected);
    let parents = |name: &str| names(&plan, &plan.parents(plan.node(name).unwrap()));
    assert_eq!(parents("split[laws]"), ["download[laws]"]);
    assert_eq!(parents("vocab"), ["base", "split[books]", "split[laws]"]);
    assert_eq!(parents("encode[books]"), ["split[books]", "vocab"]);
    assert_eq!(parents("train"), ["base", "encode[books]", "encode[laws]"]);
    let after = |name: &str| names(&plan, &plan.from_stage(name).unwrap());
    assert_eq!(after("vocab"), ["vocab", "encode[books]", "encode[laws]", "train"]);
    assert_eq!(after("encode"), ["encode[books]", "encode[laws]", "train"]);
    assert_eq!(after("train"), ["train"]);
    assert_eq!(after("base").len(), 5);
    let node = |name: &str| &plan.graph[plan.node(name).unwrap()];
    assert_eq!(node("download[laws]").view, Path::new("data/laws/raw"));
    assert_eq!(node("base").view, Path::new("outputs/base"));
    assert_eq!(node("encode[laws]").view, Path::new("outputs/encode-laws"));
    assert_eq!(node("train").resources.memory, 2 << 30);
    let error = plan.node("encode[book]").unwrap_err();
    assert_eq!(error.message(), "pipeline `p` has no stage `encode[book]`");
    assert_eq!(error.advice(), Some("did you mean `encode[books]`?"));
    let named = plan.stages_named("encode").unwrap().into_iter().map(|node| plan.graph[node].name.clone());
    assert_eq!(named.collect::<Vec<_>>(), ["encode[books]", "encode[laws]"]);
    let error = plan.node("encode").unwrap_err();
    assert_eq!(error.message(), "`encode` is 2 stages of pipeline `p`");
    assert_eq!(error.advice(), Some("name one of them: encode[books], encode[laws]"));
}

#[test]
fn the_worker_gets_typed_inputs() {
    let project = Project::new();
    let plan = project.plan(WHOLE);
    let train = resolve(&plan, "train");
    assert_eq!(train.kind, "train");
    assert_eq!(train.parameters["model"], json!({ "from": "@base", "path": "/artifacts/base" }));
    let share = &train.parameters["mix"][1];
    assert_eq!(share["amount"], json!({"ratio": 0.1}));
    assert_eq!(share["dataset"]["form"], json!("encoded"));
    assert_eq!(share["dataset"]["path"], json!("/artifacts/encode[laws]"));
    assert_eq!(share["dataset"]["encoded"], json!({ "train": "encoded-laws-train" }));
    assert!(serde_json::from_value::<Train>(train.parameters).is_ok());
    let download = resolve(&plan, "download[books]");
    assert_eq!(download.parameters["dataset"]["source"]["repo"], json!("someone/books"));
    assert_eq!(download.parameters["dataset"]["path"], json!(null));
    let vocab = resolve(&plan, "vocab");
    assert_eq!(
        vocab.parameters["train"][0]["files"],
        json!(["/artifacts/split[books]/books-train.jsonl", "/artifacts/split[books]/books-dev.jsonl"])
    );
    assert_eq!(vocab.parameters["train"][1]["files"], json!(["/artifacts/split[laws]/laws-train.jsonl"]));
    assert_eq!(vocab.parameters["base"]["path"], json!("/artifacts/base/tokenizer.model"));
}

#[test]
fn a_key_holds_every_parameter_and_input_and_no_path() {
    let project = Project::new();
    let train = resolve(&project.plan(WHOLE), "train");
    let items: Vec<String> = train.key.items.iter().map(|item| item.name.clone()).collect();
    let expected = [
        "kind",
        "revision",
        "learning_rate",
        "lora.dropout",
        "lora.rank",
        "lora.target_modules",
        "lora.target_modules",
        "method",
        "mix",
        "mix",
        "model",
        "valid",
        "dataset books.doc.dev",
        "dataset books.doc.train",
        "dataset books.encoded.dev",
        "dataset books.encoded.train",
        "dataset laws.doc.train",
        "dataset laws.encoded.train",
        "input dataset:books as encoded",
        "input dataset:laws as encoded",
        "input @base",
    ];
    let mut sorted = (items.clone(), expected.map(str::to_owned).to_vec());
    assert_eq!(items[..12], expected[..12]);
    sorted.0.sort();
    sorted.1.sort();
    assert_eq!(sorted.0, sorted.1);
    let text = serde_json::to_string(&train.key).unwrap();
    assert!(!text.contains("artifacts/") && !text.contains(project.path().to_str().unwrap()));
}

#[test]
fn comments_white_space_order_and_written_defaults_change_no_key() {
    let project = Project::new();
    let fingerprint = |text: &str| resolve(&project.plan(text), "train").key.fingerprint();
    let old = fingerprint(WHOLE);
    assert_eq!(fingerprint(&WHOLE.replace('\n', "\n# a comment\n  ")), old);
    let same = WHOLE.replace(
        "model = \"@base\"\n",
        "lora = { dropout = 0.050, rank = 64 }\nlearning_rate = 0.00001\nmethod = \"lora\"\nmodel = \"@base\"\n",
    );
    assert_eq!(fingerprint(&same), old);
    assert_ne!(fingerprint(&WHOLE.replace("0.1:laws", "0.2:laws")), old);
    assert_ne!(fingerprint(&WHOLE.replace("model = \"@base\"\n", "model = \"@base\"\nlearning_rate = 1\n")), old);
}

#[test]
fn a_changed_ratio_is_one_line_in_one_stage() {
    let project = Project::new();
    let (old, new) = (project.plan(WHOLE), project.plan(&WHOLE.replace("0.1:laws", "0.2:laws")));
    for node in &old.order {
        let name = &old.graph[*node].name;
        let changes = resolve(&new, name).key.diff(&resolve(&old, name).key);
        let lines: Vec<String> = changes.iter().map(Change::to_string).collect();
        let expected: &[&str] = if name == "train" { &[r#"mix: "0.1:laws" → "0.2:laws""#] } else { &[] };
        assert_eq!(lines, expected, "{name}");
    }
}

#[test]
fn lists_take_all_instances() {
    let project = Project::new();
    let stages = "[stage.part]\nuse = \"download\"\nforeach = [\"a\", \"b\"]\nrepo = \"x/{each}\"\n";
    for written in ["@part", "@part[*]", "@part/x"] {
        let plan = project.plan(&format!("{stages}[stage.gather]\nparts = [\"{written}\"]\n"));
        assert_eq!(names(&plan, &plan.parents(plan.node("gather").unwrap())), ["part[a]", "part[b]"], "{written}");
    }
    let plan = project.plan(&format!(
        "{stages}[stage.gather]\nparts = [\"@part[b]\"]\nnamed = {{ one = \"@part[a]/x/y\", two = \"datasets.toml\" }}\n"
    ));
    let gather = resolve(&plan, "gather");
    assert_eq!(gather.parameters["named"]["one"]["path"], json!("/artifacts/part[a]/x/y"));
    assert_eq!(gather.parameters["named"]["two"]["path"], json!(project.path().join("datasets.toml")));
    let error = project.error(&format!("{stages}[stage.vocab]\ntrain = []\nbase = \"@part\"\n"));
    assert_eq!(error.message(), "stage `part` has 2 instances, and one is expected here");
}

#[test]
fn registered_files_serve_when_no_stage_does() {
    let project = Project::new();
    let pipeline = "[stage.train]\nmodel = \"datasets.toml\"\nmix = [\"1:laws\"]\n";
    assert_eq!(
        project.error(pipeline).message(),
        "dataset \"laws\" has no encoded form: no stage of this pipeline provides it, and {DATA_DIR}/zh/laws holds none"
    );
    project.write("data/zh/laws/encoded-laws-train/state.json", "{}");
    let train = resolve(&project.plan(pipeline), "train");
    assert_eq!(train.parameters["mix"][0]["dataset"]["path"], json!(project.path().join("data/zh/laws")));
    assert!(train.key.items.iter().any(|item| item.name == "input dataset:laws/encoded-laws-train"));
    let split = "[stage.split]\ndataset = \"books\"\n";
    project.write("data/zh/books/2.jsonl", "{}").write("data/zh/books/1.jsonl", "{}");
    let split = resolve(&project.plan(split), "split");
    assert_eq!(split.parameters["dataset"]["form"], json!("jsonl"));
    let inputs: Vec<_> = split.key.items.iter().filter_map(|item| item.name.strip_prefix("input ")).collect();
    assert_eq!(inputs, ["dataset:books/1.jsonl", "dataset:books/2.jsonl"]);
}

const FILTER: &str = r#"
description = "Keeps long documents."
takes = "jsonl"
provides = "split"
command = ["python3", "{script}", "--least={least}", "{words}", "{dataset}", "{output}"]
inputs = ["script"]

[parameters]
least = 10
words = ["a", "b"]
"#;

#[test]
fn a_users_kind_needs_no_rust() {
    let project = Project::new();
    project.write("stages/filter.toml", FILTER).write("filters/clean.py", "pass");
    let pipeline = "[stage.download]\ndataset = \"books\"\n[stage.filter]\ndataset = \"books\"\nscript = \"filters/clean.py\"\nleast = 20\n\
                    [stage.encode]\ndataset = \"books\"\ntokenizer = \"datasets.toml\"\n";
    let plan = project.plan(pipeline);
    assert_eq!(names(&plan, &plan.parents(plan.node("encode").unwrap())), ["filter"]);
    let filter = resolve(&plan, "filter");
    assert_eq!(filter.kind, "command");
    assert_eq!(
        filter.parameters,
        json!({
            "command": ["python3", "{script}", "--least=20", "a", "b", "{dataset}", "{output}"],
            "inputs": {
                "dataset": { "from": "books", "path": "/artifacts/download" },
                "script": { "from": "filters/clean.py", "path": project.path().join("filters/clean.py") },
            },
        })
    );
    assert!(filter.key.items.iter().any(|item| item.name == "kind" && item.value == "filter"));
    let error = project.error(&pipeline.replace("least = 20", "most = 20"));
    assert_eq!(error.message(), "stage `filter` has no parameter `most`");
    let error = project.error(&pipeline.replace("least = 20", "least = \"20\""));
    assert_eq!(error.message(), "stage `filter`: `least` takes an integer, not a string");
    project.write("stages/filter.toml", &FILTER.replace("{least}", "{last}"));
    let error = project.error(pipeline);
    assert_eq!(
        (error.message(), error.advice()),
        ("kind `filter` has no parameter `last`", Some("did you mean `least`?"))
    );
}

#[test]
fn a_command_may_stand_in_the_pipeline() {
    let project = Project::new();
    project.write("clean.py", "pass");
    let plan = project.plan(
        "[vars]\nlevel = \"{9}\"\n[stage.clean]\nuse = \"command\"\ncommand = [\"python3\", \"{script}\", \"{level}\", \"{output}\"]\ninputs = { script = \"clean.py\" }\n",
    );
    let clean = resolve(&plan, "clean");
    assert_eq!(clean.parameters["command"], json!(["python3", "{script}", "{{9}}", "{output}"]));
    assert_eq!(clean.parameters["inputs"]["script"]["from"], json!("clean.py"));
    let error = project.error("[stage.clean]\nuse = \"command\"\ncommand = [\"cat\", \"{script}\"]\n");
    assert_eq!(error.message(), "unknown variable `{script}`");
}

#[test]
fn defaults_are_laid_over_key_by_key() {
    let project = Project::new();
    project.write("stages/train.toml", "[parameters]\nlearning_rate = 1e-4\n[parameters.lora]\nrank = 8\n");
    project.write("pipelines/stages/train.toml", "[parameters.lora]\ndropout = 0\n[resources]\ncpus = 2\n");
    let plan = project
        .plan(&WHOLE.replace("model = \"@base\"\n", "model = \"@base\"\nresources = { memory = \"3 MiB\" }\n"));
    let train = &plan.graph[plan.node("train").unwrap()];
    assert_eq!(train.parameters["learning_rate"], json!(1e-4));
    assert_eq!(
        train.parameters["lora"],
        json!({ "dropout": 0.0, "rank": 8, "target_modules": ["q_proj", "v_proj"] })
    );
    assert_eq!((train.resources.cpus, train.resources.memory), (2, 3 << 20));
}

#[test]
fn where_data_lie_is_no_part_of_a_key() {
    let project = Project::new();
    for root in ["data", "elsewhere"] {
        project.write(&format!("{root}/zh/laws/encoded-laws-train/x"), "x");
    }
    project.write("pipelines/p.toml", "[stage.train]\nmodel = \"datasets.toml\"\nmix = [\"1:laws\"]\n");
    let key = |data: &str| {
        let plan =
            Plan::load_with(&kinds(), Path::new(data), &project.path(), Path::new("pipelines/p.toml")).unwrap();
        resolve(&plan, "train").key
    };
    assert_eq!(key("data"), key("elsewhere"));
}

const TWICE: &str = r#"
[stage.split]
dataset = "laws"

[stage.encode-first]
use = "encode"
dataset = "laws"
tokenizer = "datasets.toml"

[stage.encode]
dataset = "laws"
tokenizer = "datasets.toml"

[stage.train]
model = "datasets.toml"
mix = ["1:@encode-first", "0.5:laws"]
"#;

#[test]
fn a_stage_can_be_named_where_a_dataset_is_taken() {
    let project = Project::new();
    project.write("data/zh/laws/a.jsonl", "");
    let plan = project.plan(TWICE);
    let train = resolve(&plan, "train");
    let path = |at: usize| train.parameters["mix"][at]["dataset"]["path"].clone();
    assert_eq!((path(0), path(1)), (json!("/artifacts/encode-first"), json!("/artifacts/encode")));
    let inputs: Vec<_> = train.key.items.iter().filter_map(|item| item.name.strip_prefix("input ")).collect();
    assert_eq!(inputs, ["@encode-first", "dataset:laws as encoded", "datasets.toml"]);
    let error = project.error(&TWICE.replace("1:@encode-first", "1:laws"));
    assert_eq!(
        error.message(),
        "stages `encode-first` and `encode` both provide the encoded form of dataset \"laws\""
    );
    assert_eq!(error.advice(), Some("where one of them is meant, write \"@encode\""));
    let error = project.error(&TWICE.replace("1:@encode-first", "1:@split"));
    assert_eq!(
        error.message(),
        "stages `encode-first` and `encode` both provide the encoded form of dataset \"laws\""
    );
    let error = project.error(
        &TWICE
            .replace("1:@encode-first", "1:@split")
            .replace("[stage.encode-first]", "[stage.x]\nuse = \"download\"\nrepo = \"a/b\"\n[stage.encode-first]")
            .replace("0.5:laws", "1:@encode-first"),
    );
    assert_eq!(error.message(), "stage `split` provides the split form of dataset \"laws\"");
}
