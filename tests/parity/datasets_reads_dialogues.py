"""Folders of dialogues, read by `datasets` and made a batch by transformers.

    datasets_reads_dialogues.py FOLDER EXPECTED.json STORAGE

EXPECTED holds, of every block, the ids, labels and documents' starts that cmx trains on: without padding.
"""

import json
import sys

import datasets
from transformers import default_data_collator

folder, expected, storage = sys.argv[1:]
with open(expected) as file:
    expected = json.load(file)
types = (
    {"input_ids": "uint16", "attention_mask": "int8", "labels": "int32", "document_ids": "uint16"}
    if storage == "compact"
    else {"input_ids": "int32", "attention_mask": "int8", "labels": "int64", "document_ids": "uint16"})
read = datasets.load_from_disk(folder)
assert {name: feature.feature.dtype for name, feature in read.features.items()} == types, read.features
assert len(read) == len(expected)
for row, block in zip(read, expected):
    filled = sum(row["attention_mask"])
    assert row["attention_mask"] == [1] * filled + [0] * (len(row["input_ids"]) - filled)
    assert row["input_ids"][:filled] == block["ids"]
    assert row["labels"] == block["labels"] + [-100] * (len(row["labels"]) - filled)
    numbers = row["document_ids"]
    assert [numbers.index(number) for number in numbers[:filled]] == block["documents"]
    # Padding is no document's.
    assert filled == len(numbers) or numbers[filled] == numbers[filled - 1] + 1
batch = default_data_collator([row for row in read])
assert batch["labels"].shape == batch["input_ids"].shape == batch["attention_mask"].shape
assert str(batch["input_ids"].dtype) == str(batch["labels"].dtype) == "torch.int64"
print(len(expected), "blocks are equal under datasets", datasets.__version__)
