"""Makes tests/golden/sentencepiece: what Google's SentencePiece does, for `tests/sentencepiece_parity.rs`.

    python3 -m venv .venv-golden && .venv-golden/bin/pip install sentencepiece==0.2.3 protobuf==7.36.2
    .venv-golden/bin/python tests/golden/make_sentencepiece_ids.py ../shared/data

Written are
- `plain.model`, `llama.model`: trained here on the corpora of `examples/hub`, whose pieces cmx must find in the same order;
- `odd.model`: the second with unused and user-defined pieces, no byte fallback, and spaces squeezed;
- `unigram.model`: Unigram, with user-defined and unused pieces and a small map of characters (the usual one has 240 KB);
- `bytes.model`: Unigram with byte fallback, no map, spaces kept;
- `mapped.model`: the first with the map of the Unigram model;
- `ids.json`: ids and decoded texts of awkward strings under each of them, ids of whole documents under published
  models (of those, which are not part of this project, only SHA-256 digests); and of vocabularies of several sizes, each
  trained alone, the pieces with their scores and the ids of a text (digests again), and ALP as VoCapXLM computes it.
"""
import hashlib
import io
import json
import math
import pathlib
import struct
import sys

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as proto

assert sentencepiece.__version__ == "0.2.3"
HERE = pathlib.Path("tests/golden/sentencepiece")
HUB = pathlib.Path("examples/hub/datasets/cmx")
FIRST = 200  # documents of each real corpus

TEXTS = [
    "", " ", "   ", "a", "The valley and the river", "  two  spaces   and trailing ", "tab\tand\nline feed\r\n",
    "山谷里的春天来了，花都开了。", "中文 and English混在一起", "12345678901234567890 3.14159",
    "<s> </s> <unk> <0x0A> <sep>", "literal ▁ mark ▁▁", "\u2585 block", "NUL \0 inside", "\ufeffbyte order mark",
    "U+2028\u2028and\u2029U+3000\u3000end", "\ufffd\ufffd", "\ue000 private \U0010fffd",
    "𠀀𠀁𪛖 astral Han 𰻝", "e\u0301 e\u0323\u0301 combining", "👩‍👩‍👧‍👦🇨🇳 emoji", "ひらがなとカタカナー", "한국어 Ελληνικά العربية हिन्दी",
    "a" * 100, "ab" * 60, " " * 40, "x" + " " * 33 + "y", "的" * 50, "thethethethe the the", "<sep><sep>a<sep> 【表】【表】b",
    "===== ----- ((((())))) \"\"\"\"", "a b... .. a  b ,，！", "def f(x):\n    return x\n\n\n        # eight", "。。。……，，，！？", "ﬁ ﬀ ① Ⅳ ½ ﾊﾟ",
]
REAL_MODELS = ["mixtral-8x7b-v0.1.tokenizer", "llama-32000", "ymcui-chinese-llama2-55296", "mistral-instruct-v3-32768",
               "ymcui-chinese_sp-20000"]
REAL_CORPORA = ["zh/books", "zh/laws", "zh/articles", "zh/python-docs", "zh/qa", "en/rfcs", "en/python-docs"]


def texts(path):
    return [json.loads(line)["text"] for line in path.read_bytes().split(b"\n") if line]


def train(name, lines, model_type="bpe", normalization_rule_name="identity", **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type=model_type,
        normalization_rule_name=normalization_rule_name, minloglevel=2, num_threads=1, **options)
    (HERE / f"{name}.model").write_bytes(slim(model.getvalue()))


def slim(model):
    """Leaves out what names the machine, and the defaults."""
    model = proto.ModelProto.FromString(model)
    trained = model.trainer_spec
    spec = proto.TrainerSpec(model_type=trained.model_type, byte_fallback=trained.byte_fallback)
    spec.vocab_size = len(model.pieces)
    model.trainer_spec.CopyFrom(spec)
    return model.SerializeToString(deterministic=True)


def odd():
    model = proto.ModelProto.FromString((HERE / "llama.model").read_bytes())
    model.trainer_spec.byte_fallback = False
    kind = proto.ModelProto.SentencePiece
    pieces = [piece for piece in model.pieces if piece.type != kind.BYTE]
    for number, piece in enumerate(pieces):
        if len(piece.piece) > 1 and piece.type == kind.NORMAL and number % 7 == 3:
            piece.type = kind.UNUSED
    for text in ["<sep>", "【表】", "  gap", "the"]:
        pieces = [piece for piece in pieces if piece.piece != text]
        pieces.append(kind(piece=text, score=0, type=kind.USER_DEFINED))
    del model.pieces[:]
    model.pieces.extend(pieces)
    model.normalizer_spec.remove_extra_whitespaces = True
    model.trainer_spec.vocab_size = len(pieces)
    (HERE / "odd.model").write_bytes(model.SerializeToString(deterministic=True))


