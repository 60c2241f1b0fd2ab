#!/usr/bin/env python3
"""Holds logits, losses and every gradient of the trainer against transformers' and PEFT's, on fresh random
configurations, weights and inputs.

    cargo build --release --example gradients
    python tests/parity/gradients.py target/release/examples/gradients [--cases N] [--seed SEED] [--keep FOLDER]

Works with transformers 4.46.3 and peft 0.13.2 (experts as separate matrices, adapters, packed weights with bitsandbytes),
and with transformers 5 (experts stacked, heads of any width; no adapters). What is compared with is the same model in float64 (but for
norms, rotations and the router's softmax, which transformers computes in float32 always). Exits with 1 if logits differ by more
than 1e-4 of the largest, or a loss or gradient by more than 1e-3; or, in a random model in which transformers' own float32 is off
by as much, by more than three times what that is off.
"""

import argparse
import copy
import json
import math
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from transformers import MixtralConfig, MixtralForCausalLM
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

V5 = transformers.__version__.startswith("5")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
torch.set_num_threads(1)  # the models are small

LOGITS, GRADIENTS = 1e-4, 1e-3
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate", "w1", "w2", "w3"]


def relative(ours, theirs, least=1e-30):
    """The largest difference by the largest value, or by `least` if that is more; 0 where there is no difference."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    difference = (ours.double() - theirs.double()).abs().max().item()
    return difference / max(theirs.abs().max().item(), least) if difference > 0 else 0.0


def draw(rng, number):
    """A case: the configuration of a model, and what to do with it. The first ones make sure of the corners."""
    kv_heads = rng.choice([1, 1, 2, 3])
    heads = kv_heads * rng.choice([1, 2, 3, 4])
    head = rng.choice([2, 4, 6, 8, 16])
    packed = not V5 and number % 6 == 3
    if packed:  # rows of whole blocks: other ones bitsandbytes' kernel for AVX-512 gives wrong scales
        heads, kv_heads, head = rng.choice([(4, 2, 16), (8, 2, 8), (8, 8, 16)])
    experts = rng.choice([1, 2, 3, 4, 5, 8])
    length = rng.choice([1, 2, 3, 7, 20, 33, 64, 65, 100, 130])
    length = {0: 1, 1: 150}.get(number, length)
    window = rng.choice([None, None, 1, 2, 5, 16, 40])
    window = {1: 70, 2: 3}.get(number, window)
    config = dict(
        vocab_size=rng.choice([17, 40, 101, 300]), hidden_size=heads * head,
        intermediate_size=64 * rng.choice([1, 2]) if packed else rng.choice([5, 24, 33, 64]),
        num_hidden_layers=rng.randint(1, 4), num_attention_heads=heads, num_key_value_heads=kv_heads,
        num_local_experts=experts, num_experts_per_tok=rng.randint(1, min(experts, 3)),
        max_position_embeddings=512, rms_norm_eps=rng.choice([1e-6, 1e-5, 1e-3]), sliding_window=window,
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )
    theta = rng.choice([1e3, 1e4, 1e6])
    if V5:
        config["rope_parameters"] = dict(rope_theta=theta, rope_type="default")
        config["head_dim"] = rng.choice([2, 4, 10, 16])
        # Their default takes rows of whole 16 bytes only.
        whole = config["hidden_size"] % 4 == 0 and config["intermediate_size"] % 4 == 0
        config["experts_implementation"] = rng.choice(["eager", "grouped_mm"]) if whole else "eager"
    else:
        config["rope_theta"] = theta
    adapter = None
    if packed or (not V5 and number % 2 == 1):
        targets = rng.sample(MODULES, rng.randint(1, len(MODULES)))
        adapter = dict(r=rng.choice([1, 3, 8]), lora_alpha=rng.choice([1, 8, 20]), use_rslora=rng.random() < 0.3,
                       target_modules=targets,
                       modules_to_save=rng.choice([None, ["embed_tokens", "lm_head"], ["lm_head", "norm"]]),
                       rank_pattern={targets[0]: 5} if rng.random() < 0.3 else {})
    return dict(
        config=config, adapter=adapter, packed=packed, attention=rng.choice(["eager", "sdpa"]),
        sequences=rng.choice([1, 2, 3]), length=length, documents=length > 2 and rng.random() < 0.4,
        masked=rng.choice([0.0, 0.0, 0.3]), std=rng.choice([0.1, 0.3]),
        z_loss=rng.choice([0.0, 1e-2, 0.3]), router_aux_loss=rng.choice([0.0, 2e-2, 1.0]),
        router_z_loss=rng.choice([0.0, 1e-3, 0.3]),
    )


def pack(model):
    """Every linear layer but the output becomes what bitsandbytes' NF4 leaves of it."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            packed, state = quantize_4bit(module.weight.data, blocksize=64, quant_type="nf4")
            module.weight.data = dequantize_4bit(packed, state)


