#!/usr/bin/env python3
"""Training a vocabulary, and a sweep of vocabularies, beside SentencePiece on the same lines and cores.

    python3 benches/vocabulary.py [--cmx target/release/cmx] [--data ../shared/data] [--folder target/vocabulary]
                                  [--threads 2] [--vocabularies 8] [train] [memory] [sweep]

Standard library only; sentencepiece comes from PyPI into a virtual environment under `--folder` (kept between calls).

- `train`: `cmx run` of one `train-tokenizer` stage and `spm_train --model_type=bpe` on 100 MB of Chinese lines, 41,000
  pieces; seconds from start to end of the process and its peak resident memory. Fails unless both gave the same pieces.
- `memory`: cmx alone on 1 GB of lines.
- `sweep`: one `vocab-search` over 4 numbers of single characters and 16 sizes, scored on two corpora, beside the loop
  of `spm_train`, encoding and VoCapXLM's `compute_alp` for `--vocabularies` of the 64, spread over them; the time of the
  others is theirs by proportion. Fails unless every ALP is that of the sweep to 1e-9.

The lines are those of all Chinese corpora. What is missing to the size asked for are the same lines turned round at
another place each time (`abcdef` → `cdefab`): other lines with nearly the same pairs, so that nothing collapses into a
count.
"""

import argparse
import collections
import itertools
import json
import math
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import time

PEERS = ["sentencepiece==0.2.3"]
TRAINED_ON = ["books", "laws", "articles"]
SCORED_ON = ["qa", "instructions"]
CHARACTERS = [4451, 5435, 6414, 7434]
SIZES = range(11000, 41001, 2000)
VOCABULARY = 41_000
COVERAGE = 0.9995
LONGEST = 4192


def lines_of(path):
    with open(path, encoding="utf-8", newline="\n") as file:
        for document in file:
            for line in json.loads(document)["text"].split("\n"):
                if line and len(line.encode()) <= LONGEST:
                    yield line


def expressible(lines):
    """The published numbers of single characters, each with the `character_coverage` at which SentencePiece takes so many.
    It compares coverages in single precision, too coarse for some numbers: those give way to the nearest that can be asked
    for."""
    counts = collections.Counter()
    with open(lines, encoding="utf-8", newline="\n") as file:
        for line in file:
            counts.update("".join("\u2581" + word for word in line.rstrip("\n").split(" ") if word))
    single = lambda number: struct.unpack("f", struct.pack("f", number))[0]
    shares, covered, everything = [], 0, sum(counts.values())
    for _, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        shares.append(single(covered / everything))
        covered += count
    # It stops before the first character at which what is covered is enough.
    first = {share: characters for characters, share in reversed(list(enumerate(shares)))}
    nearest = [min(first.values(), key=lambda characters: abs(characters - wanted)) for wanted in CHARACTERS]
    return {characters: shares[characters] for characters in nearest}


def write_documents(lines):
    """The same lines as documents of a hundred lines, which is how cmx takes them."""
    with open(lines, encoding="utf-8", newline="\n") as file, open(lines.with_suffix(".jsonl"), "w", encoding="utf-8") as out:
        while document := "".join(itertools.islice(file, 100)):
            out.write(json.dumps({"text": document.rstrip("\n")}, ensure_ascii=False) + "\n")


# --- The peer: a process of its own ---

def peer_train(lines, model):
    import sentencepiece
    sentencepiece.SentencePieceTrainer.train(
        input=lines, model_prefix=model, model_type="bpe", vocab_size=VOCABULARY, character_coverage=COVERAGE,
        normalization_rule_name="identity", num_threads=2, input_sentence_size=0, minloglevel=2)