# What is replaced, and by what. Some keys begin with others, one has a space, one vanishes, one becomes a space.
MAP = {"\t": " ", "\n": " ", "\u3000": " ", "\u0301": "", "e\u0301": "é", "\uff0c": ",", "\uff01": "!", "\ufb01": "fi", "\ufb00": "ff",
       "...": "…", "..": "‥", "a b": "a-b", "\u2460": "1", "\u2169": "X", "ﾊﾟ": "パ", "ﾊ": "ハ", "=====": "=", "👩\u200d👩": "👭",
       "\ufeff": ""}


def unigram(chinese, english):
    rules = HERE / "rules.tsv"
    code = lambda text: " ".join(f"{ord(c):X}" for c in text)
    rules.write_text("".join(f"{code(key)}\t{code(value)}\n" for key, value in MAP.items()))
    train("unigram", chinese + english, model_type="unigram", vocab_size=3200, character_coverage=0.998,
          normalization_rule_name="", normalization_rule_tsv=str(rules), user_defined_symbols=["<sep>", "【表】", "  gap", "the"])
    rules.unlink()
    path = HERE / "unigram.model"
    model = proto.ModelProto.FromString(path.read_bytes())
    model.normalizer_spec.name = "small map"
    model.normalizer_spec.normalization_rule_tsv = ""
    kind = proto.ModelProto.SentencePiece
    for number, piece in enumerate(model.pieces):
        if len(piece.piece) > 1 and piece.type == kind.NORMAL and number % 11 == 3:
            piece.type = kind.UNUSED
    path.write_bytes(model.SerializeToString(deterministic=True))
    mapped = proto.ModelProto.FromString((HERE / "plain.model").read_bytes())
    mapped.normalizer_spec.CopyFrom(model.normalizer_spec)
    (HERE / "mapped.model").write_bytes(mapped.SerializeToString(deterministic=True))
    train("bytes", chinese[:1500] + english, model_type="unigram", vocab_size=2400, character_coverage=0.995,
          byte_fallback=True, split_digits=True, remove_extra_whitespaces=False)


def digest_of_pieces(processor):
    digest = hashlib.sha256()
    for number in range(len(processor)):
        digest.update(processor.id_to_piece(number).encode() + b"\0" + struct.pack("<f", processor.get_score(number)))
    return digest.hexdigest()


def digest_of_ids(texts):
    digest = hashlib.sha256()
    for ids in texts:
        digest.update(struct.pack(f"<{len(ids) + 1}I", *ids, 0xFFFFFFFF))
    return digest.hexdigest()


def alp(lines):
    """`compute_alp` of VoCapXLM's train_mono_spm.py, without its files and its shuffle."""
    everything = sum(map(len, lines))
    counts = {}
    for piece in (piece for line in lines for piece in line):
        counts[piece] = counts.get(piece, 0) + 1
    return everything, sum(sum(math.log(counts[piece] / everything) for piece in line) for line in lines) / len(lines)


chinese = [line for file in sorted((HUB / "valley-zh/data").glob("*.jsonl")) for text in texts(file) for line in text.split("\n")]
english = [line for text in texts(HUB / "valley-held-out/en.jsonl") for line in text.split("\n")]
train("plain", chinese, vocab_size=2600, character_coverage=0.998)
train("llama", chinese[:1500] + english, vocab_size=2400, character_coverage=0.995, byte_fallback=True, split_digits=True,
      allow_whitespace_only_pieces=True, remove_extra_whitespaces=False)
odd()
unigram(chinese, english)

golden = {"awkward": {}, "real": {}, "sizes": []}
for name in ["plain", "llama", "odd", "unigram", "bytes", "mapped"]:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(HERE / f"{name}.model"))
    golden["awkward"][name] = [
        {"text": text, "ids": processor.encode(text), "decoded": processor.decode(processor.encode(text))} for text in TEXTS]

score = [line for text in texts(HUB / "valley-held-out/zh.jsonl") for line in text.split("\n") if line.strip()]
for size in [1700, 1800, 1900, 2200, 2600]:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(chinese), model_writer=model, model_type="bpe", normalization_rule_name="identity",
        minloglevel=2, vocab_size=size, character_coverage=0.998)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    encoded = [processor.encode(line.strip()) for line in score]
    tokens, value = alp(encoded)
    golden["sizes"].append({
        "size": size, "pieces": digest_of_pieces(processor), "ids": digest_of_ids(encoded), "tokens": tokens, "alp": value})

data = pathlib.Path(sys.argv[1])
for name in REAL_MODELS:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(data / f"tokenizers/{name}.model"))
    golden["real"][name] = {}
    for corpus in REAL_CORPORA:
        encoded = [processor.encode(text) for text in texts(data / f"{corpus}.jsonl")[:FIRST]]
        golden["real"][name][corpus] = {"tokens": sum(map(len, encoded)), "sha256": digest_of_ids(encoded)}
golden["first"] = FIRST
(HERE / "ids.json").write_text(json.dumps(golden, indent=1, ensure_ascii=True, sort_keys=True) + "\n")
