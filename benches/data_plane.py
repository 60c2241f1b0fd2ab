#!/usr/bin/env python3
"""Encode, split and parquet2jsonl beside the programs that people use for them, on the same files and cores.

    python3 benches/data_plane.py [--cmx target/release/cmx] [--data ../shared/data] [--folder target/data-plane]
                                  [--threads 2] [--repeats 3] [encode] [split] [parquet] [memory] [hostile]

Standard library only; the peers come from PyPI into a virtual environment under `--folder` (kept between calls).
Tools take turns; a figure is the median of the repeats, in MB (10^6 bytes) of JSONL a second, with the page cache warm.
cmx is timed as a process, from its start to its end, files written; Python's peers without their imports, without the
loading of their tokenizer, and tokenising alone without reading or writing anything.

- `original`: the published script, `datasets.map` on as many workers as threads, the fast tokenizer on batches of
  3,000 documents, `group_texts` with `sum(lists, [])` on batches of 1,000, `save_to_disk`; run once.
- `batches of 3,000`, `encode_batch_fast`, `SentencePiece`: tokenising alone.
- `cat; wc; split`: `cat *.jsonl > all.jsonl; wc -l; split -l`.
- `Polars`: `scan_parquet(…).sink_ndjson(…)`.

`memory` is about cmx alone: the peak resident memory of encode on the whole corpus repeated to 2 GB, on a line of 100 MB
and on 100 MB of one document among others, against half of it, which shows whether the time is in proportion. So does
`hostile`, on documents that merge badly, each one line and so the work of one thread.
"""

import argparse
import functools
import itertools
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

PEERS = [
    "datasets==5.0.1",
    "polars==1.44.2",
    "pyarrow==26.0.1",
    "sentencepiece==0.2.3",
    "tokenizers==0.22.2",
    "transformers==4.57.6",
    "protobuf==7.36.2",
]
MIXTRAL = "tokenizers/mixtral-8x7b-v0.1.tokenizer.model"
# Mixtral's with 25,000 Chinese pieces, which cmx makes, and one of 55,296 that others made.
EXTENDED = "57,000"
MODELS = [MIXTRAL, EXTENDED, "tokenizers/ymcui-chinese-llama2-55296.model"]
CORPORA = ["zh/laws", "en/python-docs"]


# --- The peers: each runs in a process of its own and prints its seconds ---

