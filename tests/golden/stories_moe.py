#!/usr/bin/env python3
"""Makes stories-moe.json: logits and the greedy continuation of ../shared/data/stories-moe by transformers.

Needs torch (CPU), transformers==4.46.3, sentencepiece.

    python tests/golden/stories_moe.py ../shared/data/stories-moe > tests/golden/stories-moe.json
"""

import json
import sys

import sentencepiece
import torch
from transformers import MixtralForCausalLM

folder = sys.argv[1]
model = MixtralForCausalLM.from_pretrained(folder, torch_dtype=torch.float32, attn_implementation="eager").eval()
tokenizer = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/tokenizer.model")
text = "Once upon a time, there was a big dog. He liked to run and jump in the park with his friends."
ids = [tokenizer.bos_id()] + tokenizer.encode(text)
prompt = [tokenizer.bos_id()] + tokenizer.encode("Once upon a time")
with torch.no_grad():
    logits = model(torch.tensor([ids])).logits[0, -1]
    whole = model.generate(torch.tensor([prompt]), max_new_tokens=60, do_sample=False)[0].tolist()
print(json.dumps(dict(ids=ids, logits=[round(value, 6) for value in logits.tolist()], prompt=prompt,
                      continuation=whole[len(prompt):], text=tokenizer.decode(whole[len(prompt):]))))
