"""Holds `merge` against PEFT, bit by bit, on fresh random models: against merge_and_unload, and with `base =
"dequantised"` against what PEFT adds to the weights that bitsandbytes packed.

Needs torch, transformers 4.46.3, peft 0.13.2, bitsandbytes 0.50.2 and accelerate:
    python tests/parity/peft_merge.py path/to/cmx
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import bitsandbytes
import torch
import transformers.integrations.bitsandbytes
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, MixtralConfig, MixtralForCausalLM

# transformers 4.46 asks for Intel's extension before it lets bitsandbytes run on a CPU; bitsandbytes 0.50 does without.
transformers.integrations.bitsandbytes.is_ipex_available = lambda: True
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

CASES = [
    # base, model, adapter, rank, alpha, rslora, hidden, intermediate
    ("original", torch.float32, torch.float32, 64, 128, False, 512, 1792),
    ("original", torch.float32, torch.float32, 8, 24, True, 256, 896),
    ("original", torch.float32, torch.float32, 3, 7, False, 72, 100),
    ("original", torch.bfloat16, torch.bfloat16, 64, 128, False, 512, 1792),
    ("original", torch.bfloat16, torch.float32, 64, 128, False, 512, 1792),
    ("original", torch.float16, torch.float16, 16, 32, False, 256, 896),
    # Rows are whole numbers of blocks: other ones bitsandbytes' AVX-512 kernel gives the wrong scales.
    ("dequantised", torch.float32, torch.float32, 8, 24, True, 256, 896),
    ("dequantised", torch.bfloat16, torch.float32, 64, 128, False, 512, 1792),
    ("dequantised", torch.float16, torch.float32, 16, 32, False, 256, 896),
]


def weights(folder):
    tensors = {}
    for shard in sorted(Path(folder).glob("*.safetensors")):
        tensors.update(load_file(shard))
    return tensors


def merged_by_peft(folder, dtype, cast):
    """The state of the model with the adapter folded in."""
    model = AutoModelForCausalLM.from_pretrained(folder / "base", torch_dtype=dtype)
    model = PeftModel.from_pretrained(model, folder / "adapter", autocast_adapter_dtype=cast)
    return model.merge_and_unload().state_dict()


def added_by_peft(folder, dtype, cast):
    """The same for weights that bitsandbytes packed: its unpacked matrices, and to each what PEFT would add. (PEFT
    itself packs the sum again.)"""
    packing = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(
        folder / "base", quantization_config=packing, torch_dtype=dtype, device_map={"": "cpu"}
    )
    model = PeftModel.from_pretrained(model, folder / "adapter", autocast_adapter_dtype=cast)
    state = weights(folder / "base")
    for name, module in model.base_model.model.named_modules():
        if name.endswith(".modules_to_save.default"):
            state[name.removesuffix(".modules_to_save.default") + ".weight"] = module.weight.data.to(dtype)
        layer = module.get_base_layer() if isinstance(module, LoraLayer) else module
        if name.endswith("base_layer") or not isinstance(layer, bitsandbytes.nn.Linear4bit):
            continue
        matrix = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        assert matrix.dtype == dtype
        if isinstance(module, LoraLayer):
            matrix = matrix + module.get_delta_weight("default").detach()
        state[name + ".weight"] = matrix.to(dtype)
    return state


def case(cmx, folder, base_weights, model_dtype, adapter_dtype, rank, alpha, rslora, hidden, intermediate):
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
        f'name = "parity"\n[stage.merge]\nmodel = "base"\nadapter = "adapter"\nbase = "{base_weights}"\n'
    )
    subprocess.run([cmx, "run", "pipeline.toml"], cwd=folder, check=True)

    # Without the cast PEFT brings the adapter to the model's type; with it, to float32. Either way in its own type.
    cast = adapter_dtype == torch.float32
    expect = merged_by_peft if base_weights == "original" else added_by_peft
    expected = expect(folder, model_dtype, cast)
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
    what = f"{base_weights}: model {model_dtype}, adapter {adapter_dtype}, rank {rank}, alpha {alpha}, rslora {rslora}"
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
