#!/usr/bin/env python3
"""Makes mixtral.json: logits, loss and gradients of a tiny Mixtral as transformers computes them.

The weights are a formula of their names' order and their positions, so that the test writes the same model without
any file. Needs torch (CPU), transformers==4.46.3.

    python tests/golden/mixtral.py > tests/golden/mixtral.json
"""

import json

import numpy as np
import torch
from transformers import MixtralConfig, MixtralForCausalLM

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


def case(sliding_window):
    mixtral = model(sliding_window)
    ids = torch.tensor([[1, 5, 9, 13, 2, 7, 7, 39, 20], [1, 30, 21, 8, 8, 0, 17, 4, 11]])
    output = mixtral(ids, labels=ids)
    output.loss.backward()
    # Each gradient as its sum of squares and its product with the formula's numbers: both sensitive to every element.
    gradients = {}
    for name, weight in sorted(mixtral.named_parameters()):
        gradient = weight.grad.double().flatten()
        probe = torch.from_numpy(numbers(gradient.numel(), 1000)).double()
        gradients[name] = [float(gradient @ gradient), float(gradient @ probe)]
    logits = [round(value, 7) for value in output.logits.flatten().tolist()]
    return dict(sliding_window=sliding_window, ids=ids.tolist(), logits=logits, loss=float(output.loss.detach()),
                gradients=gradients)


if __name__ == "__main__":
    print(json.dumps(dict(config=CONFIG, cases=[case(None), case(3)])))
