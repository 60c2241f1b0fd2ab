"""Holds training, nested vocabularies and ALP against SentencePiece's own trainer, on real and on random lines.

Needs sentencepiece 0.2.3, protobuf and pyarrow:
    python tests/parity/vocabularies.py path/to/cmx path/to/shared/data

- On the same lines `train-tokenizer` gives the pieces of `spm_train`, in their order, with their scores, under various
  settings.
- Nested: the vocabularies that `spm_train` makes at several sizes, each in a training of its own, are the beginnings of
  the one that cmx trains for the largest.
- Under each of them cmx's encoder gives the tokens that SentencePiece gives under the model that was trained alone.
- The ALP of each, which `vocab-search` finds in one pass, is that of VoCapXLM's formula over SentencePiece's tokens.

The last three with characters without a piece as unknown, and as bytes.
"""

import functools
import io
import json
import math
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pyarrow
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as proto

SPACE = "\u2581"
# Documents of each corpus that are trained on (about 7 MB of lines) and scored.
TRAINED, SCORED = 250, 400
CHARACTERS = [2500, 4000]
SIZES = [5000, 6000, 8000, 11000, 15000, 20000]
DEFAULTS = {
    "byte_fallback": False,
    "split_digits": False,
    "allow_whitespace_only_pieces": False,
    "remove_extra_whitespaces": True,
    "max_sentencepiece_length": 16,
}
SETTINGS = [
    {},
    {"byte_fallback": True, "split_digits": True, "allow_whitespace_only_pieces": True, "remove_extra_whitespaces": False},
    {"split_digits": True, "max_sentencepiece_length": 4},
    {"byte_fallback": True, "allow_whitespace_only_pieces": True},
    {"remove_extra_whitespaces": False, "max_sentencepiece_length": 7},
]
RANDOM_TEXTS = 40


class Failures:
    count = 0

    @classmethod
    def check(cls, equal, what):
        print(f"{what}: {'equal' if equal else 'DIFFERENT'}", flush=True)
        cls.count += not equal


def lines_of(path, documents):
    with open(path, encoding="utf-8", newline="\n") as file:
        texts = [json.loads(line)["text"] for line, _ in zip(file, range(documents))]
    return [line for text in texts for line in text.split("\n") if line]


