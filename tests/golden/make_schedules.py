"""Makes tests/golden/schedules.json: learning rates, weight-decay groups and AdamW steps, for `src/training`.

    pip install torch==2.15.0 transformers==4.46.3 peft==0.13.2
    python tests/golden/make_schedules.py
"""

import json
import math
import pathlib

import torch
from peft import LoraConfig, get_peft_model
from transformers import MixtralConfig, MixtralForCausalLM, get_scheduler
from transformers.models.mixtral.modeling_mixtral import MixtralRMSNorm
from transformers.trainer_pt_utils import get_parameter_names


def rates(scheduler, warmup_ratio, total, min_lr_ratio, decay_ratio):
    """The rate of each step and of the one after the last, at a peak of 1."""
    warmup = math.ceil(warmup_ratio * total)
    name, more = scheduler, {}
    if scheduler == "cosine" and min_lr_ratio:
        name, more = "cosine_with_min_lr", {"min_lr_rate": min_lr_ratio}
    if scheduler == "warmup_stable_decay":
        decay = min(math.ceil(decay_ratio * total), total - warmup)
        more = {"min_lr_ratio": min_lr_ratio, "num_decay_steps": decay, "num_stable_steps": total - warmup - decay}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_scheduler(name, optimizer, warmup, total, more)
    found = []
    for _ in range(total + 1):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return {"scheduler": scheduler, "warmup_ratio": warmup_ratio, "total": total, "min_lr_ratio": min_lr_ratio,
            "decay_ratio": decay_ratio, "rates": found}


schedules = []
for scheduler in ["constant", "constant_with_warmup", "linear", "cosine", "warmup_stable_decay"]:
    floors = [0.0, 0.1] if scheduler in ["cosine", "warmup_stable_decay"] else [0.0]
    for min_lr_ratio in floors:
        for warmup_ratio, total in [(0.0, 1), (0.0, 7), (0.05, 10), (0.2, 25), (0.15, 6), (1.0, 3)]:
            for decay_ratio in [0.1, 0.5] if scheduler == "warmup_stable_decay" else [0.1]:
                schedules.append(rates(scheduler, warmup_ratio, total, min_lr_ratio, decay_ratio))

# What the Trainer decays. Version 4.46 forgets to list Mixtral's norms among the norms; later ones go by their names.
torch.manual_seed(0)
model = MixtralForCausalLM(MixtralConfig(
    vocab_size=8, hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=1, num_local_experts=1, num_experts_per_tok=1))


def decayed(model):
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    names = get_parameter_names(model, [torch.nn.LayerNorm, MixtralRMSNorm])
    return {name: name in names and "bias" not in name for name in sorted(trained)}


full = decayed(model)
adapted = decayed(get_peft_model(model, LoraConfig(
    r=2, target_modules=["q_proj", "w1"], modules_to_save=["embed_tokens", "lm_head", "norm"])))
plain = {name.removeprefix("base_model.model.").replace(".default", "").replace(".modules_to_save", ""): decays
         for name, decays in adapted.items()}

# Three steps of AdamW on a matrix, a norm and an embedding, each in the group of parameters that it belongs to.
names = ["model.layers.0.self_attn.q_proj.lora_A.weight", "model.norm.weight", "model.embed_tokens.weight"]
values = [torch.nn.Parameter(torch.tensor(start)) for start in [[1.0, -2.0], [0.5, 1.5], [-0.25, 3.0]]]
groups = [{"params": [value], "lr": 0.02 if "embed" in name else 0.1, "weight_decay": 0.0 if "norm" in name else 0.5}
          for name, value in zip(names, values)]
optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), eps=1e-8)
gradients = [[[0.5, -1.0], [0.25, 0.125], [2.0, -0.5]], [[0.25, 3.0], [-1.0, 0.0], [0.125, 4.0]],
             [[-1.0, 0.125], [0.5, 0.5], [-2.0, 1.0]]]
start = [value.tolist() for value in values]
for step in gradients:
    for value, gradient in zip(values, step):
        value.grad = torch.tensor(gradient)
    optimizer.step()
adam = {"names": names, "start": start, "gradients": gradients, "end": [value.tolist() for value in values]}

golden = {"schedules": schedules, "decayed": {"full": full, "lora": plain}, "adam": adam}
path = pathlib.Path("tests/golden/schedules.json")
path.write_text(json.dumps(golden, indent=1) + "\n")
