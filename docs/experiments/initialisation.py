#!/usr/bin/env python3
"""The experiment of docs/experiments.md: a small English model learns Chinese.

    python3 docs/experiments/initialisation.py [--cmx target/release/cmx] [--data ../shared/data]
                                               [--folder target/initialisation] [--figures docs/figures]

Needs the model `stories-moe` and `zh/books.jsonl` of the shared data; standard library only. English are stories that the model
itself tells, for it was trained on nothing else. Runs initialisation.toml in a workspace of its own, prints the table, and with
`--figures` draws the curves there.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

STORIES = 600
BOOKS = 300
HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cmx", type=pathlib.Path, default=ROOT / "target/release/cmx")
    parser.add_argument("--data", type=pathlib.Path, default=ROOT / "../shared/data")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "target/initialisation")
    parser.add_argument("--figures", type=pathlib.Path)
    return parser.parse_args()


def prepare(options, folder):
    """The workspace: model, corpora, registry, pipeline."""
    for name in ["base", "corpora/books", "corpora/stories"]:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for file in (options.data / "stories-moe").iterdir():
        shutil.copyfile(file, folder / "base" / file.name)
    registry = "".join(f'[{name}]\nroot = "corpora/{name}"\n' for name in ["books", "stories"])
    (folder / "datasets.toml").write_text(registry)
    shutil.copyfile(HERE / "initialisation.toml", folder / "initialisation.toml")
    with open(options.data / "zh/books.jsonl", encoding="utf-8") as books:
        lines = [next(books) for _ in range(BOOKS)]
    (folder / "corpora/books/books.jsonl").write_text("".join(lines), encoding="utf-8")
    stories = folder / "corpora/stories/stories.jsonl"
    if not stories.exists():
        with ThreadPoolExecutor(2) as pool:
            told = pool.map(lambda seed: tell(options.cmx, folder / "base", seed), range(STORIES))
            stories.write_text("".join(json.dumps({"text": text}) + "\n" for text in told))


def tell(cmx, model, seed):
    """A story."""
    command = [cmx, "generate", "--model", model, "--prompt", "Once upon a time", "--max-tokens", "400"]
    command += ["--temperature", "1", "--seed", str(seed)]
    story = subprocess.run(command, check=True, capture_output=True).stdout
    return story.decode(errors="replace").rstrip("\n")


def evaluations(folder, stage):
    """[(steps, {corpus: bits per byte})]"""
    lines = (folder / "outputs" / stage / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [(record["step"], record["bits_per_byte"]) for record in records if "bits_per_byte" in record]


def main():
    options = arguments()
    options.cmx = options.cmx.resolve()
    folder = options.folder.resolve()
    prepare(options, folder)
    subprocess.run([options.cmx, "run", "initialisation.toml"], cwd=folder, check=True)
    names = ["mean-met", "normal-met", "mean-raw", "normal-raw"]
    curves = {name: evaluations(folder, f"train-{name}") for name in names}
    print(f"{'steps':>5}  " + "  ".join(f"{name:>14}" for name in names) + "   (Chinese English, bits per byte)")
    for at, (steps, _) in enumerate(curves[names[0]]):
        cells = [curves[name][at][1] for name in names]
        print(f"{steps:5}  " + "  ".join(f"{cell['books']:7.3f} {cell['stories']:6.3f}" for cell in cells))
    for name in names:
        chinese = [bits["books"] for _, bits in curves[name]]
        english = [bits["stories"] for _, bits in curves[name]]
        steady = all(after < before for before, after in zip(chinese, chinese[1:]))
        print(f"{name}: Chinese falls at every evaluation: {steady}; English {100 * (english[-1] / english[0] - 1):+.1f} %")
    means, chance = (dict(curves[name]) for name in names[:2])
    steps = sorted(means)
    for before, after in zip(steps, steps[1:]):
        assert means[after]["books"] < means[before]["books"], f"Chinese does not fall at step {after}"
    for step in (steps[0], steps[-1]):
        assert means[step]["books"] < chance[step]["books"], f"means do not beat chance at step {step}"
    assert means[steps[-1]]["stories"] < 1.05 * means[steps[0]]["stories"], "English is lost"
    if options.figures:
        figures = options.figures.resolve()
        labels = {"mean-met": "met, means", "normal-met": "met, random",
                  "mean-raw": "raw, means", "normal-raw": "raw, random"}
        # Step 0 would leave no room for the rest; the table has it.
        for corpus, language, first in [("books", "Chinese", 25), ("stories", "English", 0)]:
            output = figures / f"initialisation-{language.lower()}.svg"
            command = ["cargo", "run", "--quiet", "--release", "--example", "curves", "--", output]
            command += [f"Held-out {language}, new rows begun as means or at random", "bits per byte"]
            command += [f"bits_per_byte/{corpus}", str(first)]
            command += [f"{labels[name]}={folder / 'outputs' / f'train-{name}'}" for name in names]
            subprocess.run(command, cwd=ROOT, check=True)
            output.with_suffix(".png").unlink()


if __name__ == "__main__":
    main()