def batch(case):
    """ids, labels (the token after each position, or -100), and the first position of each position's document."""
    shape = (case["sequences"], case["length"])
    vocabulary = case["config"]["vocab_size"]
    ids = torch.randint(0, vocabulary, shape)
    labels = torch.cat([ids[:, 1:], torch.full((shape[0], 1), -100)], 1)
    if case["length"] == 1 or case["masked"]:
        labels = torch.randint(0, vocabulary, shape)
        labels[torch.rand(shape) < case["masked"]] = -100
        labels[0, 0] = 1
    documents = torch.zeros(shape, dtype=torch.int64)
    if case["documents"]:
        starts = torch.rand(shape) < 0.1
        starts[:, 0], starts[0, 1] = True, True
        positions = torch.arange(shape[1]).expand(shape)
        documents = torch.where(starts, positions, 0).cummax(1).values
    return ids, labels, documents


def theirs(model, case, ids, labels, documents):
    """Logits with each sequence as one document, losses, and gradients by the names of transformers 4."""
    config = case["config"]
    experts, top = config["num_local_experts"], config["num_experts_per_tok"]
    arguments = {}
    if case["documents"]:
        at = torch.arange(case["length"])
        query, key = at[:, None], at[None, :]
        seen = (key <= query) & (key >= documents[:, :, None])
        if config["sliding_window"] is not None:
            seen &= key > query - config["sliding_window"]
        mask = torch.zeros(seen.shape, dtype=model.dtype).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]
        arguments = dict(attention_mask=mask, position_ids=at - documents)
    inner = model.get_base_model() if case["adapter"] else model
    output = inner.model(ids, output_router_logits=True, use_cache=False, **arguments)
    logits = inner.lm_head(output.last_hidden_state)
    router = torch.cat(list(output.router_logits), 0)
    counted = labels.flatten() != -100
    losses = dict(
        loss=F.cross_entropy(logits.flatten(0, 1), labels.flatten()),
        z_loss=logits.flatten(0, 1)[counted].logsumexp(-1).square().mean(),
        router_aux_loss=load_balancing_loss_func(output.router_logits, experts, top),
        router_z_loss=router.logsumexp(-1).square().mean(),
    )
    plain = not case["documents"] and not case["masked"] and case["length"] > 1
    if plain:
        # Their own loss, as the Trainer takes it.
        inner.router_aux_loss_coef = case["router_aux_loss"]
        whole = inner(input_ids=ids, labels=ids, output_router_logits=True, use_cache=False)
        total = losses["loss"] + case["router_aux_loss"] * losses["router_aux_loss"]
        assert abs((whole.loss - total).item()) <= 1e-5 * abs(total.item()), (whole.loss, total)
    objective = losses["loss"] + sum(case[name] * losses[name] for name in losses if name != "loss")
    model.zero_grad()
    objective.backward()
    if case["documents"]:
        with torch.no_grad():
            logits = inner(input_ids=ids, use_cache=False).logits
    gradients = {}
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            assert weight.grad is None
            continue
        gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
        name = name.removeprefix("base_model.model.").replace(".default", "").replace(".modules_to_save", "")
        name = name.replace(".mlp.gate.", ".block_sparse_moe.gate.")
        if name.endswith("mlp.experts.gate_up_proj"):
            for expert, both in enumerate(gradient):
                for part, half in zip(("w1", "w3"), both.chunk(2)):
                    gradients[name.replace("mlp.experts.gate_up_proj", f"block_sparse_moe.experts.{expert}.{part}.weight")] = half
        elif name.endswith("mlp.experts.down_proj"):
            for expert, down in enumerate(gradient):
                gradients[name.replace("mlp.experts.down_proj", f"block_sparse_moe.experts.{expert}.w2.weight")] = down
        else:
            gradients[name] = gradient
    # How near a token comes to another choice of experts: there, a rounding decides, and nothing can be compared.
    best = router.softmax(-1).sort(-1, descending=True).values
    margin = (best[:, top - 1] - best[:, top]).min().item() if top < experts else 1.0
    return logits.detach(), {name: value.item() for name, value in losses.items()}, gradients, margin


