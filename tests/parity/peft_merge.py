"""Holds `merge` against PEFT's merge_and_unload, bit by bit, on fresh random models.

Needs torch, transformers 4.46.3 and peft 0.13.2:  python tests/parity/peft_merge.py path/to/cmx
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

CASES = [
    # model, adapter, rank, alpha, rslora, hidden, intermediate
    (torch.float32, torch.float32, 64, 128, False, 512, 1792),
    (torch.float32, torch.float32, 8, 24, True, 256, 896),
    (torch.float32, torch.float32, 3, 7, False, 72, 100),
    (torch.bfloat16, torch.bfloat16, 64, 128, False, 512, 1792),
    (torch.bfloat16, torch.float32, 64, 128, False, 512, 1792),
    (torch.float16, torch.float16, 16, 32, False, 256, 896),
]


def weights(folder):
    tensors = {}
    for shard in sorted(Path(folder).glob("*.safetensors")):
        tensors.update(load_file(shard))
    return tensors


def case(cmx, folder, model_dtype, adapter_dtype, rank, alpha, rslora, hidden, intermediate):
    config = MixtralConfig(
        vocab_size=1000, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=2, max_position_embeddings=64,
    )
    base = MixtralForCausalLM(config).to(model_dtype)
    base.save_pretrained(folder / "base", max_shard_size="4MB")
    lora = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=0.05, use_rslora=rslora, task_type="CAUSAL_LM",
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "w1", "w2", "w3"],
        modules_to_save=["embed_tokens", "lm_head"],
    )
    model = get_peft_model(base, lora, autocast_adapter_dtype=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = (torch.randn(parameter.shape) * 0.1).to(adapter_dtype)
            elif parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.01)
    model.save_pretrained(folder / "adapter")

    (folder / "pipeline.toml").write_text(
        'name = "parity"\n[stage.merge]\nmodel = "base"\nadapter = "adapter"\n'
    )
    subprocess.run([cmx, "run", "pipeline.toml"], cwd=folder, check=True)

    # Without the cast PEFT brings the adapter to the model's type; with it, to float32. Either way in its own type.
    cast = adapter_dtype == torch.float32
    again = AutoModelForCausalLM.from_pretrained(folder / "base", torch_dtype=model_dtype)
    again = PeftModel.from_pretrained(again, folder / "adapter", autocast_adapter_dtype=cast)
    expected = again.merge_and_unload().state_dict()
    merged = weights(folder / "outputs" / "merge")
    assert merged.keys() == expected.keys()
    integer = torch.int32 if model_dtype == torch.float32 else torch.int16
    total = differing = 0
    for name, tensor in merged.items():
        assert tensor.dtype == expected[name].dtype == model_dtype, name
        total += tensor.numel()
        differing += (tensor.view(integer) != expected[name].view(integer)).sum().item()
    loaded = AutoModelForCausalLM.from_pretrained(folder / "outputs" / "merge", torch_dtype=model_dtype)
    assert loaded.config.vocab_size == 1000
    what = f"model {model_dtype}, adapter {adapter_dtype}, rank {rank}, alpha {alpha}, rslora {rslora}"
    print(f"{what}: {differing} of {total} weights differ")
    return differing == 0


def main():
    cmx = Path(sys.argv[1]).resolve()
    torch.manual_seed(0)
    equal = []
    for parameters in CASES:
        with tempfile.TemporaryDirectory() as folder:
            equal.append(case(cmx, Path(folder), *parameters))
    sys.exit(0 if all(equal) else 1)


if __name__ == "__main__":
    main()
