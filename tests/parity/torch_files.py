"""Model folders as torch and transformers 4 and 5 write them, all of the same random model: `expand` and `merge` give the same
bits from each.

Needs torch, transformers 4.46.3, peft 0.13.2 and, in another environment, transformers 5:
    python tests/parity/torch_files.py path/to/cmx OLD.model NEW.model [PYTHON_WITH_TRANSFORMERS_5]
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import MixtralConfig, MixtralForCausalLM

transformers.logging.set_verbosity_error()
INTEGER = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}

# Run with transformers 5: a folder of its own names, made of one of 4.
VERSION_5 = """
import sys, transformers
source, target = sys.argv[1:]
model = transformers.MixtralForCausalLM.from_pretrained(source, dtype="auto")
model.save_pretrained(target, save_original_format=False, max_shard_size="2MB")
"""
LOGITS_5 = """
import sys, torch, transformers
from safetensors.torch import save_file
model = transformers.MixtralForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
ids = torch.arange(64).reshape(2, 32) * 37 % model.config.vocab_size
with torch.no_grad():
    save_file({"logits": model(ids).logits}, sys.argv[2])
"""


def weights(folder):
    tensors = {}
    for shard in sorted(Path(folder).glob("*.safetensors")):
        tensors.update(load_file(shard))
    return tensors


def in_one_storage(state):
    """The same tensors as views of one storage, every second one a parameter, in an OrderedDict."""
    flat = torch.cat([tensor.reshape(-1) for tensor in state.values()])
    views, start = OrderedDict(), 0
    for number, (name, tensor) in enumerate(state.items()):
        view = flat[start:start + tensor.numel()].view(tensor.shape)
        views[name] = torch.nn.Parameter(view) if number % 2 else view
        start += tensor.numel()
    return views


def write_folders(folder, model, python_5):
    """Folder → how the weights lie in it; `safetensors` comes first."""
    state = model.state_dict()
    model.save_pretrained(folder / "safetensors", max_shard_size="2MB")
    model.save_pretrained(folder / "shards-of-torch", max_shard_size="2MB", safe_serialization=False)
    for name, made in [
        ("one-file", lambda path: torch.save(state, path)),
        ("protocol-4", lambda path: torch.save(state, path, pickle_protocol=4)),
        ("one-storage", lambda path: torch.save(in_one_storage(state), path)),
    ]:
        (folder / name).mkdir()
        made(folder / name / "pytorch_model.bin")
    names = ["safetensors", "shards-of-torch", "one-file", "protocol-4", "one-storage"]
    if python_5:
        subprocess.run([python_5, "-c", VERSION_5, folder / "safetensors", folder / "version-5"], check=True)
        stored = weights(folder / "version-5").keys()
        assert any("mlp.experts.gate_up_proj" in name for name in stored), sorted(stored)[:8]
        names.append("version-5")
    for name in names[1:]:
        shutil.copy(folder / "safetensors" / "config.json", folder / name / "config.json")
    return names


def write_adapter(folder, model):
    lora = LoraConfig(
        r=4, lora_alpha=8, task_type="CAUSAL_LM", target_modules=["q_proj", "o_proj", "w1", "w2", "w3"],
        modules_to_save=["lm_head"],
    )
    wrapped = get_peft_model(model, lora)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad:
                parameter.data = torch.randn(parameter.shape).to(parameter.dtype) * 0.1
    wrapped.save_pretrained(folder / "adapter")


def case(cmx, folder, old, new, dtype, python_5):
    config = MixtralConfig(
        vocab_size=32000, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=3, max_position_embeddings=64,
    )
    model = MixtralForCausalLM(config).to(dtype)
    names = write_folders(folder, model, python_5)
    write_adapter(folder, model)
    (folder / "larger").mkdir()
    shutil.copy(new, folder / "larger" / "tokenizer.model")
    text = 'name = "files"\n'
    for name in names:
        shutil.copy(old, folder / name / "tokenizer.model")
        text += f'[stage.expand-{name}]\nuse = "expand"\nmodel = "{name}"\ntokenizer = "larger"\n'
        text += f'[stage.merge-{name}]\nuse = "merge"\nmodel = "{name}"\nadapter = "adapter"\n'
    (folder / "files.toml").write_text(text)
    (folder / "datasets.toml").touch()
    subprocess.run([cmx, "run", "files.toml"], cwd=folder, check=True, capture_output=True)
    equal = True
    for stage in ["expand", "merge"]:
        expected = weights(folder / "outputs" / f"{stage}-safetensors")
        for name in names[1:]:
            found = weights(folder / "outputs" / f"{stage}-{name}")
            assert found.keys() == expected.keys(), (name, found.keys() ^ expected.keys())
            differing = sum((found[key].view(INTEGER[dtype]) != expected[key].view(INTEGER[dtype])).sum().item()
                            for key in expected)
            equal &= differing == 0
            print(f"{dtype}, {stage} of {name}: {differing} values differ", flush=True)
    if python_5 and dtype == torch.float32:
        equal &= logits(folder, folder / "outputs" / "merge-version-5", python_5)
    return equal


def logits(folder, merged, python_5):
    """What we wrote of a folder of transformers 5 gives the same logits in 4 and in 5."""
    model = MixtralForCausalLM.from_pretrained(merged, torch_dtype=torch.float32).eval()
    ids = torch.arange(64).reshape(2, 32) * 37 % model.config.vocab_size
    with torch.no_grad():
        expected = model(ids).logits
    subprocess.run([python_5, "-c", LOGITS_5, merged, folder / "logits.safetensors"], check=True)
    found = load_file(folder / "logits.safetensors")["logits"]
    error = ((found - expected).abs().max() / expected.abs().max()).item()
    print(f"logits of transformers 4 and 5: relative difference {error:.1e}")
    return error < 1e-5


def refused(cmx, folder, old, new):
    """What is not read is named, with what to do."""
    state = {"model.embed_tokens.weight": torch.zeros(32000, 4), "lm_head.weight": torch.zeros(4, 32000).t()}
    (folder / "larger").mkdir()
    shutil.copy(new, folder / "larger" / "tokenizer.model")
    (folder / "files.toml").write_text('name = "files"\n[stage.expand]\nmodel = "model"\ntokenizer = "larger"\n')
    (folder / "datasets.toml").touch()
    (folder / "model").mkdir()
    shutil.copy(old, folder / "model" / "tokenizer.model")
    (folder / "model" / "config.json").write_text(json.dumps({"vocab_size": 32000}))
    for options, said in [({}, "`lm_head.weight` in it is stored out of order (shape [32000, 4], strides [1, 32000])"),
                          ({"_use_new_zipfile_serialization": False}, "is a pickle of torch before 1.6")]:
        torch.save(state, folder / "model" / "pytorch_model.bin", **options)
        ran = subprocess.run([cmx, "run", "files.toml"], cwd=folder, capture_output=True, text=True)
        assert ran.returncode == 1 and said in ran.stderr and "hint: " in ran.stderr, ran.stderr
    print("a transposed tensor and a file in the old format are refused by name")


def main():
    cmx, old, new = (Path(argument).resolve() for argument in sys.argv[1:4])
    # Not resolved: the link is what makes it an environment.
    python_5 = Path(sys.argv[4]).absolute() if len(sys.argv) > 4 else None
    torch.manual_seed(0)
    equal = []
    for dtype in INTEGER:
        with tempfile.TemporaryDirectory() as folder:
            equal.append(case(cmx, Path(folder), old, new, dtype, python_5))
    with tempfile.TemporaryDirectory() as folder:
        refused(cmx, Path(folder), old, new)
    sys.exit(0 if all(equal) else 1)


if __name__ == "__main__":
    main()