def peer_sweep(work):
    """One vocabulary: trained, its text encoded and scored as VoCapXLM's `compute_alp` does it."""
    import io
    import sentencepiece
    work = json.loads(pathlib.Path(work).read_text())
    model = io.BytesIO()
    with open(work["lines"], encoding="utf-8", newline="\n") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line.rstrip("\n") for line in file), model_writer=model, model_type="bpe",
            vocab_size=work["size"], normalization_rule_name="identity", byte_fallback=True,
            character_coverage=work["coverage"], num_threads=2, minloglevel=2)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    scores = []
    for corpus in work["corpora"]:
        with open(corpus, encoding="utf-8", newline="\n") as file:
            tokens = [processor.encode(line.strip(), out_type=str) for line in file]
        counts = collections.Counter(token for line in tokens for token in line)
        everything = sum(counts.values())
        probability = {token: count / everything for token, count in counts.items()}
        scores.append(sum(sum(math.log(probability[token]) for token in line) for line in tokens) / len(tokens))
    json.dump(scores, sys.stdout)


class Bench:
    def __init__(self, options):
        self.cmx, self.data, self.threads = options.cmx.resolve(), options.data.resolve(), options.threads
        self.vocabularies = options.vocabularies
        self.folder = options.folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.python = self.folder / "venv/bin/python"
        if not self.python.is_file():
            subprocess.run([sys.executable, "-m", "venv", self.folder / "venv"], check=True)
            subprocess.run([self.python, "-m", "pip", "install", "--quiet", *PEERS], check=True)

    def measured(self, command, **options):
        """Seconds and peak MiB of a process and those that it started, and what it printed."""
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, **options)
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"{command} failed: {status}")
        return time.perf_counter() - start, usage.ru_maxrss / 1024, printed

    def stage(self, kind, files, **parameters):
        """A workspace with one stage, run from nothing: its seconds, its peak, its folder."""
        workspace = self.folder / "workspace"
        shutil.rmtree(workspace, ignore_errors=True)
        workspace.mkdir()
        for name, path in files.items():
            shutil.copy(path, workspace / name)
        values = "\n".join(f"{name} = {json.dumps(value)}" for name, value in parameters.items())
        (workspace / "p.toml").write_text(f'name = "p"\n[stage.it]\nuse = "{kind}"\n{values}\n')
        (workspace / "datasets.toml").touch()
        command = [self.cmx, "run", "p.toml", "--cpus", str(self.threads)]
        seconds, peak, _ = self.measured(command, cwd=workspace, stderr=subprocess.DEVNULL)
        return seconds, peak, workspace / "outputs/it"

    def lines(self, size):
        """A file of lines, `size` bytes of them; kept between calls."""
        path = self.folder / f"lines-{size // 10**6}.txt"
        if not path.is_file():
            corpora = sorted(self.data.glob("zh/*.jsonl"))
            written, turn = 0, 0
            with open(path.with_suffix(".tmp"), "w", encoding="utf-8", newline="\n") as file:
                while written < size:
                    for line in (line for corpus in corpora for line in lines_of(corpus)):
                        at = 7 * turn % len(line)
                        line = (line[at:] + line[:at]).strip() or line
                        file.write(line + "\n")
                        written += len(line.encode()) + 1
                        if written >= size:
                            break
                    turn += 1
            path.with_suffix(".tmp").rename(path)
            write_documents(path)
        return path

    def trained(self, lines):
        return self.stage(
            "train-tokenizer", {"lines.jsonl": lines.with_suffix(".jsonl")}, train=["lines.jsonl"], vocab_size=VOCABULARY,
            character_coverage=COVERAGE, byte_fallback=False, split_digits=False, allow_whitespace_only_pieces=False,
            remove_extra_whitespaces=True, lines=100_000_000)

    def train(self):
        lines = self.lines(100 * 10**6)
        ours = min((self.trained(lines) for _ in range(3)), key=lambda run: run[0])
        model = self.folder / "peer"
        seconds, peak, _ = self.measured([self.python, __file__, "--peer", "train", lines, model])
        same = (ours[2] / "tokenizer.vocab").read_bytes() == model.with_suffix(".vocab").read_bytes()
        print(f"\ntrain, {lines.stat().st_size / 1e6:.0f} MB, {VOCABULARY} pieces: {'the same' if same else 'DIFFERENT'} pieces")
        for name, (own_seconds, own_peak) in {"cmx": ours[:2], "spm_train": (seconds, peak)}.items():
            print(f"  {name:10} {own_seconds:7.1f} s   peak {own_peak:6.0f} MiB")
        print(f"  {seconds / ours[0]:.1f} times the speed, {ours[1] / peak:.2f} of the memory", flush=True)
        if not same:
            sys.exit(1)

    def memory(self):
        lines = self.lines(10**9)
        seconds, peak, _ = self.trained(lines)
        print(f"\ntrain, 1 GB, {VOCABULARY} pieces: cmx {seconds:.1f} s   peak {peak:.0f} MiB", flush=True)
        lines.unlink()
        lines.with_suffix(".jsonl").unlink()

    def sweep(self):
        plain = {}
        for name in [*TRAINED_ON, *SCORED_ON]:
            plain[name] = self.folder / f"{name}.txt"
            with open(plain[name], "w", encoding="utf-8", newline="\n") as file:
                for line in lines_of(self.data / f"zh/{name}.jsonl"):
                    line = line.strip() if name in SCORED_ON else line
                    if line:
                        file.write(line + "\n")
            write_documents(plain[name])
        together = self.folder / "trained-on.txt"
        with open(together, "wb") as file:
            for name in TRAINED_ON:
                file.write(plain[name].read_bytes())
        coverages = expressible(together)
        base = self.data / "tokenizers/mixtral-8x7b-v0.1.tokenizer.model"
        documents = {name: path.with_suffix(".jsonl") for name, path in plain.items()}
        files = {"base.model": base, **{path.name: path for path in documents.values()}}
        ours, peak, output = min((self.stage(
            "vocab-search", files, base="base.model", train=[documents[name].name for name in TRAINED_ON],
            score=[documents[name].name for name in SCORED_ON], single_characters=list(coverages), sizes=list(SIZES))
            for _ in range(3)), key=lambda run: run[0])
        search = json.loads((output / "search.json").read_text())
        found = {(curve["single_characters"], point["size"]): point["alp"]
                 for curve in search["curves"] for point in curve["points"]}

        # Every number of characters, at sizes from the smallest to the largest.
        characters = list(coverages)
        wanted = [(characters[number % len(characters)], SIZES[(number * len(SIZES) + len(SIZES) // 2) // self.vocabularies])
                  for number in range(self.vocabularies)]
        total = 0
        for characters, size in wanted:
            work = {"lines": str(together), "size": size, "coverage": coverages[characters],
                    "corpora": [str(plain[name]) for name in SCORED_ON]}
            self.folder.joinpath("work.json").write_text(json.dumps(work))
            seconds, _, printed = self.measured([self.python, __file__, "--peer", "sweep", self.folder / "work.json"])
            total += seconds
            scores = json.loads(printed)
            same = all(math.isclose(a, b, rel_tol=1e-9) for a, b in zip(scores, found[characters, size]))
            print(f"  {characters} characters, {size} pieces: {seconds:.1f} s, ALP {'equal' if same else f'{scores} NOT {found[characters, size]}'}", flush=True)
            if not same:
                sys.exit(1)
        loop = total / len(wanted) * len(found)
        print(f"\nsweep of {len(found)} vocabularies, {together.stat().st_size / 1e6:.0f} MB trained on: cmx {ours:.1f} s   peak {peak:.0f} MiB")
        print(f"  the loop: {total:.0f} s for {len(wanted)} of them, by proportion {loop:.0f} s for all: {loop / ours:.0f} times", flush=True)


def main():
    if sys.argv[1:2] == ["--peer"]:
        globals()[f"peer_{sys.argv[2]}"](*sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cmx", type=pathlib.Path, default=pathlib.Path("target/release/cmx"))
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("../shared/data"))
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("target/vocabulary"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--vocabularies", type=int, default=8, help="how many of the sweep's the peer makes")
    parser.add_argument("what", nargs="*", help="train, memory, sweep; all if none is named")
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.exit(f"there are no corpora in {options.data}")
    bench = Bench(options)
    for name in options.what or ["train", "memory", "sweep"]:
        getattr(bench, name)()


if __name__ == "__main__":
    main()
