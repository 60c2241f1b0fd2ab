"""Times a run with nothing to do: cmx, DVC, Snakemake and ninja on the same graphs, side by side.

    python3 benches/noop.py [target/release/cmx]

Standard library only; the peers come from PyPI into a virtual environment under `--folder` (kept between calls).
Two graphs of tiny shell commands:

- `12 stages`: a chain of three, a fan of six, a chain of three;
- `10,000 files`: one stage with a folder of 10,000 files as its output, and one that counts them.

Every tool runs each graph once to the end, then again and again, taking turns; a run counts only if no step ran in it.
The table has the median wall time and the highest peak memory of the runs. ninja cannot see into a folder: there the
output is a stamp file in it; Snakemake looks at a folder's time only. Linux counts a program's memory from before its
exec, so figures below this script's own size (about 20 MiB) cannot be seen.
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

PEERS = ["dvc==3.67.1", "snakemake==9.27.0", "ninja==1.13.2"]
FILES = 10_000

# name → names of the stages it reads; none: the source file.
CHAIN_AND_FAN = {
    "a0": [],
    "a1": ["a0"],
    "a2": ["a1"],
    **{f"fan{i}": ["a2"] for i in range(6)},
    "b0": [f"fan{i}" for i in range(6)],
    "b1": ["b0"],
    "b2": ["b1"],
}


class Graph:
    """Stages by name: what each reads, and the shell script that makes its output folder."""

    def __init__(self, name, stages, scripts):
        self.name, self.stages, self.scripts = name, stages, scripts


def graphs():
    step = 'cat "$@" > "$out/out.txt"; echo "$name" >> "$out/out.txt"'
    many = f'i=0; while [ $i -lt {FILES} ]; do echo $i > "$out/file-$i.txt"; i=$((i + 1)); done; touch "$out/out.txt"'
    count = 'ls "$(dirname "$1")" | wc -l > "$out/out.txt"'
    yield Graph("12 stages", CHAIN_AND_FAN, {name: step for name in CHAIN_AND_FAN})
    yield Graph("10,000 files", {"many": [], "count": ["many"]}, {"many": many, "count": count})


class Tool:
    """One tool in a folder of its own, with the graph written in its language."""

    def __init__(self, graph, folder, program):
        self.graph, self.folder, self.program = graph, folder, program
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.log = folder / "steps.log"
        self.log.write_text("")
        (folder / "source.txt").write_text("source\n")
        for name, body in graph.scripts.items():
            # name, output folder, inputs; each step that runs leaves a line in the log.
            text = f'set -e\nname=$1; out=$2; shift 2\nmkdir -p "$out"\n{body}\necho "$name" >> "{self.log}"\n'
            (folder / f"{name}.sh").write_text(text)
        self.write()

    def inputs(self, stage):
        return [f"out/{parent}/out.txt" for parent in self.graph.stages[stage]] or ["source.txt"]

    def shell(self, stage):
        return " ".join(["sh", f"{stage}.sh", stage, f"out/{stage}", *self.inputs(stage)])

    def run(self):
        """Wall seconds and peak MiB of one run."""
        environment = {**os.environ, "DVC_NO_ANALYTICS": "1", "NO_COLOR": "1"}
        with open(self.folder / "output.log", "wb") as output:
            start = time.perf_counter()
            process = subprocess.Popen(
                self.command(), cwd=self.folder, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL
            )
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            sys.exit(f"{self.program} failed in {self.folder}:\n{(self.folder / 'output.log').read_text()}")
        return seconds, usage.ru_maxrss / (1024 * 1024 if sys.platform == "darwin" else 1024)

    def steps(self):
        return len(self.log.read_text().splitlines())


class Cmx(Tool):
    def write(self):
        (self.folder / "datasets.toml").write_text("")
        lines = ['name = "noop"', 'description = "Nothing to do."']
        for stage, parents in self.graph.stages.items():
            inputs = {f"in{i}": f"@{parent}" for i, parent in enumerate(parents)} or {"in0": "source.txt"}
            end = "/out.txt" if parents else ""
            command = ["sh", "{script}", stage, "{output}", *("{%s}%s" % (name, end) for name in inputs)]
            table = ", ".join(f"{key} = {json.dumps(value)}" for key, value in {"script": f"{stage}.sh", **inputs}.items())
            lines += ["", f"[stage.{stage}]", 'use     = "command"', f"command = {json.dumps(command)}", f"inputs  = {{ {table} }}"]
        (self.folder / "pipelines").mkdir()
        (self.folder / "pipelines/noop.toml").write_text("\n".join(lines) + "\n")

    def command(self):
        return [self.program, "run", "pipelines/noop.toml"]


class Dvc(Tool):
    def write(self):
        subprocess.run([self.program, "init", "--no-scm", "--quiet"], cwd=self.folder, check=True)
        lines = ["stages:"]
        for stage in self.graph.stages:
            lines += [f"  {stage}:", f"    cmd: {self.shell(stage)}", "    deps:"]
            # The whole folder of a parent is the dependency, as it is for cmx.
            parents = [f"out/{parent}" for parent in self.graph.stages[stage]] or ["source.txt"]
            lines += [f"    - {path}" for path in [f"{stage}.sh", *parents]]
            lines += ["    outs:", f"    - out/{stage}"]
        (self.folder / "dvc.yaml").write_text("\n".join(lines) + "\n")

    def command(self):
        return [self.program, "repro", "--quiet"]


class Snakemake(Tool):
    def write(self):
        last = list(self.graph.stages)[-1]
        lines = ["rule all:", f"    input: 'out/{last}'"]
        for stage in self.graph.stages:
            parents = [f"out/{parent}" for parent in self.graph.stages[stage]] or ["source.txt"]
            inputs = ", ".join(repr(path) for path in [f"{stage}.sh", *parents])
            lines += ["", f"rule {stage}:", f"    input: {inputs}", f"    output: directory('out/{stage}')"]
            lines += [f"    shell: {self.shell(stage)!r}"]
        (self.folder / "Snakefile").write_text("\n".join(lines) + "\n")

    def command(self):
        return [self.program, "--cores", "2", "--quiet", "all"]


class Ninja(Tool):
    def write(self):
        lines = []
        for stage in self.graph.stages:
            lines += [f"rule {stage}", f"  command = {self.shell(stage)}"]
            lines += [f"build out/{stage}/out.txt: {stage} {' '.join(self.inputs(stage))} | {stage}.sh", ""]
        (self.folder / "build.ninja").write_text("\n".join(lines) + "\n")

    def command(self):
        return [self.program, "--quiet"]


def peers(folder):
    """The folder of the peers' programs."""
    programs = folder / "venv/bin"
    if not (programs / "pip").exists():
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    # Standard output is for the table.
    subprocess.run([programs / "pip", "install", "--quiet", *PEERS], check=True, stdout=sys.stderr)
    return programs