def texts_of(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def timed(function):
    start = time.perf_counter()
    function()
    print(time.perf_counter() - start)


def fast_tokenizer(model):
    from transformers import LlamaTokenizerFast
    return LlamaTokenizerFast(vocab_file=model, legacy=True)


def peer_original(jsonl, model, out, threads):
    from datasets import disable_caching, load_dataset
    disable_caching()
    tokenizer = fast_tokenizer(model)
    length = 2048

    def tokenise(batch):
        return tokenizer(batch["text"])

    def group_texts(examples):
        joined = {name: sum(examples[name], []) for name in examples}
        total = len(joined["input_ids"])
        if total >= length:
            total = total // length * length
        result = {name: [ids[at:at + length] for at in range(0, total, length)] for name, ids in joined.items()}
        result["labels"] = result["input_ids"].copy()
        return result

    def run():
        data = load_dataset("json", data_files=jsonl, split="train", cache_dir=out + "-cache")
        data = data.map(tokenise, batched=True, batch_size=3000, num_proc=threads, remove_columns=data.column_names)
        data.map(group_texts, batched=True, num_proc=threads).save_to_disk(out)
    timed(run)


def peer_batches(jsonl, model, _out, _threads):
    tokenizer, texts = fast_tokenizer(model), texts_of(jsonl)
    timed(lambda: [tokenizer(texts[at:at + 3000])["input_ids"] for at in range(0, len(texts), 3000)])


def peer_encode_batch_fast(jsonl, model, _out, _threads):
    tokenizer, texts = fast_tokenizer(model)._tokenizer, texts_of(jsonl)
    timed(lambda: [e.ids for e in tokenizer.encode_batch_fast(texts)])


def peer_sentencepiece(jsonl, model, _out, threads):
    from sentencepiece import SentencePieceProcessor
    processor, texts = SentencePieceProcessor(model_file=model), texts_of(jsonl)
    timed(lambda: processor.encode(texts, num_threads=threads))


def peer_polars(parquet, _none, out, _threads):
    import polars
    timed(lambda: polars.scan_parquet(parquet).sink_ndjson(out))


def peer_make_parquet(jsonls, _none, out, _threads):
    """zstd, row groups of 10,000 documents; the columns of the JSON."""
    import pyarrow
    import pyarrow.parquet
    rows = []
    for path in jsonls.split(":"):
        with open(path, encoding="utf-8") as file:
            rows += [{"n": n, "text": json.loads(line)["text"]} for n, line in enumerate(file)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out, compression="zstd", row_group_size=10_000)
    print(0)


# --- The measuring ---

def hostile(what, size):
    """`size` bytes of what merges badly."""
    import random
    draw = random.Random(size)
    texts = {
        "one letter": lambda: "a" * size,
        "spaces": lambda: " " * size,
        "letters without a space": lambda: "".join(draw.choices("etaoinshrdlu", k=size)),
        "one character": lambda: "的" * (size // 3),
        "characters of few kinds": lambda: "".join(draw.choices("一不了人在有我他这中", k=size // 3)),
    }
    return texts[what]()


HOSTILE = ["one letter", "spaces", "letters without a space", "one character", "characters of few kinds"]


def write_corpus(data, what, path):
    """Of whole gigabytes the corpora over and over; of megabytes one line, long in its text or in a field passed over."""
    sources = sorted(pathlib.Path(data).glob("[ez][nh]/*.jsonl"))
    size, unit, _, *of = what.split()
    with open(path, "wb") as file:
        while unit == "GB" and file.tell() < int(size) * 1_000_000_000:
            for source in sources:
                file.write(source.read_bytes())
        if unit == "MB" and (kind := " ".join(of)) in HOSTILE:
            file.write(json.dumps({"text": hostile(kind, int(size) * 1_000_000)}, ensure_ascii=False).encode() + b"\n")
        elif unit == "MB":
            text = ""
            for source in sources:
                text += "\n".join(texts_of(source))
            text = text.encode()[:int(size) * 1_000_000].decode(errors="ignore")
            line = {"text": text} if of[-1] == "document" else {"text": "short", "other": text}
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")


class Bench:
    def __init__(self, options):
        self.options = options
        self.folder = options.folder.resolve()
        self.data = options.data.resolve()
        self.cmx_program = options.cmx.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)

    @functools.cached_property
    def python(self):
        """Made when the first peer is asked for."""
        environment = self.folder / "venv"
        python = environment / "bin/python"
        asked = environment / "asked"
        if not asked.is_file() or asked.read_text() != "\n".join(PEERS):
            print("installing the peers …", file=sys.stderr)
            subprocess.run([sys.executable, "-m", "venv", environment], check=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", *PEERS], check=True)
            asked.write_text("\n".join(PEERS))
        return python

    def fresh(self, name):
        path = self.folder / name
        if path.is_dir():
            shutil.rmtree(path)
        path.mkdir()
        return path

    def peer(self, name, source, model=None):
        out = self.fresh("peer")
        threads = str(self.options.threads)
        caps = ("RAYON_NUM_THREADS", "POLARS_MAX_THREADS", "OMP_NUM_THREADS")
        run = subprocess.run(
            [self.python, __file__, "--peer", name, str(source), str(model or ""), str(out / "out"), threads],
            stdout=subprocess.PIPE, check=True, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, **dict.fromkeys(caps, threads), "TOKENIZERS_PARALLELISM": "true",
                 "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "HF_HUB_OFFLINE": "1"})
        return float(run.stdout.split()[-1])

    def cmx(self, kind, **parameters):
        """Seconds and peak memory of the worker of one stage."""
        folder = self.fresh("cmx")
        for name in ("output", "kept"):
            (folder / name).mkdir()
        task = {"stage": kind, "kind": kind, "threads": self.options.threads, "output": str(folder / "output"),
                "kept": str(folder / "kept"), "pool": str(folder / "pool"), "parameters": parameters}
        (folder / "task.json").write_text(json.dumps(task))
        start = time.perf_counter()
        process = subprocess.Popen([self.cmx_program, "work", folder], stdin=subprocess.PIPE,
                                   stdout=subprocess.DEVNULL, start_new_session=True)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.stdin.close()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"cmx {kind} failed")
        self.peak = usage.ru_maxrss / 1024
        return seconds

    def compare(self, title, size, runs, repeats=None):
        """`runs`: name → function that gives seconds. The first is cmx; prints speeds and cmx's ratio to each."""
        taken = {name: [] for name in runs}
        for turn in range(self.options.repeats):
            for name, run in runs.items():
                if turn == 0 or name not in (repeats or {}):
                    taken[name].append(run())
        speeds = {name: size / 1e6 / statistics.median(seconds) for name, seconds in taken.items()}
        own = next(iter(speeds.values()))
        print(f"\n{title} ({size / 1e6:.1f} MB)")
        for name, speed in speeds.items():
            spread = f"{min(taken[name]):.2f}–{max(taken[name]):.2f} s"
            print(f"  {name:20} {speed:8.2f} MB/s   {spread:16} cmx is {own / speed:6.2f}x", flush=True)
        print(f"  peak memory of cmx: {self.peak:.0f} MiB", flush=True)

    def dataset(self, path, form):
        return {"name": "bench", "form": form, "path": str(path), "doc": {"train": "train", "dev": "dev"},
                "encoded": {"train": "train", "dev": "dev"},
                "source": {"repo": None, "revision": None, "include": [], "exclude": [], "urls": [], "task": None}}

    @staticmethod
    def encoding(model):
        return {"tokenizer": {"from": "tokenizer", "path": str(model)}, "encoder": "native", "sequence_length": 2048,
                "recipe": "clean", "storage": "compact", "position_ids": False, "document_ids": False,
                "max_shard_bytes": 500_000_000, "text_field": "text"}

    def memory(self):
        self.peaks("memory", ["2 GB of documents", "50 MB of one document", "100 MB of one document",
                              "50 MB of another field", "100 MB of another field"])

    def hostile(self):
        self.peaks("hostile", [f"{size} MB of {kind}" for kind in HOSTILE for size in (5, 10)])

    def peaks(self, title, corpora):
        model = self.data / MIXTRAL
        print(f"\nencode, {title}")
        for what in corpora:
            source = self.fresh("memory")
            # By another process: a program's peak begins with that of the one that started it.
            subprocess.run([sys.executable, __file__, "--corpus", self.data, what, source / "train.jsonl"], check=True)
            (source / "dev.jsonl").touch()
            seconds = self.cmx("encode", dataset=self.dataset(source, "split"), **self.encoding(model))
            print(f"  {what:34} {seconds:7.2f} s   peak {self.peak:6.0f} MiB", flush=True)
        shutil.rmtree(self.folder / "memory")
        shutil.rmtree(self.folder / "cmx")

    def extended(self):
        """Mixtral's tokenizer with 25,000 pieces more, found in the corpora; kept between calls."""
        model = self.folder / "mixtral-57000.model"
        if not model.is_file():
            corpus = lambda name: {"from": name, "files": [str(self.data / f"zh/{name}.jsonl")]}
            self.cmx("vocab-search", base={"from": "base", "path": str(self.data / MIXTRAL)},
                     train=[corpus(name) for name in ["books", "laws", "articles"]], score=[corpus("instructions")],
                     scripts=["Han"], single_characters=[5435], sizes=[31000], alphabet=None, size=None, add=25_000,
                     lines=1_000_000, byte_fallback=True, recipe="clean", scores="distinct")
            shutil.copy(self.folder / "cmx/output/tokenizer.model", model)
        return model

    def encode(self):
        for model, corpus in itertools.product(MODELS, CORPORA):
            jsonl = self.data / f"{corpus}.jsonl"
            model = self.extended() if model == EXTENDED else self.data / model
            source = self.fresh("split")
            (source / "train.jsonl").symlink_to(jsonl)
            (source / "dev.jsonl").touch()
            size = jsonl.stat().st_size
            cmx = lambda: self.cmx("encode", dataset=self.dataset(source, "split"), **self.encoding(model))
            cmx()
            names = ["sentencepiece", "encode_batch_fast", "batches", "original"]
            runs = {name: (lambda name=name: self.peer(name, jsonl, model)) for name in names}
            self.compare(f"encode {corpus}.jsonl with {model.name}", size, {"cmx": cmx, **runs}, {"original"})

    def shards(self, copies):
        """All corpora several times over, one shard a file."""
        folder = self.folder / "shards"
        sources = [*sorted(self.data.glob("zh/*.jsonl")), *sorted(self.data.glob("en/*.jsonl"))]
        if not folder.is_dir():
            folder.mkdir()
            for copy in range(copies):
                for source in sources:
                    shutil.copy(source, folder / f"{copy}-{source.parent.name}-{source.name}")
        return folder

    def split(self):
        folder = self.shards(3)
        size = sum(path.stat().st_size for path in folder.iterdir())

        def coreutils():
            out = self.fresh("peer")
            script = 'cat "$0"/*.jsonl > all.jsonl; n=$(wc -l < all.jsonl); split -l $((n * 999 / 1000)) all.jsonl part-'
            start = time.perf_counter()
            subprocess.run(["sh", "-c", script, folder], cwd=out, check=True)
            return time.perf_counter() - start

        for method in ["hash", "tail"]:
            cmx = lambda: self.cmx("split", dataset=self.dataset(folder, "jsonl"), ratio="999:1", method=method,
                                   seed=0, deduplicate=False, text_field="text")
            cmx()
            self.compare(f"split, {method}", size, {"cmx": cmx, "cat; wc; split": coreutils})

    def parquet(self):
        folder = self.folder / "parquet"
        if not folder.is_dir():
            shards = self.shards(3)
            self.peer("make_parquet", ":".join(map(str, sorted(shards.iterdir()))))
            folder.mkdir()
            (self.folder / "peer/out").rename(folder / "corpus.parquet")
        cmx = lambda: self.cmx("parquet2jsonl", dataset=self.dataset(folder, "raw"), columns=None, rename=None,
                               binary="utf8")
        cmx()
        size = sum(path.stat().st_size for path in (self.folder / "cmx/output").iterdir())
        peer = lambda: self.peer("polars", folder / "corpus.parquet")
        self.compare("parquet2jsonl, zstd", size, {"cmx": cmx, "Polars": peer})


def main():
    if sys.argv[1:2] == ["--peer"]:
        _, _, name, source, model, out, threads = sys.argv
        globals()[f"peer_{name}"](source, model, out, int(threads))
        return
    if sys.argv[1:2] == ["--corpus"]:
        write_corpus(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cmx", type=pathlib.Path, default=pathlib.Path("target/release/cmx"))
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("../shared/data"))
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("target/data-plane"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("what", nargs="*", help="encode, split, parquet, memory, hostile; all if none is named")
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.exit(f"there are no corpora in {options.data}")
    bench = Bench(options)
    sections = {"encode": bench.encode, "split": bench.split, "parquet": bench.parquet, "memory": bench.memory,
                "hostile": bench.hostile}
    for name in options.what or sections:
        sections[name]()


if __name__ == "__main__":
    main()
