"""Makes lm_eval_prompts.json: prompts, choices and answers as lm-evaluation-harness renders them.

The harness itself would install PyTorch. Its task definitions need only Jinja2, so this reads the YAML templates of the
source distribution lm-eval 0.4.0 (December 2023; the templates of the four tasks are those of revision 28ec7fa), renders
them with Jinja2, and runs the distribution's own `samplers.py` and `hellaswag/utils.py` for the shots and the
preprocessing. Of the real sets, which are not part of this project, only counts and SHA-256 digests are kept.

    python3 -m venv .venv-golden && .venv-golden/bin/pip install jinja2==3.1.4 pyyaml==6.0.2
    .venv-golden/bin/pip download --no-deps --no-binary :all: lm-eval==0.4.0 -d .venv-golden && tar xzf .venv-golden/lm_eval-0.4.0.tar.gz -C .venv-golden
    .venv-golden/bin/python tests/golden/make_lm_eval_prompts.py .venv-golden/lm_eval-0.4.0 ../shared/data/eval
"""
import ast
import csv
import hashlib
import importlib.util
import json
import pathlib
import random
import re
import sys
import types

import jinja2
import yaml

HARNESS = pathlib.Path(sys.argv[1])
REAL = pathlib.Path(sys.argv[2])
FIXTURES = pathlib.Path("tests/golden/evaluation")
ENVIRONMENT = jinja2.Environment(loader=jinja2.BaseLoader(), undefined=jinja2.StrictUndefined)
ENVIRONMENT.filters["regex_replace"] = lambda string, pattern, by="": re.sub(pattern, by, string)


def load(path, name):
    sys.modules.setdefault("datasets", types.SimpleNamespace(Dataset=object))
    spec = importlib.util.spec_from_file_location(name, HARNESS / "lm_eval" / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


samplers = load("api/samplers.py", "samplers")
hellaswag_utils = load("tasks/hellaswag/utils.py", "hellaswag_utils")


def read_yaml(path):
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: None)
    config = yaml.load(path.read_text(encoding="utf-8"), Loader)
    if "include" in config:
        base = read_yaml(path.parent / config.pop("include"))
        config = {**base, **config}
    return config


def render(template, doc):
    return ENVIRONMENT.from_string(template).render(**doc)


class Task:
    """The part of ConfigurableTask that makes prompts."""

    def __init__(self, config, fewshot_docs, shots):
        self.config = types.SimpleNamespace(
            **{
                "description": "",
                "fewshot_split": None,
                "test_split": None,
                "target_delimiter": " ",
                "fewshot_delimiter": "\n\n",
                **config,
            }
        )
        self._config = self.config
        self.shots = shots
        name = (config.get("fewshot_config") or {}).get("sampler", "default")
        self.sampler = samplers.get_sampler(name)(fewshot_docs, self, rnd=random.Random(1234))

    def doc_to_text(self, doc):
        text = render(self.config.doc_to_text, doc)
        return ast.literal_eval(text) if text.isdigit() else text

    def doc_to_target(self, doc):
        if self.config.doc_to_target in doc:
            return doc[self.config.doc_to_target]
        text = render(self.config.doc_to_target, doc)
        return ast.literal_eval(text) if text.isdigit() else text

    def doc_to_choice(self, doc):
        choice = self.config.doc_to_choice
        return choice if isinstance(choice, list) else ast.literal_eval(render(choice, doc))

    def item(self, doc):
        examples = self.config.description
        if self.shots:
            examples += self.sampler.get_context(doc, self.shots)
        choices = [self.config.target_delimiter + choice for choice in self.doc_to_choice(doc)]
        return {"context": examples + self.doc_to_text(doc), "continuations": choices, "target": self.doc_to_target(doc)}


def table(path, columns=None):
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file))
    if columns is None:
        return [dict(zip(rows[0], row)) for row in rows[1:]]
    return [dict(zip(columns, row)) for row in rows]


def exam(name, folder, shots):
    """The items of every subject whose files are there."""
    pattern = {"ceval": "ceval/ceval-valid_*.yaml", "cmmlu": "cmmlu/cmmlu_*.yaml", "mmlu": "mmlu/default/mmlu_*.yaml"}
    split = "val" if name == "ceval" else "test"
    subjects = {}
    for path in sorted((HARNESS / "lm_eval/tasks").glob(pattern[name])):
        config = read_yaml(path)
        subject = config["dataset_name"]
        suffix = (lambda s: "") if name == "cmmlu" else (lambda s: "_" + s)
        files = [folder / name / s / f"{subject}{suffix(s)}.csv" for s in ("dev", split)]
        if not files[1].exists():
            continue
        if name == "mmlu":
            dev, docs = (table(file, ["question", "0", "1", "2", "3", "answer"]) for file in files)
            for doc in dev + docs:
                doc["choices"] = [doc.pop(key) for key in "0123"]
                doc["answer"] = "ABCD".index(doc["answer"])
        else:
            dev, docs = (table(file) for file in files)
        task = Task(config, dev, shots)
        subjects[config["task"]] = [task.item(doc) for doc in docs]
    return subjects


class Dataset(list):
    def map(self, function):
        return [{**doc, **function(doc)} for doc in self]


def hellaswag(train, validation, shots):
    def docs(path):
        lines = path.read_text(encoding="utf-8").split("\n")
        return hellaswag_utils.process_docs(Dataset(json.loads(line) for line in lines if line))

    config = read_yaml(HARNESS / "lm_eval/tasks/hellaswag/hellaswag.yaml")
    task = Task(config, docs(train), shots)
    return [task.item(doc) for doc in docs(validation)]


def digest(items):
    sha = hashlib.sha256()
    for item in items:
        fields = [item["context"], *item["continuations"], str(int(item["target"]))]
        sha.update(("\x1e".join(fields) + "\x1f").encode("utf-8"))
    return {"items": len(items), "sha256": sha.hexdigest()}


golden = {"fixtures": {}, "digests": {}}
for shots in (0, 5):
    items = {}
    for name in ("ceval", "cmmlu", "mmlu"):
        items.update(exam(name, FIXTURES, shots))
    files = (FIXTURES / "hellaswag/train.jsonl", FIXTURES / "hellaswag/validation.jsonl")
    items["hellaswag"] = hellaswag(*files, shots)
    golden["fixtures"][shots] = {
        name: {**digest(rows), "first": [{**row, "target": int(row["target"])} for row in rows[:3]]}
        for name, rows in items.items()
    }
for name in ("ceval", "cmmlu", "mmlu"):
    golden["digests"].update({task: digest(rows) for task, rows in exam(name, REAL, 5).items()})
raw = REAL / "hellaswag/raw-1000.jsonl"
golden["digests"]["hellaswag raw-1000 on itself"] = digest(hellaswag(raw, raw, 5))
text = json.dumps(golden, ensure_ascii=False, indent=1)
pathlib.Path("tests/golden/lm_eval_prompts.json").write_text(text + "\n", encoding="utf-8")
