#!/usr/bin/env python3
"""Trains one adapter for 50 steps twice, with cmx's `train` stage and with PEFT and torch's AdamW on the same batches, and compares
the loss and the gradient's norm of every step, and the adapters in the end.

    cargo build --release --bin cmx --example gradients
    python tests/parity/peft_training.py target/release/cmx target/release/examples/gradients [--seed SEED]

Both start from an adapter that PEFT wrote, so this is also the test that an adapter of PEFT is trained further here, and that PEFT
opens what comes of it. Needs torch, transformers 4.46.3, peft 0.13.2, datasets. Exits with 1 if a loss differs by more than 1e-4.
"""

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import datasets
import torch
import torch.nn.functional as F
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import MixtralConfig, MixtralForCausalLM, get_cosine_schedule_with_warmup
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

datasets.disable_progress_bars()
transformers.logging.set_verbosity_error()
torch.set_num_threads(1)  # the models are small

STEPS, BATCH, ACCUMULATION, LENGTH, VOCABULARY, SEED = 50, 2, 2, 32, 100, 42
RATE, WARMUP, DECAY, CLIP = 5e-3, 0.1, 0.01, 1.0

SHAPES = [
    # name, raw names in the adapter's file, coefficients of router_aux_loss, router_z_loss and z_loss
    ("plain", False, (0.0, 0.0, 0.0)),
    ("all losses", True, (0.02, 1e-3, 1e-4)),
]


def write_inputs(folder, seed, raw):
    """A model, an adapter and token blocks that can be learnt: a few walks over the vocabulary, with noise."""
    torch.manual_seed(seed)
    config = MixtralConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=128,
        rope_theta=1e4, sliding_window=None, tie_word_embeddings=False, initializer_range=0.05,
        bos_token_id=1, eos_token_id=2, pad_token_id=None)
    model = MixtralForCausalLM(config)
    model.save_pretrained(folder / "model")
    adapter = get_peft_model(model, LoraConfig(
        r=8, lora_alpha=16, lora_dropout=0.0, task_type="CAUSAL_LM",
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "w1", "w2", "w3"],
        modules_to_save=["embed_tokens", "lm_head"]))
    with torch.no_grad():
        for name, weight in adapter.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.02)
    for name in ["adapter", "plain-adapter"]:
        adapter.save_pretrained(folder / name, save_embedding_layers=False)
    if raw:
        # Names as in the model's own state, which some trainers save.
        path = folder / "adapter/adapter_model.safetensors"
        tensors = {}
        for name, value in load_file(path).items():
            stem = name.removesuffix(".weight")
            whole = ".lora_" not in name
            tensors[f"{stem}.modules_to_save.default.weight" if whole else f"{stem}.default.weight"] = value
        save_file(tensors, path)
    blocks = []
    for number in range(STEPS * BATCH * ACCUMULATION):
        start, stride = torch.randint(0, VOCABULARY, (1,)), 1 + number % 5
        walk = (start + stride * torch.arange(LENGTH)) % VOCABULARY
        noise = torch.rand(LENGTH) < 0.1
        blocks.append(torch.where(noise, torch.randint(0, VOCABULARY, (LENGTH,)), walk).tolist())
    for split, rows in [("train", blocks), ("dev", blocks[:3])]:
        datasets.Dataset.from_dict({"input_ids": rows}).save_to_disk(folder / f"toy/encoded-toy-{split}")
    return blocks


