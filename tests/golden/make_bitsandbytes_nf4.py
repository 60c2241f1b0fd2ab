#!/usr/bin/env python3
"""Makes bitsandbytes_nf4.safetensors: matrices, and what bitsandbytes' CPU build packs them to, as it stores them.

For each case NAME of CASES: `NAME.input`, the matrix; `NAME.weight` and its parts, as in a state dict; `NAME.values`,
what bitsandbytes unpacks them to in float32, before they are rounded to the type of the input. Needs torch (CPU) and
bitsandbytes 0.50.2.

    python tests/golden/make_bitsandbytes_nf4.py tests/golden/bitsandbytes_nf4.safetensors
"""

import sys

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from safetensors.torch import save_file

torch.manual_seed(0)
torch.set_num_threads(1)
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
       -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634,
       0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]


def normal(*shape):
    return torch.randn(*shape) * 0.02


def ties():
    """Midpoints of the codebook, at scales that leave them exact, and their neighbours on either side."""
    code = torch.tensor(NF4)
    middle = (code[:-1] + code[1:]) / 2
    up, down = (torch.nextafter(middle, torch.tensor(limit)) for limit in (9.0, -9.0))
    row = torch.cat([middle, up, down, torch.tensor([1.0] * 19)])
    return torch.stack([row, row * 0.25, row * 1024, -row])


def with_zeros():
    matrix = normal(6, 75)
    matrix[1:4] = 0
    matrix[5, 20:] = 0
    return matrix


CASES = {
    # name: matrix, type, block size, double quantisation
    "float32": (normal(5, 77), F32, 64, False),
    "bfloat16": (normal(24, 100), BF16, 64, False),
    "float16": (normal(17, 63), F16, 32, False),
    "one": (normal(1, 1), F32, 64, False),
    "row": (normal(1, 4097), BF16, 4096, False),
    "wide-blocks": (normal(3, 1000), F32, 512, False),
    "ties": (ties(), F32, 64, False),
    "zeros": (with_zeros(), BF16, 64, False),
    "nothing": (torch.zeros(3, 50), F32, 64, False),
    "tiny": (normal(4, 40) * 1e-38, F32, 32, False),
    "large": (normal(4, 64) * 1e38, F32, 64, False),
    "nested": (normal(100, 90) * torch.rand(100, 1), BF16, 32, True),
    "nested-float32": (normal(40, 80), F32, 64, True),
    "nested-few": (normal(3, 40), F16, 64, True),
    "nested-equal": (torch.ones(4, 64), F32, 64, True),
}


def main():
    tensors = {}
    for name, (matrix, dtype, blocksize, double) in CASES.items():
        matrix = matrix.to(dtype)
        codes, state = quantize_4bit(matrix, blocksize=blocksize, compress_statistics=double, quant_type="nf4")
        tensors[f"{name}.input"] = matrix
        tensors[f"{name}.weight"] = codes
        tensors |= {f"{name}.weight.{part}": value for part, value in state.as_dict(packed=True).items()}
        # As one long row: the AVX-512 kernel of this version takes the wrong scales when a row is no whole number of
        # blocks.
        state.dtype, state.shape = torch.float32, torch.Size([1, matrix.numel()])
        tensors[f"{name}.values"] = dequantize_4bit(codes, state).reshape(matrix.shape)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, sys.argv[1])


if __name__ == "__main__":
    main()