def measure(graph, folder, cmx, programs, repeat):
    tools = {
        "cmx": Cmx(graph, folder / "cmx", cmx),
        "ninja 1.13": Ninja(graph, folder / "ninja", programs / "ninja"),
        "DVC 3.67": Dvc(graph, folder / "dvc", programs / "dvc"),
        "Snakemake 9.27": Snakemake(graph, folder / "snakemake", programs / "snakemake"),
    }
    for name, tool in tools.items():
        tool.run()
        if tool.steps() != len(graph.stages):
            sys.exit(f"{name} ran {tool.steps()} steps of {len(graph.stages)} in {tool.folder}")
        tool.run()  # warms what a second run may still have to write down
    found = {name: [] for name in tools}
    for _ in range(repeat):
        for name, tool in tools.items():
            found[name].append(tool.run())
    for name, tool in tools.items():
        if tool.steps() != len(graph.stages):
            sys.exit(f"{name} ran steps again in {tool.folder}")
    return {name: (statistics.median(s for s, _ in runs), max(m for _, m in runs)) for name, runs in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cmx", type=pathlib.Path, nargs="?", default=pathlib.Path("target/release/cmx"))
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("target/noop"), help="where to work")
    parser.add_argument("--repeat", type=int, default=10)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    programs = peers(folder)
    results = {}
    for graph in graphs():
        place = folder / graph.name.replace(" ", "-").replace(",", "")
        results[graph.name] = measure(graph, place, arguments.cmx.resolve(), programs, arguments.repeat)
    print(f"| nothing to do (median of {arguments.repeat}) | " + " | ".join(results) + " | peak memory |")
    print("| :-- |" + " --: |" * (len(results) + 1))
    for tool in next(iter(results.values())):
        times = " | ".join(f"{1000 * result[tool][0]:.1f} ms" for result in results.values())
        print(f"| {tool} | {times} | {max(result[tool][1] for result in results.values()):.0f} MiB |")


if __name__ == "__main__":
    main()
