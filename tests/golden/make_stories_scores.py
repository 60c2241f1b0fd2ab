"""Makes stories_moe_scores.json: what transformers and the harness's rules give for ../shared/data/stories-moe.

Log-likelihoods as HFLM of lm-evaluation-harness 28ec7fa computes them (`_encode_pair`, `_loglikelihood_tokens`: no BOS,
split by length, truncation from the left at max_position_embeddings), one request at a time, on the prompts in
lm_eval_prompts.json; and negative log-likelihoods of running text over windows of 128 tokens with stride 96.

    pip install torch==2.15.0 transformers==4.46.3 sentencepiece==0.2.3
    python tests/golden/make_stories_scores.py ../shared/data/stories-moe
"""
import json
import pathlib
import sys

import sentencepiece
import torch
import transformers

folder = pathlib.Path(sys.argv[1])
tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
model = transformers.AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
MAX_LENGTH = model.config.max_position_embeddings


@torch.no_grad()
def log_probabilities(ids):
    return torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), dim=-1)


def encode_pair(context, continuation):
    spaces = len(context) - len(context.rstrip())
    if spaces > 0:
        continuation = context[-spaces:] + continuation
        context = context[:-spaces]
    whole = tokenizer.encode(context + continuation)
    context_ids = tokenizer.encode(context)
    return context_ids, whole[len(context_ids):]


def log_likelihood(context, continuation):
    context_ids, continuation_ids = encode_pair(context, continuation)
    ids = (context_ids + continuation_ids)[-(MAX_LENGTH + 1):][:-1]
    rows = log_probabilities(ids)[-len(continuation_ids):]
    return sum(float(row[token]) for row, token in zip(rows, continuation_ids))


def text(documents, window, stride):
    total, tokens = 0.0, 0
    for document in documents:
        ids = tokenizer.encode(document)
        stream = [tokenizer.bos_id()] + ids
        done = 0
        while done < len(ids):
            end = min(done + (window if done == 0 else stride), len(ids))
            begin = max(0, end - window)
            rows = log_probabilities(stream[begin:end])
            total -= sum(float(rows[i - begin][ids[i]]) for i in range(done, end))
            done = end
        tokens += len(ids)
    return {"tokens": tokens, "negative_log_likelihood": total}


prompts = json.loads(pathlib.Path("tests/golden/lm_eval_prompts.json").read_text(encoding="utf-8"))["fixtures"]
items = {
    shots: {
        name: [[log_likelihood(item["context"], choice) for choice in item["continuations"]] for item in rows["first"]]
        for name, rows in subjects.items()
    }
    for shots, subjects in prompts.items()
}
documents = [
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. " * 8,
    "",
    "从前有一个小女孩，她喜欢在公园里玩。One day, she saw a big, red ball.",
]
golden = {"items": items, "documents": documents, "text": text(documents, 128, 96)}
path = pathlib.Path("tests/golden/stories_moe_scores.json")
path.write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
