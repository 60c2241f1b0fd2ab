"""Samples segmentations with SentencePiece's own BPE-dropout: bpe_dropout.py MODEL ASKED.json

ASKED has `texts`, `draws` and `alpha`; printed are, of each text, the ways it was cut and how often.
"""

import json
import sys
from collections import Counter

import sentencepiece

model, asked = sys.argv[1:]
with open(asked) as file:
    asked = json.load(file)
sentencepiece.set_random_generator_seed(20261128)
tokenizer = sentencepiece.SentencePieceProcessor(model_file=model)
drawn = []
for text in asked["texts"]:
    counts = Counter(
        tuple(tokenizer.encode(text, enable_sampling=True, alpha=asked["alpha"], nbest_size=-1))
        for _ in range(asked["draws"]))
    drawn.append([[list(ids), count] for ids, count in counts.items()])
print(json.dumps(drawn))