def train_ours(cmx, folder, coefficients):
    """The records of the training steps."""
    (folder / "datasets.toml").write_text('[toy]\nsplits = ["train", "dev"]\nroot = "toy"\n')
    names = ("router_aux_loss", "router_z_loss", "z_loss")
    losses = "\n".join(f"{name} = {value}" for name, value in zip(names, coefficients))
    (folder / "p.toml").write_text(f"""
name = "p"
[stage.train]
model = "model"
adapter = "adapter"
mix = ["1:toy"]
batch_size = {BATCH}
gradient_accumulation_steps = {ACCUMULATION}
learning_rate = {RATE}
warmup_ratio = {WARMUP}
weight_decay = {DECAY}
max_grad_norm = {CLIP}
seed = {SEED}
{losses}
""")
    done = subprocess.run([Path(cmx).resolve(), "run", "p.toml"], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    lines = (folder / "outputs/train/metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if "loss" in record]


def train_theirs(folder, blocks, order, coefficients):
    """The records of the same steps, and the trained model."""
    model = MixtralForCausalLM.from_pretrained(folder / "model", attn_implementation="sdpa")
    model = PeftModel.from_pretrained(model, folder / "plain-adapter", is_trainable=True).train()
    balance, router_z, output_z = coefficients
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=DECAY)
    schedule = get_cosine_schedule_with_warmup(optimiser, math.ceil(WARMUP * STEPS), STEPS)
    records = []
    for step in range(STEPS):
        optimiser.zero_grad()
        record = dict(loss=0.0, router_aux_loss=0.0, router_z_loss=0.0, z_loss=0.0, learning_rate=schedule.get_last_lr()[0])
        for micro in range(ACCUMULATION):
            first = (step * ACCUMULATION + micro) * BATCH
            ids = torch.tensor([blocks[row] for row in order[first:first + BATCH]])
            output = model(input_ids=ids, output_router_logits=True, use_cache=False)
            logits = output.logits[:, :-1].flatten(0, 1)
            losses = dict(
                loss=F.cross_entropy(logits, ids[:, 1:].flatten()),
                router_aux_loss=load_balancing_loss_func(output.router_logits, 4, 2),
                router_z_loss=torch.cat(output.router_logits).logsumexp(-1).square().mean(),
                z_loss=logits.logsumexp(-1).square().mean())
            weights = dict(loss=1.0, router_aux_loss=balance, router_z_loss=router_z, z_loss=output_z)
            (sum(weights[name] * losses[name] for name in losses) / ACCUMULATION).backward()
            for name in losses:
                record[name] += losses[name].item() / ACCUMULATION
        record["gradient_norm"] = torch.nn.utils.clip_grad_norm_(trained, CLIP).item()
        optimiser.step()
        schedule.step()
        records.append(record)
    return records, model


def spread(model):
    """An adapter's tensors by the names in its file."""
    names = {}
    for name, weight in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            names[name.replace(".default", "").replace(".modules_to_save", "")] = weight.detach()
    return names


parser = argparse.ArgumentParser()
parser.add_argument("cmx")
parser.add_argument("program", help="examples/gradients")
parser.add_argument("--seed", type=int, default=random.randrange(2**32))
arguments = parser.parse_args()
print(f"--seed {arguments.seed}")
failed = False
for name, raw, coefficients in SHAPES:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        blocks = write_inputs(folder, arguments.seed, raw)
        printed = subprocess.run(
            [arguments.program, "--order", str(len(blocks)), str(SEED), folder / "toy/encoded-toy-train"],
            check=True, capture_output=True, text=True).stdout
        order = [int(row) for row in printed.split()]
        assert sorted(order) == list(range(len(blocks))) and order != sorted(order)
        ours = train_ours(arguments.cmx, folder, coefficients)
        theirs, model = train_theirs(folder, blocks, order, coefficients)
        assert len(ours) == len(theirs) == STEPS
        compared = ["loss", "learning_rate", "gradient_norm"]
        compared += [n for n, c in zip(("router_aux_loss", "router_z_loss", "z_loss"), coefficients) if c]
        worst = {n: max(abs(a[n] - b[n]) / max(abs(b[n]), 1e-12) for a, b in zip(ours, theirs)) for n in compared}
        absolute = max(abs(a["loss"] - b["loss"]) for a, b in zip(ours, theirs))
        # What came out opens in PEFT, under the same names.
        base = MixtralForCausalLM.from_pretrained(folder / "model")
        opened = spread(PeftModel.from_pretrained(base, folder / "outputs/train"))
        reference = spread(model)
        assert opened.keys() == reference.keys()
        drift = max(((opened[n] - reference[n]).norm() / reference[n].norm()).item() for n in reference)
        fell = theirs[0]["loss"] - theirs[-1]["loss"]
        good = absolute <= 1e-4 and fell > 0.5
        failed |= not good
        print(f"{name}: {STEPS} steps, loss {theirs[0]['loss']:.4f} -> {theirs[-1]['loss']:.4f}, largest difference {absolute:.1e}"
              f"{'' if good else '  TOO FAR, or nothing was learnt'}\n    relative: "
              + ", ".join(f"{n} {value:.1e}" for n, value in worst.items())
              + f"; the farthest tensor of the adapter {drift:.1e}", flush=True)
sys.exit(failed)
