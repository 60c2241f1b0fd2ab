#!/usr/bin/env python3
"""Loads an adapter that cmx trained with PEFT, and compares its logits with those of cmx on the merged model.

    python tests/parity/peft_adapter.py target/release/cmx BASE ADAPTER MERGED [PROMPT …]

Needs torch (CPU), transformers==4.46.3, peft==0.13.2, safetensors. Exits with 1 if a logit differs by more than 1e-4.
"""

import subprocess
import sys
import tempfile

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import MixtralForCausalLM

cmx, base, adapter, merged, *prompts = sys.argv[1:]
model = MixtralForCausalLM.from_pretrained(base, torch_dtype=torch.float32, attn_implementation="eager")
model = PeftModel.from_pretrained(model, adapter).eval()
saved = load_file(f"{adapter}/adapter_model.safetensors")
held = {name for name, _ in model.named_parameters() if "lora_" in name or "modules_to_save" in name}
print(f"{len(saved)} tensors in the file, {len(held)} in the model")
worst = float(len(saved) != len(held))
for prompt in prompts or ["Once upon a time, there was a little girl.", "class object: x"]:
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        subprocess.run([cmx, "generate", "--model", merged, "--prompt", prompt, "--logits", file.name], check=True)
        ours = load_file(file.name)
    with torch.no_grad():
        theirs = model(input_ids=ours["ids"][None]).logits[0]
    difference = (ours["logits"] - theirs).abs().max().item()
    worst = max(worst, difference)
    print(f"{len(ours['ids']):5} tokens, largest difference {difference:.2e}: {prompt!r}")
sys.exit(worst > 1e-4)
