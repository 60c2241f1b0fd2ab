"""Holds `export` and the 4-bit weights of cmx against bitsandbytes' CPU build and transformers.

Three comparisons, all on fresh random numbers:

1. Matrices of every type, of odd sizes, in every block size, with and without double quantisation: every byte that
   `export` stores is that of bitsandbytes' `quantize_4bit`. The offset of double quantisation is a mean, whose last bits
   depend in torch on processor and threads: ours is the exact mean, and the rest is compared for that offset.
2. A model: transformers loads what `export` wrote, and the logits are those of cmx on the same folder; transformers
   packs the unpacked model itself, and the tensors that it saves are those of `export`.
3. cmx runs the folder that transformers saved, with the same logits as on its own.

Needs torch, transformers 4.46.3, bitsandbytes 0.50.2 and accelerate:
    python tests/parity/bitsandbytes_nf4.py path/to/cmx MODEL

MODEL is a folder whose tokenizer and vocabulary size are taken.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers.integrations.bitsandbytes
from bitsandbytes.functional import dequantize_4bit, quantize_4bit, quantize_blockwise
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, MixtralConfig, MixtralForCausalLM

# transformers 4.46 asks for Intel's extension before it lets bitsandbytes run on a CPU; bitsandbytes 0.50 does without.
transformers.integrations.bitsandbytes.is_ipex_available = lambda: True
transformers.logging.set_verbosity_error()
STATE = "quant_state.bitsandbytes__nf4"


def weights(folder):
    tensors = {}
    for shard in sorted(Path(folder).glob("*.safetensors")):
        tensors.update(load_file(shard))
    return tensors


def export(cmx, folder, block_size, double):
    """Runs the stage on `folder`/base; gives the output's folder."""
    (folder / "pipeline.toml").write_text(
        'name = "parity"\n[stage.export]\nmodel = "base"\ncompute_dtype = "float32"\n'
        f"block_size = {block_size}\ndouble_quant = {str(double).lower()}\n"
    )
    subprocess.run([cmx, "run", "pipeline.toml"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder / "outputs" / "export"


def state(tensors, name):
    return json.loads(bytes(tensors[f"{name}.{STATE}"].tolist()))


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def compare(ours, name, matrix, block_size, double):
    """Whether the parts of a matrix are what bitsandbytes makes of it."""
    codes, theirs = quantize_4bit(matrix, blocksize=block_size, compress_statistics=double, quant_type="nf4")
    expected = {name: codes} | {f"{name}.{part}": value for part, value in theirs.as_dict(packed=True).items()}
    found = {part: value for part, value in ours.items() if part == name or part.startswith(name + ".")}
    assert found.keys() == expected.keys(), (found.keys(), expected.keys())
    equal = True
    if double:
        _, plain = quantize_4bit(matrix, blocksize=block_size, quant_type="nf4")
        offset = state(ours, name)["nested_offset"]
        exact = plain.absmax.double().mean().float()
        assert offset == exact.item(), (offset, exact)
        ulps = abs((theirs.offset.view(torch.int32) - exact.view(torch.int32)).item())
        assert ulps <= 8, (theirs.offset, exact)
        nested, state2 = quantize_blockwise(plain.absmax - torch.tensor(offset), blocksize=256)
        expected[f"{name}.absmax"], expected[f"{name}.nested_absmax"] = nested, state2.absmax
        want = json.loads(bytes(expected.pop(f"{name}.{STATE}").tolist())) | {"nested_offset": offset}
        equal &= state(ours, name) == want and list(state(ours, name)) == list(want)
    return equal and all(same(ours[part], value) for part, value in expected.items())


def matrices(cmx, block_size, double):
    """The first comparison."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "base").mkdir()
        MixtralConfig(architectures=["MixtralForCausalLM"]).save_pretrained(folder / "base")
        inputs = {}
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for shape in [(1, 1), (3, 5), (1, 255), (37, 91), (64, 64), (101, 513), (257, 1024)]:
                for scale in (1e-4, 1.0, 300.0):
                    matrix = torch.randn(shape) * scale
                    matrix[torch.rand(shape[0]) < 0.1] = 0
                    name = f"model.layers.0.x{len(inputs)}.weight"
                    inputs[name] = matrix.to(dtype)
        save_file(inputs, folder / "base" / "model.safetensors", metadata={"format": "pt"})
        ours = weights(export(cmx, folder, block_size, double))
        differing = [name for name, matrix in inputs.items() if not compare(ours, name, matrix, block_size, double)]
    kind = "double" if double else "single"
    print(f"blocks of {block_size}, {kind}: {len(differing)} of {len(inputs)} matrices differ")
    return not differing


def logits(cmx, folder, prompt):
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        subprocess.run([cmx, "generate", "--model", folder, "--prompt", prompt, "--logits", file.name], check=True)
        found = load_file(file.name)
    return found["ids"], found["logits"]


def run(folder, ids):
    """The logits of transformers on a packed folder, in float32. In training mode: for inference on this processor
    bitsandbytes would compute in bfloat16."""
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32, attn_implementation="eager")
    assert model.is_loaded_in_4bit
    with torch.no_grad():
        return model.train()(ids[None]).logits[0], model


def model(cmx, tokenizer, dtype, double):
    """The second and the third comparison."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        vocabulary = json.loads((tokenizer / "config.json").read_text())["vocab_size"]
        # Rows are whole numbers of blocks: other ones bitsandbytes' AVX-512 kernel gives the wrong scales.
        config = MixtralConfig(
            vocab_size=vocabulary, hidden_size=64, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, num_local_experts=3, max_position_embeddings=64, initializer_range=0.2,
        )
        base = MixtralForCausalLM(config).to(dtype)
        base.save_pretrained(folder / "base")
        for name in ["tokenizer.model", "tokenizer_config.json"]:
            if (tokenizer / name).exists():
                shutil.copy(tokenizer / name, folder / "base")
        ours = export(cmx, folder, 64, double)

        packing = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double,
            bnb_4bit_compute_dtype=torch.float32,
        )
        packed = AutoModelForCausalLM.from_pretrained(
            folder / "base", quantization_config=packing, torch_dtype=dtype, device_map={"": "cpu"}
        )
        packed.save_pretrained(folder / "theirs")
        for name in ["tokenizer.model", "tokenizer_config.json"]:
            if (folder / "base" / name).exists():
                shutil.copy(folder / "base" / name, folder / "theirs")
        written, saved = weights(ours), weights(folder / "theirs")
        assert written.keys() == saved.keys(), written.keys() ^ saved.keys()
        differing = [name for name in saved if not same(written[name], saved[name])]
        if double:
            # Offsets differ in their last bits, and what is reckoned from them; `matrices` compares those.
            differing = [name for name in differing if not name.endswith((STATE, "absmax"))]

        worst = 0.0
        for prompt in ["Once upon a time, there was a little girl.", "x"]:
            ids, found = logits(cmx, ours, prompt)
            expected, loaded = run(ours, ids)
            worst = max(worst, (found - expected).abs().max().item())
            ids, again = logits(cmx, folder / "theirs", prompt)
            expected, _ = run(folder / "theirs", ids)
            worst = max(worst, (again - expected).abs().max().item())
        layer = loaded.model.layers[1].block_sparse_moe.gate.weight
        assert layer.quant_state.nested == double and layer.quant_state.dtype == dtype
        assert dequantize_4bit(layer.data, layer.quant_state).shape == (3, 64)
    kind = "double" if double else "single"
    print(f"model in {dtype}, {kind}: {len(differing)} of {len(saved)} tensors differ from those that transformers "
          f"saves, largest difference of logits {worst:.2e}")
    return not differing and worst < 1e-4


def main():
    cmx, tokenizer = (Path(argument).resolve() for argument in sys.argv[1:3])
    torch.manual_seed(0)
    equal = [matrices(cmx, 1 << i, double) for i in range(5, 13) for double in (False, True)]
    equal += [model(cmx, tokenizer, dtype, double) for dtype in (torch.float32, torch.bfloat16) for double in (False, True)]
    sys.exit(0 if all(equal) else 1)


if __name__ == "__main__":
    main()
