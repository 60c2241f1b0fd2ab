#!/usr/bin/env python3
"""Compares the logits of cmx with those of transformers on any model folder, in float32.

    python tests/parity/transformers_logits.py target/release/cmx FOLDER [PROMPT …]

Needs torch (CPU), transformers==4.46.3, safetensors. Exits with 1 if a logit differs by more than 1e-4.
"""

import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file
from transformers import MixtralForCausalLM

cmx, folder, *prompts = sys.argv[1:]
model = MixtralForCausalLM.from_pretrained(folder, torch_dtype=torch.float32, attn_implementation="eager").eval()
worst = 0.0
for prompt in prompts or ["Once upon a time, there was a little girl.", "从前有一个小女孩。", "x"]:
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        subprocess.run([cmx, "generate", "--model", folder, "--prompt", prompt, "--logits", file.name], check=True)
        ours = load_file(file.name)
    with torch.no_grad():
        theirs = model(ours["ids"][None]).logits[0]
    difference = (ours["logits"] - theirs).abs().max().item()
    worst = max(worst, difference)
    print(f"{len(ours['ids']):5} tokens, largest difference {difference:.2e}: {prompt!r}")
sys.exit(worst > 1e-4)
