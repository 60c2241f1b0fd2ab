#!/usr/bin/env python3
"""Makes tests/golden/torch: state dicts that torch wrote, and the same tensors as safetensors. Needs torch 2.15.

    python tests/golden/make_torch_files.py tests/golden/torch
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

folder = Path(sys.argv[1])
torch.manual_seed(0)
large = torch.randn(6, 5)
shared = torch.arange(7, dtype=torch.float32)
tensors = {
    "float32": torch.randn(3, 4),
    "float16": torch.randn(2, 3, 2).half(),
    "bfloat16": torch.randn(5).bfloat16(),
    "float64": torch.randn(2, 2).double(),
    "int64": torch.tensor([-1, 1 << 40]),
    "int32": torch.tensor([[-7, 8]], dtype=torch.int32),
    "int16": torch.tensor([-300], dtype=torch.int16),
    "int8": torch.tensor([-1, 2], dtype=torch.int8),
    "uint8": torch.tensor([255, 0], dtype=torch.uint8),
    "bool": torch.tensor([True, False, True]),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 3),
    "rows": large[2:4],
    "one.row": large[:, :1].t().contiguous().t()[1:2],
    "tied.a": shared,
    "tied.b": shared,
    "parameter": torch.nn.Parameter(torch.randn(2, 1, 3)),
}
for protocol in (2, 4, 5):
    torch.save(tensors, folder / f"protocol-{protocol}.bin", pickle_protocol=protocol)
save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, folder / "expected.safetensors")

# An OrderedDict with attributes.
module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
torch.save(module.state_dict(), folder / "module.bin")
save_file(module.state_dict(), folder / "module.safetensors")

# What is refused.
torch.save({"w": torch.randn(3, 4).t()}, folder / "transposed.bin")
torch.save({"epoch": 3, "model": {"w": torch.ones(2)}}, folder / "nested.bin")
torch.save(module, folder / "whole-module.bin")
torch.save({"w": torch.ones(2)}, folder / "before-1.6.bin", _use_new_zipfile_serialization=False)
