"""Makes tests/golden/encoded_digests.json: ids that other programs give whole documents, for `tests/encoding_is_exact.rs`.

    python3 tests/golden/make_encoded_digests.py ../shared/data

Standard library only: it makes a virtual environment for each of the programs in a temporary folder and calls itself
there. Of a list of documents kept are the number of tokens and the SHA-256 of their ids: each as 4 bytes, little-endian,
with 0xFFFFFFFF after every document.
"""

import hashlib
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

FIRST = 40  # documents of each corpus that are encoded in every test; all when it is asked for
MODELS = ["mixtral-8x7b-v0.1.tokenizer", "llama-32000", "mistral-instruct-v3-32768", "ymcui-chinese-llama2-55296"]
CORPORA = ["zh/articles", "zh/books", "zh/instructions", "zh/laws", "zh/python-docs", "zh/qa", "en/python-docs", "en/rfcs", "eval"]
PROGRAMS = {
    "native": ["sentencepiece==0.2.3"],
    "transformers-4": ["transformers==4.57.6", "tokenizers==0.22.2", "sentencepiece==0.2.3", "protobuf==7.36.2"],
    "transformers-5": ["transformers==5.24.0", "tokenizers==0.23.3", "sentencepiece==0.2.3", "protobuf==7.36.2"],
}


def texts(data, corpus):
    if corpus == "eval":
        files = sorted(path for path in (data / "eval").rglob("*") if path.is_file())
        return [path.read_bytes().decode() for path in files]
    return [json.loads(line)["text"] for line in (data / f"{corpus}.jsonl").read_bytes().split(b"\n") if line]


def encoder(program, model):
    if program == "native":
        from sentencepiece import SentencePieceProcessor
        return SentencePieceProcessor(model_file=str(model)).encode
    if program == "transformers-4":
        from transformers import LlamaTokenizerFast
        fast = LlamaTokenizerFast(vocab_file=str(model), legacy=True, add_prefix_space=True)
    else:
        # Version 5 takes a model from a folder; without `legacy` no space is put between a special token and the text.
        from transformers import AutoTokenizer
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(model, pathlib.Path(folder) / "tokenizer.model")
            config = {"tokenizer_class": "LlamaTokenizer", "legacy": True, "bos_token": "<s>", "eos_token": "</s>",
                      "unk_token": "<unk>"}
            (pathlib.Path(folder) / "tokenizer_config.json").write_text(json.dumps(config))
            fast = AutoTokenizer.from_pretrained(folder)
    return lambda text: fast._tokenizer.encode(text, add_special_tokens=False).ids


def digest(ids):
    hasher = hashlib.sha256()
    for document in ids:
        hasher.update(struct.pack(f"<{len(document) + 1}I", *document, 0xFFFFFFFF))
    return {"tokens": sum(map(len, ids)), "sha256": hasher.hexdigest()}


def work(program, data):
    found = {}
    for model in MODELS:
        encode = encoder(program, data / f"tokenizers/{model}.model")
        found[model] = {}
        for corpus in CORPORA:
            documents = texts(data, corpus)
            ids = [encode(text) for text in (documents if program == "native" else documents[:FIRST])]
            found[model][corpus] = {"first": digest(ids[:FIRST])}
            if program == "native":
                found[model][corpus] |= {"documents": len(ids), "all": digest(ids)}
    json.dump(found, sys.stdout)


def main():
    data = pathlib.Path(sys.argv[1]).resolve()
    if len(sys.argv) > 2:
        return work(sys.argv[2], data)
    golden = {"first": FIRST, "encoders": {}}
    with tempfile.TemporaryDirectory() as folder:
        for program, packages in PROGRAMS.items():
            environment = pathlib.Path(folder) / program
            subprocess.run([sys.executable, "-m", "venv", environment], check=True)
            subprocess.run([environment / "bin/pip", "install", "--quiet", *packages], check=True)
            found = subprocess.run([environment / "bin/python", __file__, data, program], check=True, text=True,
                                   stdout=subprocess.PIPE, env={**os.environ, "HF_HUB_OFFLINE": "1"})
            golden["encoders"][program] = json.loads(found.stdout)
    path = pathlib.Path("tests/golden/encoded_digests.json")
    path.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")


main()
