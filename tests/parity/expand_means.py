"""Holds `expand` against the published initialisation, computed by torch on sentencepiece's tokens, bit by bit.

Needs torch, transformers 4.46.3 and sentencepiece:
    python tests/parity/expand_means.py path/to/cmx OLD.model NEW.model
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import sentencepiece
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM


def weights(folder):
    tensors = {}
    for shard in sorted(Path(folder).glob("*.safetensors")):
        tensors.update(load_file(shard))
    return tensors


def published_ids(old, new, token):
    """What the original averages over: BOS, and the dummy prefix that a text begins with."""
    return [old.bos_id()] + old.encode(new.decode([token]))


def published_row(rows, ids):
    total = 0
    for token in ids:
        total = total + rows[token]
    return total / len(ids)


def clean_ids(old, new, token):
    """The text alone: behind a line feed, which is a byte that no piece contains."""
    text = new.id_to_piece(token).replace("\u2581", " ")
    guard = old.encode("\n")
    ids = old.encode("\n" + text)
    assert ids[: len(guard)] == guard
    return ids[len(guard) :]


def clean_row(rows, ids):
    total = torch.zeros(rows.shape[1])
    for token in ids:
        total = total + rows[token].float()
    return (total / len(ids)).to(rows.dtype)


RECIPES = {"as-published": (published_ids, published_row), "clean": (clean_ids, clean_row)}


def case(cmx, folder, old_path, new_path, dtype, recipe):
    old = sentencepiece.SentencePieceProcessor(str(old_path))
    new = sentencepiece.SentencePieceProcessor(str(new_path))
    config = MixtralConfig(
        vocab_size=old.vocab_size(), hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=2, max_position_embeddings=64,
    )
    MixtralForCausalLM(config).to(dtype).save_pretrained(folder / "base", max_shard_size="1MB")
    shutil.copy(old_path, folder / "base" / "tokenizer.model")
    (folder / "new").mkdir()
    shutil.copy(new_path, folder / "new" / "tokenizer.model")
    (folder / "pipeline.toml").write_text(
        f'name = "parity"\n[stage.expand]\nmodel = "base"\ntokenizer = "new"\nrecipe = "{recipe}"\n'
    )
    subprocess.run([cmx, "run", "pipeline.toml"], cwd=folder, check=True)

    output = folder / "outputs" / "expand"
    before, after = weights(folder / "base"), weights(output)
    ids_of, row_of = RECIPES[recipe]
    spelled = [ids_of(old, new, token) for token in range(old.vocab_size(), new.vocab_size())]
    integer = torch.int32 if dtype == torch.float32 else torch.int16
    differing = 0
    for name in before:
        expected = before[name]
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            expected = torch.cat([expected, torch.stack([row_of(before[name], ids) for ids in spelled])])
        assert after[name].shape == expected.shape and after[name].dtype == expected.dtype, name
        differing += (after[name].view(integer) != expected.view(integer)).sum().item()
    model = AutoModelForCausalLM.from_pretrained(output)
    assert model.config.vocab_size == new.vocab_size()
    print(f"{recipe}, {dtype}, {len(spelled)} new tokens: {differing} values differ")
    return differing == 0


def main():
    cmx, old, new = (Path(argument).resolve() for argument in sys.argv[1:4])
    torch.manual_seed(0)
    equal = []
    for recipe in RECIPES:
        for dtype in (torch.bfloat16, torch.float32):
            with tempfile.TemporaryDirectory() as folder:
                equal.append(case(cmx, Path(folder), old, new, dtype, recipe))
    sys.exit(0 if all(equal) else 1)


if __name__ == "__main__":
    main()
