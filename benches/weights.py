#!/usr/bin/env python3
"""Merging an adapter and expanding a vocabulary beside PEFT and the published script: seconds and peak memory.

    .venv-parity/bin/python benches/weights.py [--cmx target/release/cmx] [--folder target/weights] [--repeats 3]
                                               [merge] [expand]

Needs torch, transformers 4.46.3, peft 0.13.2 and room for three times the model under `--folder`, which is emptied at
the end. Every program runs as a process of its own, in turns; a figure is the median of the repeats.

- `merge`: a bfloat16 model of Mixtral's own widths (4096, 14336; 2 layers of 6 experts, a vocabulary of 40,000: 5.0 GB in
  two files) and an adapter of rank 64 with embedding and output, in bfloat16. PEFT: `from_pretrained`,
  `merge_and_unload`, `save_pretrained`. Both write the same bits.
- `expand`: a bfloat16 checkpoint of 20 GB in five files, of which the first holds embedding and output; the vocabulary
  grows from 32,000 to 57,000. The published script's way: every tensor of every file into memory, both matrices made
  anew row by row, `torch.save` of all. Both run on a checkpoint as large as the script's memory and its output's disk
  allow (`--expand-peer-gb`), cmx on that of 20 GB as well.

cmx is timed twice: `cmx run` from a cold store, which reads and hashes the inputs, runs the stage, hashes the output and
waits until it is on the disk; and the stage alone, as the run's record has it.
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

def measured(command, cwd=None):
    """Runs a process; its seconds and the peak resident memory, in GB, of it or the largest that it started."""
    start = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        sys.exit(f"{command}: {output.decode(errors='replace')}")
    return {"seconds": seconds, "cpu": usage.ru_utime + usage.ru_stime, "memory": usage.ru_maxrss / 1e6}


def cmx(options, workspace, stage):
    """A run from a cold store; also the seconds of the stage alone."""
    shutil.rmtree(workspace / "cache", ignore_errors=True)
    shutil.rmtree(workspace / "outputs", ignore_errors=True)
    found = measured([options.cmx.resolve(), "run", "pipeline.toml", "--log-format", "json"], cwd=workspace)
    record = next((workspace / "cache" / "receipts").glob("*"))
    found["receipt"] = json.loads(record.read_text())
    return found


def report(name, runs):
    middle = {key: statistics.median(run[key] for run in runs) for key in ["seconds", "cpu", "memory"]}
    spread = f"{min(run['seconds'] for run in runs):.1f}–{max(run['seconds'] for run in runs):.1f}"
    print(f"  {name:24} {middle['seconds']:7.1f} s ({spread}), {middle['cpu']:7.1f} s of processors, "
          f"{middle['memory']:6.2f} GB", flush=True)
    return middle


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
    for _ in range(options.repeats):
        ours.append(cmx(options, folder, "merge"))
        shutil.rmtree(folder / "cache")
        output = folder / "theirs"
        theirs.append(measured([sys.executable, __file__, "--peer", "merge", folder / "base", folder / "adapter", output]))
        shutil.rmtree(output)
    ours, theirs = report("cmx run", ours), report("PEFT", theirs)
    print(f"  {theirs['seconds'] / ours['seconds']:.1f} times as fast, "
          f"{ours['memory'] / theirs['memory']:.3f} of the memory")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cmx", type=pathlib.Path, default=pathlib.Path("target/release/cmx"))
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("target/weights"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer", nargs=4)
    parser.add_argument("what", nargs="*", default=["merge"])
    options = parser.parse_args()
    if options.peer:
        name, *arguments = options.peer
        globals()[f"peer_{name}"](*arguments)
        return
    shutil.rmtree(options.folder, ignore_errors=True)
    try:
        for what in options.what:
            globals()[what](options)
    finally:
        shutil.rmtree(options.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
