#!/usr/bin/env python3
"""Makes mixtral.json: logits, loss and gradients of a tiny Mixtral as transformers computes them, those of an adapter of
PEFT with the routers' losses and the z-loss, and the losses of 50 steps of training it.

The weights are a formula of their names' order and their positions, so that the test writes the same model without
any file. Needs torch==2.15.0 (CPU), transformers==4.46.3, peft==0.13.2.

    python tests/golden/mixtral.py > tests/golden/mixtral.json
"""

import json

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers import MixtralConfig, MixtralForCausalLM, get_cosine_schedule_with_warmup
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

CONFIG = dict(
    vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=64, rms_norm_eps=1e-5,
    rope_theta=1e4, tie_word_embeddings=False,
)


def numbers(count, seed):
    """The formula: 24 bits of a multiplicative hash, in [-1, 1)."""
    i = np.arange(count, dtype=np.uint64)
    word = ((i + np.uint64(1)) * np.uint64(2654435761) + np.uint64(seed) * np.uint64(40503)) & np.uint64(0xFFFFFFFF)
    word = (word ^ (word >> np.uint64(15))) * np.uint64(2246822519) & np.uint64(0xFFFFFFFF)
    return ((word >> np.uint64(8)).astype(np.float32) / np.float32(1 << 23)) - np.float32(1)


def model(sliding_window):
    config = MixtralConfig(**CONFIG, sliding_window=sliding_window, attn_implementation="eager")
    result = MixtralForCausalLM(config).eval()
    with torch.no_grad():
        for seed, (name, weight) in enumerate(sorted(result.named_parameters())):
            values = torch.from_numpy(numbers(weight.numel(), seed)).reshape(weight.shape)
            weight.copy_(1 + values / 4 if "norm" in name else values / 2)
    return result


def probed(parameters):
    """Each gradient as its sum of squares and its product with the formula's numbers: both sensitive to every element."""
    gradients = {}
    for name, weight in sorted(parameters.items()):
        gradient = weight.grad.double().flatten()
        probe = torch.from_numpy(numbers(gradient.numel(), 1000)).double()
        gradients[name] = [float(gradient @ gradient), float(gradient @ probe)]
    return gradients


def case(sliding_window):
    mixtral = model(sliding_window)
    ids = torch.tensor([[1, 5, 9, 13, 2, 7, 7, 39, 20], [1, 30, 21, 8, 8, 0, 17, 4, 11]])
    output = mixtral(ids, labels=ids)
    output.loss.backward()
    gradients = probed(dict(mixtral.named_parameters()))
    logits = [round(value, 7) for value in output.logits.flatten().tolist()]
    return dict(sliding_window=sliding_window, ids=ids.tolist(), logits=logits, loss=float(output.loss.detach()),
                gradients=gradients)


ADAPTER = dict(r=3, lora_alpha=6, lora_dropout=0.0, target_modules=["q_proj", "v_proj", "gate", "w1", "w2"],
               modules_to_save=["embed_tokens", "lm_head"])
COEFFICIENTS = dict(loss=1.0, z_loss=0.01, router_aux_loss=0.5, router_z_loss=0.05)
TRAINING = dict(steps=50, batch_size=2, length=12, learning_rate=0.01, warmup_ratio=0.1, weight_decay=0.1, max_grad_norm=1.0)


def adapted():
    """The model with an adapter, and its trained weights by their names in an adapter's file."""
    peft = get_peft_model(model(None), LoraConfig(task_type="CAUSAL_LM", **ADAPTER)).train()
    trained = {name.replace(".default", "").replace(".modules_to_save", ""): weight
               for name, weight in peft.named_parameters() if weight.requires_grad}
    with torch.no_grad():
        for seed, name in enumerate(sorted(name for name in trained if ".lora_" in name)):
            weight = trained[name]
            weight.copy_(torch.from_numpy(numbers(weight.numel(), 100 + seed)).reshape(weight.shape) / 4)
    return peft, trained


def losses(peft, ids):
    output = peft(input_ids=ids, output_router_logits=True, use_cache=False)
    logits = output.logits[:, :-1].flatten(0, 1)
    return dict(
        loss=F.cross_entropy(logits, ids[:, 1:].flatten()),
        z_loss=logits.logsumexp(-1).square().mean(),
        router_aux_loss=load_balancing_loss_func(output.router_logits, 4, 2),
        router_z_loss=torch.cat(output.router_logits).logsumexp(-1).square().mean())


def block(number):
    """Tokens that can be learnt: counting in steps of 1, 2 or 3."""
    return [(number * 7 + i * (1 + number % 3)) % 40 for i in range(TRAINING["length"])]


def adapter():
    peft, trained = adapted()
    ids = torch.tensor([block(0), block(1)])
    before = losses(peft, ids)
    sum(COEFFICIENTS[name] * value for name, value in before.items()).backward()
    result = dict(settings=ADAPTER, coefficients=COEFFICIENTS, losses={name: value.item() for name, value in before.items()},
                  gradients=probed(trained), training=TRAINING)
    steps, size = TRAINING["steps"], TRAINING["batch_size"]
    optimiser = torch.optim.AdamW(trained.values(), lr=TRAINING["learning_rate"], weight_decay=TRAINING["weight_decay"])
    schedule = get_cosine_schedule_with_warmup(optimiser, round(steps * TRAINING["warmup_ratio"]), steps)
    course = []
    for step in range(steps):
        optimiser.zero_grad()
        found = losses(peft, torch.tensor([block(step * size + row) for row in range(size)]))
        sum(COEFFICIENTS[name] * value for name, value in found.items()).backward()
        norm = torch.nn.utils.clip_grad_norm_(trained.values(), TRAINING["max_grad_norm"])
        optimiser.step()
        schedule.step()
        course.append([round(value.item(), 6) for value in [*found.values(), norm]])
    return dict(result, course=course)


if __name__ == "__main__":
    print(json.dumps(dict(config=CONFIG, cases=[case(None), case(3)], adapter=adapter())))