def write_documents(path, lines):
    """Each line a document."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for line in lines:
            file.write(json.dumps({"text": line}, ensure_ascii=False) + "\n")


def coverage_for(lines, characters, squeeze=True):
    """The `character_coverage` at which SentencePiece takes the `characters` most frequent ones, ordered as there."""
    counts = Counter()
    for line in lines:
        if "\u2585" not in line and len(line.encode()) <= 4192:
            words = [word for word in line.split(" ") if word] if squeeze else line.split(" ")
            counts.update("".join(SPACE + word for word in words))
    everything, covered, shares = sum(counts.values()), 0, []
    for _, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        covered += count
        shares.append(covered / everything)
    if characters >= len(shares):
        return 1.0
    # It stops before the first character at which what is covered is enough.
    return (shares[characters - 2] + shares[characters - 1]) / 2


def spm_train(lines, size, coverage, settings):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="bpe", vocab_size=size,
        character_coverage=coverage, normalization_rule_name="identity", num_threads=2, minloglevel=2, **settings)
    return model.getvalue()


def pieces(model):
    """What a model is made of; scores as bits, so that -0.0 is not 0.0."""
    model = proto.ModelProto.FromString(model)
    return [(piece.piece, math.copysign(1, piece.score), piece.score, piece.type) for piece in model.pieces]


def cut(model, size):
    """The first merges of a model, so many that its size is `size`, and all of its single characters."""
    model = proto.ModelProto.FromString(model)
    kind = proto.ModelProto.SentencePiece
    meta = [piece for piece in model.pieces if piece.type != kind.NORMAL]
    merges = [piece for piece in model.pieces if piece.type == kind.NORMAL and len(piece.piece) > 1]
    characters = [piece for piece in model.pieces if piece.type == kind.NORMAL and len(piece.piece) == 1]
    normal = merges[:size - len(meta) - len(characters)] + characters
    for order, piece in enumerate(normal):
        piece.score = -float(order)
    del model.pieces[:]
    model.pieces.extend(meta + normal)
    return model.SerializeToString()


class Project:
    """A workspace whose pipeline grows, stage by stage."""

    def __init__(self, cmx, folder):
        self.cmx, self.folder = cmx, Path(folder)
        self.stages, self.datasets = [], []

    def stage(self, name, **parameters):
        lines = [f"{key} = {json.dumps(value)}" for key, value in parameters.items()]
        self.stages.append("\n".join([f"[stage.{name}]", *lines, ""]))

    def dataset(self, name, root):
        self.datasets.append(f'[{name}]\nsplits = ["train"]\nroot = "{root}"\ndoc = "{{split}}"\nencoded = "encoded-{{split}}"\n')

    def run(self, fails=False):
        """What cmx says on standard error."""
        (self.folder / "pipeline.toml").write_text('name = "parity"\n' + "\n".join(self.stages))
        (self.folder / "datasets.toml").write_text("\n".join(self.datasets))
        run = subprocess.run([self.cmx, "run", "pipeline.toml"], cwd=self.folder, capture_output=True, text=True)
        if (run.returncode != 0) != fails:
            sys.exit(f"cmx run: exit code {run.returncode}\n{run.stderr}")
        return run.stderr

    def output(self, stage, *path):
        return self.folder.joinpath("outputs", stage, *path)

    def model(self, stage):
        return self.output(stage, "tokenizer.model").read_bytes()


def random_lines(seed):
    """Lines of few words again and again: scripts and digits mixed, runs of spaces, of one character, of none."""
    draw = random.Random(seed)
    alphabets = ["abcdefgh", "天地玄黄宇宙洪荒", "ひらカター", "0123456789", "０１", "。，！?", "e\u0301\u0323", "абв", "𠀀𪛖", "\t"]
    chosen = draw.sample(alphabets, draw.randint(1, len(alphabets)))
    letters = "".join(chosen)
    words = ["".join(draw.choices(letters, k=draw.randint(1, 9))) for _ in range(draw.randint(5, 400))]
    words += [draw.choice(letters) * draw.randint(2, 30) for _ in range(draw.randint(0, 9))]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    gaps = draw.choice([[" "], [" ", ""], ["  ", " ", ""], [""]])
    line = lambda: "".join(word + draw.choice(gaps) for word in draw.choices(words, weights, k=draw.randint(1, 30)))
    lines = [line().strip("\t") for _ in range(draw.randint(50, 1500))]
    return [line for line in lines if line.strip(" ")] + ["<s> is </s> <unk> <0x41>", SPACE + " a literal mark"]


def trainings(cmx, data, folder):
    """The same pieces, in the same order, with the same scores."""
    project = Project(cmx, folder)
    cases = {}
    real = [line for name in ("books", "laws", "articles", "python-docs") for line in lines_of(data / f"zh/{name}.jsonl", 60)]
    for number, settings in enumerate(SETTINGS):
        for coverage in (0.995, 0.9999, 1.0):
            cases[f"real-{number}-{coverage}"] = (real, coverage, {**DEFAULTS, **settings}, 9000)
    for seed in range(RANDOM_TEXTS):
        settings = {**DEFAULTS, **SETTINGS[seed % len(SETTINGS)]}
        cases[f"random-{seed}"] = (random_lines(seed), [0.98, 0.999, 1.0][seed % 3], settings, None)
    expected = {}
    for name, (lines, coverage, settings, size) in cases.items():
        stage = name.replace(".", "-")
        if size is None:
            size = largest(project, lines, coverage, settings)
        expected[stage] = spm_train(lines, size, coverage, settings)
        write_documents(project.folder / f"{stage}.jsonl", lines)
        project.stage(stage, use="train-tokenizer", train=[f"{stage}.jsonl"], vocab_size=size,
                      character_coverage=coverage, **settings)
    project.run()
    for stage, model in expected.items():
        Failures.check(pieces(project.model(stage)) == pieces(model), f"{stage}: {len(pieces(model))} pieces")


def largest(project, lines, coverage, settings):
    """As many pieces as cmx says that the lines give. (SentencePiece goes on from there with pairs that are in no line any
    more.)"""
    asking = Project(project.cmx, project.folder / "asking")
    asking.folder.mkdir(exist_ok=True)
    write_documents(asking.folder / "lines.jsonl", lines)
    asking.stage("asked", use="train-tokenizer", train=["lines.jsonl"], vocab_size=1_000_000, character_coverage=coverage,
                 **settings)
    said = asking.run(fails=True)
    return int(re.search("the text gives a vocabulary of ([0-9]+) pieces at most", said)[1])


def average_log_probability(lines):
    """`compute_alp` of VoCapXLM, for lines that are tokens already."""
    counts = Counter(token for line in lines for token in line)
    everything = sum(counts.values())
    return sum(sum(math.log(counts[token] / everything) for token in line) for line in lines) / len(lines)


def encoded(project, stage, model, lines):
    """Ids of the lines from a folder of token blocks, whose last one, if it is not full, is left out."""
    with pyarrow.OSFile(str(next(project.output(stage).rglob("*.arrow")))) as file:
        blocks = pyarrow.ipc.open_stream(file).read_all().column("input_ids").to_pylist()
    ids = [token for block in blocks for token in block]
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    expected = []
    for line in lines:
        expected += [processor.bos_id(), *processor.encode(line), processor.eos_id()]
    return ids, expected[:len(expected) // 8 * 8]


def nested(cmx, data, folder, byte_fallback):
    settings = {**DEFAULTS, "byte_fallback": byte_fallback}
    project = Project(cmx, folder)
    lines = [line for name in ("books", "laws", "articles") for line in lines_of(data / f"zh/{name}.jsonl", TRAINED)]
    scored = {name: [line.strip() for line in lines_of(data / f"zh/{name}.jsonl", SCORED)] for name in ("qa", "instructions")}
    scored = {name: [line for line in lines if line] for name, lines in scored.items()}
    write_documents(project.folder / "lines.jsonl", lines)
    for name, own in scored.items():
        write_documents(project.folder / f"{name}.jsonl", own)
    (project.folder / "base").mkdir()
    base = data / "tokenizers/mixtral-8x7b-v0.1.tokenizer.model"
    (project.folder / "base/tokenizer.model").write_bytes(base.read_bytes())
    project.stage("search", use="vocab-search", base="base", train=["lines.jsonl"],
                  score=[f"{name}.jsonl" for name in scored], single_characters=CHARACTERS, sizes=SIZES, byte_fallback=byte_fallback)
    coverages = {number: coverage_for(lines, number) for number in CHARACTERS}
    for number, coverage in coverages.items():
        project.stage(f"train-{number}", use="train-tokenizer", train=["lines.jsonl"], vocab_size=SIZES[-1],
                      character_coverage=coverage, **settings)
    project.run()

    curves = {curve["single_characters"]: curve["points"]
              for curve in json.loads(project.output("search", "search.json").read_text())["curves"]}
    everything = [line for own in scored.values() for line in own]
    (project.folder / "scored").mkdir()
    write_documents(project.folder / "scored/train.jsonl", everything)
    alone = {}
    for number, coverage in coverages.items():
        trained = project.model(f"train-{number}")
        for size, point in zip(SIZES, curves[number]):
            name = f"{number} characters, {size} pieces"
            model = alone[number, size] = spm_train(lines, size, coverage, settings)
            single = sum(len(piece) == 1 for piece, *_, kind in pieces(model) if kind == 1)
            assert single == number and point["size"] == size, (single, number, point["size"])
            Failures.check(pieces(model) == pieces(cut(trained, size)), f"{name}: trained alone, and cut from the largest")
            processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            for at, (corpus, own) in enumerate(scored.items()):
                tokens = [processor.encode(line) for line in own]
                alp = average_log_probability(tokens)
                same = sum(map(len, tokens)) == point["tokens"][at] and math.isclose(alp, point["alp"][at], rel_tol=1e-9)
                Failures.check(same, f"{name}: tokens and ALP on {corpus}, {point['tokens'][at]}, {alp:.9f}")
            folder = project.folder / f"cut-{number}-{size}"
            folder.mkdir()
            (folder / "tokenizer.model").write_bytes(cut(trained, size))
            stage = f"encode-{number}-{size}"
            project.dataset(stage, "scored")
            project.stage(stage, use="encode", dataset=stage, tokenizer=folder.name, sequence_length=8)
    project.run()
    for (number, size), model in alone.items():
        ids, expected = encoded(project, f"encode-{number}-{size}", model, everything)
        Failures.check(ids == expected, f"{number} characters, {size} pieces: {len(ids)} ids of {len(everything)} lines")


def main():
    cmx, data = (Path(argument).resolve() for argument in sys.argv[1:3])
    as_unknown, as_bytes = (functools.partial(nested, byte_fallback=value) for value in (False, True))
    for part in (trainings, as_unknown, as_bytes):
        with tempfile.TemporaryDirectory() as folder:
            part(cmx, data, folder)
    sys.exit(1 if Failures.count else 0)


if __name__ == "__main__":
    main()
