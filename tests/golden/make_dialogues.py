#!/usr/bin/env python3
"""Makes dialogues.json: dialogues as transformers tells them by a chat template, their tokens, and which of them the
assistant says. Needs transformers==4.46.3, sentencepiece, protobuf.

    python tests/golden/make_dialogues.py > tests/golden/dialogues.json
"""

import json
import os

from transformers import LlamaTokenizerFast

FOLDER = os.path.dirname(os.path.abspath(__file__))
TOKENS = ["<|beginofutterance|>", "<|endofutterance|>"]
# pipelines/huozi3.jinja as it is, and with tags around what the assistant says.
with open(os.path.join(FOLDER, "../../pipelines/huozi3.jinja")) as file:
    PLAIN = file.read().removesuffix("\n")
TAGGED = (
    "{%- set names = {'system': '系统', 'user': '用户', 'assistant': '助手'} -%}\n"
    "{{- bos_token -}}\n"
    "{%- for message in messages %}\n"
    "    {{- '<|beginofutterance|>' + names[message['role']] + '\\n' }}\n"
    "    {%- if message.role == 'assistant' %}\n"
    "        {%- generation %}\n"
    "        {{- message.content + '<|endofutterance|>' }}\n"
    "        {%- endgeneration %}\n"
    "    {%- else %}\n"
    "        {{- message.content + '<|endofutterance|>' }}\n"
    "    {%- endif %}\n"
    "    {{- '\\n' }}\n"
    "{%- endfor %}"
)
# Without tokens of its own around turns: borders within words, and the end token. (An answer with which a text begins is
# passed over by transformers.)
BRACKETS = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content + eos_token }}{% endgeneration %}"
    "{% else %}{{ bos_token + '[' + message.content.strip() + ']' }}{% endif %}"
    "{% endfor %}"
)


def dialogue(*turns):
    return [{"role": role, "content": content} for role, content in turns]


DIALOGUES = [
    dialogue(("user", "云雀谷在哪里？"), ("assistant", "在两座山之间。")),
    dialogue(
        ("system", "You answer briefly."), ("user", " 1 + 1? "), ("assistant", "2"), ("user", "And\n2 + 2?"),
        ("assistant", "4\n\n🎉  "), ("user", "好"), ("assistant", "")),
    dialogue(("user", "Nobody answers.")),
    dialogue(("assistant", "I speak first: <s> and </s> and <|endofutterance|>."), ("user", "Oh"),
             ("assistant", "écoute  l'eau [x]")),
]

tokenizer = LlamaTokenizerFast(
    vocab_file=os.path.join(FOLDER, "sentencepiece/llama.model"), legacy=True, add_prefix_space=True)
tokenizer.add_special_tokens({"additional_special_tokens": TOKENS})


def told(template, turns):
    def apply(template, **options):
        return tokenizer.apply_chat_template(turns, chat_template=template, **options)

    text = apply(template, tokenize=False)
    result = apply(template, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    return {"text": text, "ids": result["input_ids"], "answers": result["assistant_masks"]}


cases = []
for template in [TAGGED, BRACKETS]:
    cases.append({"template": template, "dialogues": [told(template, turns) for turns in DIALOGUES]})
# The same by the template without tags, of which transformers cannot tell the answers.
assert all(
    tokenizer.apply_chat_template(turns, chat_template=PLAIN, tokenize=False) == case["text"]
    for turns, case in zip(DIALOGUES, cases[0]["dialogues"]))
print(json.dumps({"tokens": TOKENS, "messages": DIALOGUES, "cases": cases}, ensure_ascii=False))
