"""Folders of token blocks, read by `datasets` and held against an own account of what has to be in them.

    datasets_reads_blocks.py FOLDER DOCUMENTS.jsonl TOKENIZER.model RECIPE LENGTH

Also saves what it has read to FOLDER-by-datasets, for cmx to read back.
"""

import json
import sys

import datasets
import sentencepiece

folder, documents, tokenizer, recipe, length = sys.argv[1:]
length = int(length)
tokenizer = sentencepiece.SentencePieceProcessor(model_file=tokenizer)
with open(documents, newline="\n") as lines:
    texts = [json.loads(line)["text"] for line in lines]

if recipe == "clean":
    stretches, eos = [texts], [tokenizer.eos_id()]
else:
    stretches, eos = [texts[i : i + 1000] for i in range(0, len(texts), 1000)], []
blocks = []
for stretch in stretches:
    ids = [id for text in stretch for id in [tokenizer.bos_id(), *tokenizer.encode(text), *eos]]
    if len(ids) >= length:
        ids = ids[: len(ids) // length * length]
    blocks += [ids[i : i + length] for i in range(0, len(ids), length)]

read = datasets.load_from_disk(folder)
types = {"input_ids": "int32", "attention_mask": "int8", "labels": "int64"}
assert {name: feature.feature.dtype for name, feature in read.features.items()} == types, read.features
assert read.column_names == list(types)
assert read["input_ids"][:] == blocks
assert read["labels"][:] == blocks
assert read["attention_mask"][:] == [[1] * len(block) for block in blocks]
read.save_to_disk(f"{folder}-by-datasets")
print(len(blocks), "blocks are equal")
