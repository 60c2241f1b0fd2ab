"""Folders of token blocks, read by `datasets` and held against an own account of what has to be in them.

    datasets_reads_blocks.py FOLDER DOCUMENTS.jsonl TOKENIZER.model RECIPE LENGTH STORAGE packing|plain

Runs under `datasets` 2 and 5. Also saves what it has read to FOLDER-by-datasets, for cmx to read back, and, where
transformers is installed, makes a batch as the published training script does.
"""

import importlib.util
import json
import sys

import datasets
import sentencepiece

folder, documents, model, recipe, length, storage, packing = sys.argv[1:]
length = int(length)
tokenizer = sentencepiece.SentencePieceProcessor(model_file=model)
with open(documents, newline="\n") as lines:
    texts = [json.loads(line)["text"] for line in lines]

if recipe == "clean":
    stretches, eos = [texts], [tokenizer.eos_id()]
else:
    stretches, eos = [texts[i : i + 1000] for i in range(0, len(texts), 1000)], []
# Tokens, each with the number of its document.
blocks = []
for stretch in stretches:
    tokens = [
        (id, number)
        for number, text in enumerate(stretch)
        for id in [tokenizer.bos_id(), *tokenizer.encode(text), *eos]
    ]
    if len(tokens) >= length:
        tokens = tokens[: len(tokens) // length * length]
    blocks += [tokens[i : i + length] for i in range(0, len(tokens), length)]
ids = [[id for id, _ in block] for block in blocks]

if storage == "compact":
    types = {"input_ids": "uint16"}
else:
    types = {"input_ids": "int32", "attention_mask": "int8", "labels": "int64"}
if packing == "packing":
    types |= {"position_ids": "uint16", "document_ids": "uint16"}

read = datasets.load_from_disk(folder)
assert {name: feature.feature.dtype for name, feature in read.features.items()} == types, read.features
assert read.column_names == list(types)
assert read["input_ids"][:] == ids
if storage == "as-published":
    assert read["labels"][:] == ids
    assert read["attention_mask"][:] == [[1] * len(block) for block in blocks]
if packing == "packing":
    numbers = [[number - block[0][1] for _, number in block] for block in blocks]
    positions = [[at - row.index(number) for at, number in enumerate(row)] for row in numbers]
    assert read["document_ids"][:] == numbers
    assert read["position_ids"][:] == positions
read.save_to_disk(f"{folder}-by-datasets")

if importlib.util.find_spec("transformers") and len(blocks) > 1:
    # The published script's collator, which makes the labels of the ids; its padding token is `</s>`.
    from transformers import DataCollatorForLanguageModeling, LlamaTokenizer

    slow = LlamaTokenizer(vocab_file=model, legacy=True, pad_token="</s>")
    collate = DataCollatorForLanguageModeling(slow, mlm=False, return_tensors="np")
    batch = collate([{"input_ids": row["input_ids"]} for row in read.select(range(2))])
    assert batch["input_ids"].tolist() == ids[:2]
    assert batch["attention_mask"].all()
    pad = slow.pad_token_id
    assert batch["labels"].tolist() == [[-100 if id == pad else id for id in row] for row in ids[:2]]
print(len(blocks), "blocks are equal under datasets", datasets.__version__)
