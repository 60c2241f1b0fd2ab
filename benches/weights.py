#!/usr/bin/env python3
"""Merging an adapter and expanding a vocabulary beside PEFT and the published script: seconds and peak memory.

    .venv-parity/bin/python benches/weights.py [--cmx target/release/cmx] [--data ../shared/data]
                                               [--folder target/weights] [--repeats 3] [--peer-gb 10] [merge] [expand]

Needs torch, transformers 4.46.3, peft 0.13.2, sentencepiece and room for 25 GB under `--folder`, which is emptied at the
end. Every program runs as a process of its own, in turns; a figure is the median of the repeats. Before each, the inputs
are put out of the page cache. Memory is the peak over all processes of a program: resident in all, and the part of it
that is not a mapped file, which the kernel can take back whenever it wants.

- `merge`: a bfloat16 model of Mixtral's own widths (4096, 14336; 2 layers of 6 experts, a vocabulary of 40,000: 5.0 GB in
  two files) and an adapter of rank 64 with embedding and output, in bfloat16. PEFT: `from_pretrained`,
  `merge_and_unload`, `save_pretrained`. Both write the same bits.
- `expand`: a bfloat16 checkpoint in 19 files as Mixtral-8x7B-v0.1 comes in 19 (its layers cut smaller), embedding in the
  first and output in the last; the vocabulary grows from 32,000 to 55,296 (tokenizers of `--data`). The published script's way: every tensor of
  every file into memory, both matrices made anew row by row, `torch.save` of all. Both run on a checkpoint that leaves
  the script room in memory (`--peer-gb`), and cmx on one of 20 GB as well. The checkpoint is an artifact of a stage
  before, as when it was downloaded.

cmx's time is that of `cmx run`: for `merge` from a cold store, so that the inputs are read and hashed as well; the stage,
the hashing of what it wrote, and the wait until it is on the disk. The peers do not wait for the disk.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import threading
import time

WIDTH, INNER = 4096, 14336


# --- The peers: each runs in a process of its own ---

def peer_merge(base, adapter, output):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(base, torch_dtype=torch.bfloat16)
    model = PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False)
    model.merge_and_unload().save_pretrained(output)


def peer_expand(base, rows, output):
    """The published script, with the ids that it averages over given to it."""
    import torch
    from safetensors import safe_open
    state = {}
    for shard in sorted(pathlib.Path(base).glob("*.safetensors")):
        with safe_open(shard, framework="pt", device="cpu") as file:
            for name in file.keys():
                state[name] = file.get_tensor(name)
    ids = json.loads(pathlib.Path(rows).read_text())
    for name in ["model.embed_tokens.weight", "lm_head.weight"]:
        old = state[name]
        new = torch.zeros((len(old) + len(ids), old.shape[1]), dtype=old.dtype)
        new[:len(old)] = old.clone()
        for at, spelled in enumerate(ids, len(old)):
            new[at] = sum([old[token] for token in spelled]) / len(spelled)
        state[name] = new
    torch.save(state, pathlib.Path(output) / "pytorch_model.bin")


# --- What they work on ---

def header(tensors):
    """The beginning of a safetensors file of bfloat16 tensors (name → shape), and the bytes that follow it."""
    fields, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in sorted(tensors.items()):
        end = offset + 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        fields[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, offset


def numbers():
    """64 MB of normal bfloat16 numbers, N(0, 0.02²)."""
    import torch
    torch.manual_seed(0)
    return (torch.randn(32 << 20) * 0.02).to(torch.bfloat16).view(torch.uint8).numpy().tobytes()


def write_shard(path, tensors, block):
    start, size = header(tensors)
    with open(path, "wb") as file:
        file.write(start)
        while size > 0:
            size -= file.write(block[:size])


def write_model(folder, shards, vocabulary, layers, experts):
    """`shards`: name → shape of each file."""
    folder.mkdir(parents=True)
    block = numbers()
    names = {}
    for number, tensors in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_shard(folder / name, tensors, block)
        names |= dict.fromkeys(tensors, name)
    total = sum(2 * shape[0] * (shape[1] if len(shape) > 1 else 1) for tensors in shards for shape in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(names.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["MixtralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
        "hidden_size": WIDTH, "initializer_range": 0.02, "intermediate_size": INNER, "max_position_embeddings": 32768,
        "model_type": "mixtral", "num_attention_heads": 32, "num_experts_per_tok": 2, "num_hidden_layers": layers,
        "num_key_value_heads": 8, "num_local_experts": experts, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": vocabulary,
    }))
    return total


def layer(number, experts):
    name = f"model.layers.{number}"
    shapes = {f"{name}.{norm}.weight": (WIDTH,) for norm in ["input_layernorm", "post_attention_layernorm"]}
    for part, rows in [("q", WIDTH), ("k", WIDTH // 4), ("v", WIDTH // 4), ("o", WIDTH)]:
        shapes[f"{name}.self_attn.{part}_proj.weight"] = (rows, WIDTH)
    shapes[f"{name}.block_sparse_moe.gate.weight"] = (experts, WIDTH)
    for expert in range(experts):
        for part, shape in [("w1", (INNER, WIDTH)), ("w2", (WIDTH, INNER)), ("w3", (INNER, WIDTH))]:
            shapes[f"{name}.block_sparse_moe.experts.{expert}.{part}.weight"] = shape
    return shapes


def ends(vocabulary):
    return {
        "model.embed_tokens.weight": (vocabulary, WIDTH), "lm_head.weight": (vocabulary, WIDTH),
        "model.norm.weight": (WIDTH,),
    }


def write_adapter(folder, shards, vocabulary, rank=64):
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "w1", "w2", "w3"]
    tensors = {}
    for name, shape in ((name, shape) for shard in shards for name, shape in shard.items()):
        module = "base_model.model." + name.removesuffix(".weight")
        if module.rsplit(".", 1)[1] in targets:
            tensors[f"{module}.lora_A.weight"] = (rank, shape[1])
            tensors[f"{module}.lora_B.weight"] = (shape[0], rank)
    for name in ["model.embed_tokens.weight", "lm_head.weight"]:
        tensors[f"base_model.model.{name}"] = (vocabulary, WIDTH)
    folder.mkdir(parents=True)
    write_shard(folder / "adapter_model.safetensors", tensors, numbers())
    (folder / "adapter_config.json").write_text(json.dumps({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": None, "r": rank,
        "lora_alpha": 2 * rank, "lora_dropout": 0.05, "target_modules": targets, "bias": "none",
        "modules_to_save": ["embed_tokens", "lm_head"], "fan_in_fan_out": False, "inference_mode": True,
    }))


# --- The measuring ---

def family(process):
    """A process and all below it."""
    found, at = [process], 0
    while at < len(found):
        try:
            for task in pathlib.Path(f"/proc/{found[at]}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            pass
        at += 1
    return found


def resident(process):
    """GB of memory that a process has: in all, without mapped files, and the most that it ever had."""
    fields = {}
    try:
        for line in pathlib.Path(f"/proc/{process}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.startswith(("Rss", "VmRSS", "VmHWM")):
                fields[name] = int(value.split()[0]) * 1024 / 1e9
    except OSError:
        pass
    return fields.get("VmRSS", 0), fields.get("RssAnon", 0) + fields.get("RssShmem", 0), fields.get("VmHWM", 0)


def measured(command, cwd=None):
    """Runs a program: its seconds, those of its processors, and its peak memory in GB, looked at every 20 ms: of all its
    processes together, or what the kernel says of one if that is more. (What `wait4` says holds the memory of this
    process as well, from which the other was forked.)"""
    start = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    peaks, ended = {"memory": 0, "anonymous": 0}, threading.Event()

    def watch():
        while not ended.wait(0.02):
            if found := [resident(one) for one in family(process.pid)]:
                in_all, anonymous, most = zip(*found)
                peaks["memory"] = max(peaks["memory"], sum(in_all), *most)
                peaks["anonymous"] = max(peaks["anonymous"], sum(anonymous))

    watcher = threading.Thread(target=watch)
    watcher.start()
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    ended.set()
    watcher.join()
    if status:
        sys.exit(f"{command}: {output.decode(errors='replace')}")
    return {"seconds": seconds, "cpu": usage.ru_utime + usage.ru_stime} | peaks


def forget(folder):
    """Puts files out of the page cache."""
    os.sync()
    for path in pathlib.Path(folder).rglob("*.safetensors"):
        with open(path) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def report(name, runs):
    middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    spread = f"{min(run['seconds'] for run in runs):.1f}–{max(run['seconds'] for run in runs):.1f}"
    print(f"  {name:16} {middle['seconds']:7.1f} s ({spread}), {middle['cpu']:6.1f} s of processors, "
          f"{middle['memory']:6.2f} GB, {middle['anonymous']:6.2f} without files", flush=True)
    return middle


def against(ours, theirs):
    print(f"  {theirs['seconds'] / ours['seconds']:.1f} times as fast, {ours['memory'] / theirs['memory']:.3f} of the "
          f"memory, {ours['anonymous'] / theirs['anonymous']:.3f} without files", flush=True)


def peer(name, *arguments):
    return measured([sys.executable, __file__, "--peer", name, *arguments])


def merge(options):
    vocabulary, experts = 40_000, 6
    folder = options.folder / "merge"
    shards = [layer(0, experts) | {"model.embed_tokens.weight": (vocabulary, WIDTH)},
              layer(1, experts) | {name: shape for name, shape in ends(vocabulary).items() if "embed" not in name}]
    size = write_model(folder / "base", shards, vocabulary, 2, experts)
    write_adapter(folder / "adapter", shards, vocabulary)
    (folder / "pipeline.toml").write_text('name = "bench"\n[stage.merge]\nmodel = "base"\nadapter = "adapter"\n')
    print(f"merge, {size / 1e9:.1f} GB")
    ours, theirs = [], []
    for number in range(options.repeats):
        forget(folder)
        ours.append(measured([options.cmx.resolve(), "run", "pipeline.toml"], cwd=folder))
        forget(folder)
        output = folder / "theirs"
        theirs.append(peer("merge", folder / "base", folder / "adapter", output))
        if number == 0:
            same_bits(folder / "outputs" / "merge", output)
        for made in ["cache", "outputs", "theirs"]:
            shutil.rmtree(folder / made)
    against(report("cmx run", ours), report("PEFT", theirs))


def same_bits(ours, theirs):
    """Both folders hold the same tensors."""
    from safetensors import safe_open
    import torch
    ours, theirs = ({name: file for path in sorted(folder.glob("*.safetensors"))
                     for file in [safe_open(path, framework="pt")] for name in file.keys()} for folder in (ours, theirs))
    assert ours.keys() == theirs.keys()
    for name in ours:
        mine, other = ours[name].get_tensor(name), theirs[name].get_tensor(name)
        assert mine.dtype == other.dtype and torch.equal(mine.view(torch.int16), other.view(torch.int16)), name
    print(f"  the same bits in all {len(ours)} tensors", flush=True)


def expand(options):
    for gigabytes in [options.peer_gb, 20]:
        expand_one(options, gigabytes, gigabytes == options.peer_gb)
        shutil.rmtree(options.folder / "expand")


FILES = 19


def make_base(gigabytes, tokenizer, output):
    """A checkpoint of about that size in 19 files, one layer each, and its tokenizer. Runs as a stage."""
    output, vocabulary = pathlib.Path(output), 32_000
    each = (float(gigabytes) * 1e9 - 4 * vocabulary * WIDTH) / FILES
    experts = max(1, round((each - 2 * 2.5 * WIDTH * WIDTH) / (2 * 3 * WIDTH * INNER)))
    shards = [layer(number, experts) for number in range(FILES)]
    last = ends(vocabulary)
    shards[0]["model.embed_tokens.weight"] = last.pop("model.embed_tokens.weight")
    shards[-1] |= last
    output.rmdir()
    write_model(output, shards, vocabulary, FILES, experts)
    shutil.copy(tokenizer, output / "tokenizer.model")


def expand_one(options, gigabytes, with_peer):
    folder, tokenizers = options.folder / "expand", options.data.resolve() / "tokenizers"
    old, new = tokenizers / "llama-32000.model", tokenizers / "ymcui-chinese-llama2-55296.model"
    (folder / "larger").mkdir(parents=True)
    shutil.copy(new, folder / "larger" / "tokenizer.model")
    (folder / "datasets.toml").touch()
    command = json.dumps([sys.executable, str(pathlib.Path(__file__).resolve()), "--peer", "base", str(gigabytes), str(old),
                          "{output}"])
    (folder / "pipeline.toml").write_text(
        f'name = "bench"\n[stage.base]\nuse = "command"\ncommand = {command}\n'
        '[stage.expand]\nmodel = "@base"\ntokenizer = "larger"\nrecipe = "as-published"\n')
    subprocess.run([options.cmx.resolve(), "run", "pipeline.toml", "--only", "base"], cwd=folder, check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    base = folder / "outputs" / "base"
    size = sum(path.stat().st_size for path in base.iterdir())
    print(f"expand, {size / 1e9:.1f} GB in {FILES} files")
    ours, theirs = [], []
    for number in range(options.repeats):
        forget(base)
        ours.append(measured([options.cmx.resolve(), "run", "pipeline.toml"], cwd=folder))
        if with_peer:
            output = folder / "theirs"
            output.mkdir()
            (folder / "rows.json").write_text(json.dumps(spelled(old, new)))
            forget(base)
            theirs.append(peer("expand", base, folder / "rows.json", output))
            if number == 0:
                same_rows(folder / "outputs" / "expand", output / "pytorch_model.bin")
            shutil.rmtree(output)
        take_back(folder, "expand")
        # The base's files have lost a link: they are read again here, not in the next run.
        subprocess.run([options.cmx.resolve(), "status", "pipeline.toml"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    ours = report("cmx run", ours)
    if with_peer:
        against(ours, report("as published", theirs))


def spelled(old, new):
    """What the published script averages over for each new token."""
    import sentencepiece
    old, new = (sentencepiece.SentencePieceProcessor(model_file=str(path)) for path in (old, new))
    return [[old.bos_id(), *old.encode(new.decode([token]))] for token in range(old.vocab_size(), new.vocab_size())]


def same_rows(ours, theirs):
    """Both have the same embedding and output."""
    from safetensors import safe_open
    import torch
    theirs = torch.load(theirs, mmap=True)
    index = json.loads((ours / "model.safetensors.index.json").read_text())["weight_map"]
    for name in ["model.embed_tokens.weight", "lm_head.weight"]:
        with safe_open(ours / index[name], framework="pt") as file:
            assert torch.equal(file.get_tensor(name).view(torch.int16), theirs[name].view(torch.int16)), name
    print("  the same bits in embedding and output", flush=True)


def take_back(folder, stage):
    """As if a stage had not run."""
    for path in (folder / "cache" / "receipts").iterdir():
        receipt = json.loads(path.read_text())
        if receipt["stage"] == stage:
            shutil.rmtree(folder / "cache" / "artifacts" / receipt["artifact"])
            path.unlink()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cmx", type=pathlib.Path, default=pathlib.Path("target/release/cmx"))
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("target/weights"))
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("../shared/data"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-gb", type=float, default=10, help="of the checkpoint that the published script expands")
    parser.add_argument("--peer", nargs=4, metavar="ARGUMENT", help=argparse.SUPPRESS)
    parser.add_argument("what", nargs="*", default=["merge", "expand"])
    options = parser.parse_args()
    if options.peer:
        name, *arguments = options.peer
        {"base": make_base, "expand": peer_expand, "merge": peer_merge}[name](*arguments)
        return
    shutil.rmtree(options.folder, ignore_errors=True)
    try:
        for what in options.what:
            globals()[what](options)
    finally:
        shutil.rmtree(options.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