def compare(program, folder, case):
    """How far ours, and theirs in float32, are from theirs in float64; `None` if rounding would choose the experts."""
    torch.manual_seed(case["seed"])
    config = MixtralConfig(**case["config"], attn_implementation=case["attention"])
    model = MixtralForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(1 + torch.randn_like(weight) / 4 if "norm" in name else torch.randn_like(weight) * case["std"])
    model.train()
    model.save_pretrained(folder)
    if case["packed"]:
        pack(model)
    if case["adapter"]:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, init_lora_weights=False, **case["adapter"]))
        model.save_pretrained(folder / "adapter", save_embedding_layers=False)
    for _ in range(20):
        ids, labels, documents = batch(case)
        logits, losses, gradients, margin = theirs(model, case, ids, labels, documents)
        if margin > 1e-5:
            break
    else:
        return None
    double = copy.deepcopy(model).double()
    if V5:
        double.set_experts_implementation("eager")
    exact = theirs(double, case, ids, labels, documents)[:3]
    tensors = dict(ids=ids, labels=labels)
    if case["documents"]:
        tensors["documents"] = documents
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "batch.safetensors")

    results = []
    for checkpointing in [False, True]:
        request = {name: case[name] for name in ["packed", "z_loss", "router_aux_loss", "router_z_loss"]}
        (folder / "request.json").write_text(json.dumps(request | dict(gradient_checkpointing=checkpointing)))
        subprocess.run([program, folder], check=True)
        results.append((load_file(folder / "ours.safetensors"), json.loads((folder / "ours.json").read_text())))
    (ours, our_losses), (again, losses_again) = results
    assert our_losses == losses_again and all(torch.equal(ours[name], again[name]) for name in ours), "checkpointing"

    assert {f"gradient.{name}" for name in gradients} == set(ours) - {"logits"}, "other weights are trained"
    ours = (ours["logits"], our_losses, {name: ours[f"gradient.{name}"] for name in gradients})
    return off(*ours, *exact), off(logits, losses, gradients, *exact)


def off(logits, losses, gradients, exact_logits, exact_losses, exact_gradients):
    """How far logits, losses and gradients are from the exact ones, under their names."""
    found = {"logits": relative(logits, exact_logits)}
    for name, exact in exact_losses.items():
        found[name] = abs(losses[name] - exact) / abs(exact) if losses[name] != exact else 0.0
    # A gradient that is zero but for rounding (of a router that gives all to one expert) is measured by the others.
    least = 1e-3 * max(exact.abs().max().item() for exact in exact_gradients.values())
    for name, exact in exact_gradients.items():
        found[f"gradient of {name}"] = relative(gradients[name], exact, least)
    return found


parser = argparse.ArgumentParser()
parser.add_argument("program")
parser.add_argument("--cases", type=int, default=24)
parser.add_argument("--seed", type=int, default=random.randrange(2**32))
parser.add_argument("--keep", type=Path, help="where the cases' files go; a folder that is removed when left out")
arguments = parser.parse_args()
print(f"transformers {transformers.__version__}, torch {torch.__version__}, --seed {arguments.seed}")
rng = random.Random(arguments.seed)
worst, failed = {}, 0
for number in range(arguments.cases):
    case = draw(rng, number) | dict(seed=rng.randrange(2**32))
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.keep or Path(temporary)) / f"case-{number}"
        folder.mkdir(parents=True)
        found = compare(arguments.program, folder, case)
    if found is None:
        print(f"{number:3} left out: every batch comes too near to where a token changes its experts")
        continue
    ours, peer = found
    limit = {name: max(LOGITS if name == "logits" else GRADIENTS, 3 * peer[name]) for name in ours}
    bad = [name for name in ours if not ours[name] <= limit[name]]  # a NaN is bad
    failed += bool(bad)
    config = case["config"]
    marks = [word for word in ["packed", "documents"] if case[word]] + (["masked"] if case["masked"] else [])
    marks += [f"lora {'+'.join(case['adapter']['target_modules'])}"] if case["adapter"] else []
    print(f"{number:3} {config['num_hidden_layers']} layers of {config['hidden_size']:3}, "
          f"{config['num_attention_heads']}/{config['num_key_value_heads']} heads, "
          f"{config['num_experts_per_tok']} of {config['num_local_experts']} experts, window {config['sliding_window']}, "
          f"{case['sequences']} x {case['length']:3}, {case['attention']:5} {' '.join(marks)}")
    for kind, belongs in [("logits", "logits".__eq__), ("losses", lambda name: "loss" in name),
                          ("gradients", lambda name: name.startswith("gradient"))]:
        name = max(filter(belongs, ours), key=lambda name: math.inf if math.isnan(ours[name]) else ours[name])
        print(f"    {kind:9} {ours[name]:.1e} (theirs {peer[name]:.1e}) {name}", flush=True)
        worst[kind] = max(worst.get(kind, (0.0, 0.0)), (ours[name], peer[name]))
    if bad:
        print(f"    TOO FAR: {', '.join(bad)}\n{json.dumps(case)}")
print("largest: " + ", ".join(f"{kind} {ours:.2e} (theirs there {peer:.2e})" for kind, (ours, peer) in worst.items()))
sys.exit(failed > 0)
