#!/usr/bin/env python3
"""Makes masked_loss.json: the loss and the gradients of padded batches, of which some tokens are to be predicted, as
transformers computes them on the model of mixtral.py. Needs torch (CPU), transformers==4.46.3.

    python tests/golden/make_masked_loss.py > tests/golden/masked_loss.json
"""

import json

import torch
from mixtral import model, numbers

PAD = 2
# Each with the place from which on its tokens are to be predicted.
DOCUMENTS = [
    ([1, 5, 9, 13, 2, 7, 7, 39, 20], 4), ([1, 30, 21, 8], 2), ([1, 17, 4, 11, 33, 6, 25], 3), ([1, 3], 2)]


def case(sliding_window):
    mixtral = model(sliding_window)
    longest = max(len(ids) for ids, _ in DOCUMENTS)
    rows, masks, labels = [], [], []
    for ids, start in DOCUMENTS:
        padding = longest - len(ids)
        rows.append(ids + [PAD] * padding)
        masks.append([1] * len(ids) + [0] * padding)
        labels.append([-100] * start + ids[start:] + [-100] * padding)
    output = mixtral(
        input_ids=torch.tensor(rows), attention_mask=torch.tensor(masks), labels=torch.tensor(labels))
    output.loss.backward()
    gradients = {}
    for name, weight in sorted(mixtral.named_parameters()):
        gradient = weight.grad.double().flatten()
        probe = torch.from_numpy(numbers(gradient.numel(), 1000)).double()
        gradients[name] = [float(gradient @ gradient), float(gradient @ probe)]
    return dict(sliding_window=sliding_window, rows=rows, masks=masks, labels=labels,
                loss=float(output.loss.detach()), gradients=gradients)


print(json.dumps(dict(cases=[case(None), case(3)])))
