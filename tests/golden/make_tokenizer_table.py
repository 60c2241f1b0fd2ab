"""Makes tests/golden/tokenizer_table.json: what SentencePiece and `tokenizers` make of real documents, for
`tests/tokenizers_are_compared.rs`.

    python3 -m venv .venv-golden && .venv-golden/bin/pip install sentencepiece==0.2.3 tokenizers==0.22.2
    .venv-golden/bin/python tests/golden/make_tokenizer_table.py ../shared/data

Only counts are written: neither the tokenizers nor the documents are part of this project.
"""
import json
import pathlib
import sys

import sentencepiece
import tokenizers

assert (sentencepiece.__version__, tokenizers.__version__) == ("0.2.3", "0.22.2")
LIMIT = 100  # documents of each corpus
MODELS = ["mixtral-8x7b-v0.1.tokenizer.model", "llama-32000.model", "mistral-instruct-v3-32768.model",
          "ymcui-chinese-llama2-55296.model", "ymcui-chinese_sp-20000.model", "minimind-6400.tokenizer.json"]
CORPORA = ["zh/books", "zh/laws", "zh/articles", "zh/instructions", "en/rfcs", "en/python-docs"]


class Model:
    def __init__(self, path):
        self.processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        self.size = self.processor.get_piece_size()

    def counts(self, text):
        ids = self.processor.encode(text)
        return len(ids), sum(map(self.processor.is_byte, ids)), sum(map(self.processor.is_unknown, ids))


class Json:
    """minimind's is a byte-level one whose vocabulary has every byte, so that nothing is unknown."""

    def __init__(self, path):
        self.tokenizer = tokenizers.Tokenizer.from_file(str(path))
        self.size = self.tokenizer.get_vocab_size()
        # As GPT-2's encoder.py writes bytes.
        own = [*range(33, 127), *range(161, 173), *range(174, 256)]
        others = [byte for byte in range(256) if byte not in own]
        bytes_of = {chr(byte): byte for byte in own} | {chr(256 + n): byte for n, byte in enumerate(others)}
        added = set(self.tokenizer.get_added_tokens_decoder())
        self.parts = set()
        for piece, number in self.tokenizer.get_vocab().items():
            try:
                number in added or bytes(bytes_of[c] for c in piece).decode()
            except UnicodeDecodeError:
                self.parts.add(number)

    def counts(self, text):
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        return len(ids), sum(number in self.parts for number in ids), 0


data = pathlib.Path(sys.argv[1])
models = {name: (Json if name.endswith(".json") else Model)(data / "tokenizers" / name) for name in MODELS}
golden = {"limit": LIMIT, "vocabulary": {name: model.size for name, model in models.items()}, "corpora": {}}
for corpus in CORPORA:
    lines = (data / f"{corpus}.jsonl").read_bytes().split(b"\n")
    texts = [json.loads(line)["text"] for line in lines if line][:LIMIT]
    golden["corpora"][corpus] = {
        "documents": len(texts),
        "bytes": sum(len(text.encode()) for text in texts),
        "characters": sum(map(len, texts)),
        "tokens": {name: [sum(column) for column in zip(*map(model.counts, texts))] for name, model in models.items()},
    }
path = pathlib.Path("tests/golden/tokenizer_table.json")
path.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")
