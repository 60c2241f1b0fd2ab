#!/usr/bin/env python3
"""The peer of training.rs: the same shapes and steps in PyTorch, transformers 4.46.3 and PEFT 0.13.2.

    python benches/training.py [SHAPE [METHOD]]

Prints the median of five steps after two, and the peak memory; each in a process of its own. `lora-bf16` holds all weights,
the adapters' too, in bfloat16. There is no `lora-nf4`: transformers 4.46.3 packs to 4 bits on no processor but Intel's.
"""

import resource
import statistics
import subprocess
import sys
import time

#        name          width inner layers heads kv experts vocabulary sequences length rank
SHAPES = [("quickstart", 128, 256, 4, 4, 2, 4, 4000, 8, 128, 16),
          ("small", 256, 896, 4, 8, 2, 8, 4000, 4, 256, 64),
          ("small-32k", 256, 896, 4, 8, 2, 8, 32000, 4, 256, 64)]
METHODS = ["full", "lora", "lora-bf16"]


def build(config, method):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import MixtralForCausalLM
    rank = config.rank
    model = MixtralForCausalLM(config)
    if method == "full":
        return model
    if method == "lora-bf16":
        model = model.to(torch.bfloat16)
    return get_peft_model(model, LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.05, task_type="CAUSAL_LM",
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "w1", "w2", "w3"],
        modules_to_save=["embed_tokens", "lm_head"]), autocast_adapter_dtype=method != "lora-bf16")


def measure(shape, method):
    import torch
    from transformers import MixtralConfig
    torch.set_num_threads(2)
    torch.manual_seed(0)
    name, width, inner, layers, heads, kv, experts, vocabulary, sequences, length, rank = shape
    config = MixtralConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv, num_local_experts=experts, sliding_window=None,
        max_position_embeddings=2048, attn_implementation="sdpa")
    config.rank = rank
    model = build(config, method)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)
    times = []
    for _ in range(7):
        ids = torch.randint(0, vocabulary, (sequences, length))
        start = time.perf_counter()
        optimiser.zero_grad()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        times.append(time.perf_counter() - start)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 * 1.024
    print(f"{name:12} {method:9} {sequences * length / statistics.median(times[2:]):7.0f} tokens/s {memory:7.0f} MB",
          flush=True)


if len(sys.argv) == 3:
    measure(next(shape for shape in SHAPES if shape[0] == sys.argv[1]), sys.argv[2])
else:
    for shape in SHAPES:
        for method in METHODS:
            if sys.argv[1:] in ([], [shape[0]]):
                subprocess.run([sys.executable, __file__, shape[0], method], check=True)
