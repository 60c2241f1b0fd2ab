"""The merged tokenizer is the same everywhere: SentencePiece, transformers' slow and fast tokenizers, `tokenizers`, cmx.

    python tests/parity/merged_tokenizer.py CMX DATA [--documents N] [--processes N]

cmx extends Mixtral's 32,000 pieces by 25,000 (`vocab-search`, on the Chinese books, laws and articles of DATA), appends
the two tokens of a dialogue (`add-tokens`), and encodes all documents of DATA (`encode`). Then

- every document has the same ids under all five, with the 57,000 and with the 57,002, but for the texts that `KNOWN` tells
  of, which are counted; and comes back from them;
- English documents have the ids that Mixtral's own tokenizer gives, but for the few that quote Chinese words, which have them
  without these; ids below 32,000 keep piece, score and kind; the new
  scores are distinct and below all others;
- dialogues have one id for each of their tokens and no space with it, and `apply_chat_template` gives what cmx trains on;
- with `scores = "zero"`, as published, all are 0, and it is counted how often slow and fast part.

All documents take a while: the slow tokenizer is slow. `--documents` takes the first N of each file.
"""
import argparse
import json
import multiprocessing
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time

import datasets
import sentencepiece
import tokenizers
import transformers
from sentencepiece import sentencepiece_model_pb2 as proto

transformers.logging.set_verbosity_error()
BASE, ADD, LENGTH = 32_000, 25_000, 2048
BEGIN, END = "<|beginofutterance|>", "<|endofutterance|>"
# For SentencePiece these are text, and transformers finds them as tokens.
CONTROL = ["<unk>", "<s>", "</s>"]
# Chinese characters, CJK punctuation and full-width forms.
CHINESE = re.compile("[\u2e80-\u2fdf\u3000-\u303f\u3400-\u9fff\uf900-\ufaff\uff01-\uff60\U00020000-\U0003ffff]+")
KNOWN = {
    "name": "with a control token's name, which is a token for transformers and text for SentencePiece and cmx",
    "space": "that begin with a space, of which the slow tokenizer with legacy = true drops one when it decodes",
}

PIPELINE = """
name = "merged"
[stage.vocab]
use = "vocab-search"
base = "mixtral/tokenizer.model"
train = ["books.jsonl", "laws.jsonl", "articles.jsonl"]
score = ["qa.jsonl"]
single_characters = [6414]
sizes = [25000]
add = 25000
[stage.chat]
use = "add-tokens"
tokenizer = "@vocab"
tokens = ["<|beginofutterance|>", "<|endofutterance|>"]
chat_template = "huozi3.jinja"
[stage.zero]
use = "vocab-search"
base = "mixtral/tokenizer.model"
train = ["books.jsonl", "laws.jsonl", "articles.jsonl"]
score = ["qa.jsonl"]
single_characters = [6414]
sizes = [25000]
add = 25000
scores = "zero"
[stage.encode-vocab]
use = "encode"
dataset = "all"
tokenizer = "@vocab"
[stage.encode-chat]
use = "encode"
dataset = "talk"
tokenizer = "@chat"
"""


def lines(path):
    """A line ends at \\n and nothing else."""
    return [line for line in path.read_bytes().decode().split("\n") if line]


def documents(data, limit):
    """Corpus → texts."""
    found = {}
    for path in sorted([*data.glob("zh/*.jsonl"), *data.glob("en/*.jsonl")]):
        found[f"{path.parent.name}/{path.stem}"] = [json.loads(line)["text"] for line in lines(path)][:limit]
    for path in sorted(data.glob("eval/**/*")):
        if path.suffix == ".csv":
            text = [path.read_bytes().decode()]
        elif path.suffix == ".jsonl":
            text = lines(path)
        else:
            continue
        name = f"eval/{path.relative_to(data / 'eval').parts[0]}"
        found.setdefault(name, []).extend(text)
    return {name: texts[:limit] if limit else texts for name, texts in found.items()}


def dialogues(data, limit):
    """Messages made of pairs of documents; what matters are the borders."""
    texts = [json.loads(line)["text"] for line in lines(data / "zh/instructions.jsonl")][:limit or 2000]
    texts += ["", " ", "\n", " 空格在前", "空格在后 ", "two  spaces", "<s>", "a</s>b"]
    for first, second in zip(texts[::2], texts[1::2]):
        yield [{"role": "system", "content": "你是助手。"}, {"role": "user", "content": first}, {"role": "assistant", "content": second}]


def as_text(messages):
    names = {"system": "系统", "user": "用户", "assistant": "助手"}
    return "".join(f"{BEGIN}{names[message['role']]}\n{message['content']}{END}\n" for message in messages)


def write_dataset(folder, name, texts):
    """Its last document fills a block, so that none of the others is cut."""
    root = folder / "data" / name
    root.mkdir(parents=True)
    with open(root / f"{name}-train.jsonl", "w", newline="\n") as file:
        for text in [*texts, "x " * LENGTH]:
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    (root / f"{name}-dev.jsonl").write_text(json.dumps({"text": "x " * LENGTH}) + "\n")


def encoded(folder, count):
    """The ids of each document that `encode` has put into blocks: `<s>` document `</s>`, one behind the other."""
    stream = []
    for block in datasets.load_from_disk(str(folder)).with_format("numpy").iter(batch_size=1000):
        stream.extend(block["input_ids"].reshape(-1).tolist())
    found, start = [], 0
    while len(found) < count:
        assert stream[start] == 1
        end = stream.index(2, start)
        found.append(stream[start + 1:end])
        start = end + 1
    return found


class Programs:
    """The four that read a folder's files."""

    def __init__(self, folder):
        self.sentencepiece = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/tokenizer.model")
        self.slow = transformers.AutoTokenizer.from_pretrained(folder, use_fast=False)
        self.fast = transformers.AutoTokenizer.from_pretrained(folder, use_fast=True)
        self.library = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
        assert type(self.slow).__name__ == "LlamaTokenizer" and type(self.fast).__name__ == "LlamaTokenizerFast"

    def encode(self, text):
        return {
            "sentencepiece": self.sentencepiece.encode(text),
            "slow": self.slow.encode(text, add_special_tokens=False),
            "fast": self.fast.encode(text, add_special_tokens=False),
            "tokenizers": self.library.encode(text, add_special_tokens=False).ids,
        }

    def decode(self, ids):
        return {
            "sentencepiece": self.sentencepiece.decode(ids["sentencepiece"]),
            "slow": self.slow.decode(ids["slow"]),
            "fast": self.fast.decode(ids["fast"]),
            "tokenizers": self.library.decode(ids["tokenizers"], skip_special_tokens=False),
        }


programs = None


def start(folder):
    global programs
    programs = Programs(folder)


def judge(task):
    """What of a text is not as it should be, what of `KNOWN` holds for it, and how many tokens it has."""
    text, ours = task
    ids = programs.encode(text)
    reference, faults = ids["sentencepiece"], []
    if ours is not None and ours != reference:
        faults.append("cmx and sentencepiece part")
    named = any(name in text for name in CONTROL)
    for name in ["slow", "fast", "tokenizers"]:
        if ids[name] != (ids["slow"] if named else reference):
            faults.append(f"{name} and {'slow' if named else 'sentencepiece'} part")
    # The mark of a space is a space.
    wanted = text.replace("\u2581", " ")
    drops = programs.slow.legacy and wanted.startswith(" ")
    for name, back in programs.decode(ids).items():
        if back != (wanted[1:] if name == "slow" and drops else wanted):
            faults.append(f"{name} does not give the text back")
    return faults, {"name": named, "space": drops}, len(reference)


def part(text):
    """Whether slow and fast have different ids, and how many."""
    slow, fast = (tokenizer.encode(text, add_special_tokens=False) for tokenizer in (programs.slow, programs.fast))
    return slow != fast, len(slow), len(fast)


def pool(folder, processes):
    return multiprocessing.get_context("spawn").Pool(processes, start, (str(folder),))


def compare(folder, corpora, ours, processes):
    failures, known = [], dict.fromkeys(KNOWN, 0)
    began = time.monotonic()
    with pool(folder, processes) as workers:
        for name, texts in corpora.items():
            results = workers.imap(judge, zip(texts, ours[name]), chunksize=8)
            tokens = 0
            for number, (faults, holds, count) in enumerate(results):
                tokens += count
                for what in KNOWN:
                    known[what] += holds[what]
                if faults:
                    failures.append(f"{name}, document {number}: {'; '.join(faults)}")
            print(f"  {name}: {len(texts):,} documents, {tokens:,} tokens", flush=True)
    for what, count in known.items():
        print(f"  {count} documents {KNOWN[what]}")
    print(f"  {len(failures)} others part; {time.monotonic() - began:.0f} s", flush=True)
    assert not failures, "\n".join(failures[:20])


def check_pieces(base, merged, scores):
    before, after = (proto.ModelProto.FromString((path / "tokenizer.model").read_bytes()) for path in (base, merged))
    assert len(before.pieces) == BASE and len(after.pieces) == BASE + ADD, len(after.pieces)
    assert list(before.pieces) == list(after.pieces)[:BASE]
    assert before.normalizer_spec == after.normalizer_spec and before.trainer_spec == after.trainer_spec
    new = [piece.score for piece in after.pieces[BASE:]]
    if scores == "zero":
        assert set(new) == {0.0}
    else:
        assert new == sorted(set(new), reverse=True) and max(new) < min(piece.score for piece in before.pieces)
    assert len({piece.piece for piece in after.pieces}) == BASE + ADD


def check_english(base, merged, corpora):
    old, new = (sentencepiece.SentencePieceProcessor(model_file=f"{folder}/tokenizer.model") for folder in (base, merged))
    same = 0
    for name, texts in corpora.items():
        for number, (text, ours) in enumerate(texts):
            if old.encode(text) == ours:
                same += 1
                continue
            words = CHINESE.findall(text)
            assert words, f"{name}: the ids of document {number} changed"
            without = CHINESE.sub("", text)
            assert old.encode(without) == new.encode(without), f"{name}: the ids of document {number} changed around {words}"
            print(f"{name}, document {number} quotes {' '.join(words)}, and is the same without")
    print(f"{same:,} English documents have the ids of the base")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("cmx", type=pathlib.Path)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--documents", type=int, metavar="N")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), metavar="N")
    arguments = parser.parse_args()
    data, limit = arguments.data, arguments.documents
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        corpora = documents(data, limit)
        talks = list(dialogues(data, limit))
        talk_texts = [as_text(talk) for talk in talks]
        for name in ["books", "laws", "articles", "qa"]:
            shutil.copyfile(data / f"zh/{name}.jsonl", folder / f"{name}.jsonl")
        (folder / "mixtral").mkdir()
        shutil.copyfile(data / "tokenizers/mixtral-8x7b-v0.1.tokenizer.model", folder / "mixtral/tokenizer.model")
        shutil.copyfile("pipelines/huozi3.jinja", folder / "huozi3.jinja")
        (folder / "datasets.toml").write_text("[all]\n[talk]\n")
        (folder / "merged.toml").write_text(PIPELINE)
        write_dataset(folder, "all", [text for texts in corpora.values() for text in texts])
        write_dataset(folder, "talk", talk_texts)
        began = time.monotonic()
        subprocess.run([arguments.cmx.resolve(), "run", "merged.toml"], cwd=folder, check=True)
        print(f"cmx: {time.monotonic() - began:.0f} s")
        base, vocab, chat, zero = (folder / name for name in ["mixtral", "outputs/vocab", "outputs/chat", "outputs/zero"])
        check_pieces(base, vocab, "distinct")
        check_pieces(base, zero, "zero")
        print("ids below 32,000 are unchanged; 25,000 scores are distinct and below all of them; as published, all are 0")

        stream = encoded(folder / "outputs/encode-vocab/encoded-all-train", sum(map(len, corpora.values())))
        ours, at = {}, 0
        for name, texts in corpora.items():
            ours[name] = stream[at:at + len(texts)]
            at += len(texts)
        check_english(base, vocab, {name: zip(corpora[name], ours[name]) for name in corpora if name.startswith("en/")})

        print("57,000 pieces:")
        compare(vocab, corpora, ours, arguments.processes)
        print("57,002 pieces:")
        compare(chat, corpora, ours, arguments.processes)
        check_dialogues(chat, talks, talk_texts, encoded(folder / "outputs/encode-chat/encoded-talk-train", len(talks)))

        chinese = [text for name, texts in corpora.items() if name.startswith("zh/") for text in texts]
        with pool(zero, arguments.processes) as workers:
            results = workers.map(part, chinese, chunksize=8)
        parted = sum(differs for differs, _, _ in results)
        slow, fast = (sum(result[which] for result in results) for which in (1, 2))
        print(f'scores = "zero": slow and fast part on {parted:,} of {len(chinese):,} Chinese documents; {slow:,} and {fast:,} tokens')
        assert parted > 0, "ties were resolved in the same way: docs/formats.md says that they are not"


def check_dialogues(folder, talks, texts, ours):
    """Here SentencePiece alone puts its dummy prefix before the first token."""
    programs = Programs(str(folder))
    begin, end = (programs.slow.convert_tokens_to_ids(token) for token in (BEGIN, END))
    assert (begin, end) == (BASE + ADD, BASE + ADD + 1)
    space = programs.sentencepiece.piece_to_id("\u2581")
    plain = 0
    for talk, text, mine in zip(talks, texts, ours):
        ids = programs.encode(text)
        assert ids["sentencepiece"] == [space, *mine], text
        assert mine.count(begin) == mine.count(end) == 3, text
        templated = [tokenizer.apply_chat_template(talk) for tokenizer in (programs.slow, programs.fast)]
        if any(name in text for name in CONTROL):
            assert ids["slow"] == ids["fast"] == ids["tokenizers"], text
        else:
            plain += 1
            assert all(ids[name] == mine for name in ["slow", "fast", "tokenizers"]), text
            assert all(own == [1, *mine] for own in templated), text
        # With <s>, as it is trained on: the slow tokenizer puts a space behind a special token that comes first of all.
        backs = {tokenizer.decode([1, *ids["slow"]]) for tokenizer in (programs.slow, programs.fast)}
        backs.add(programs.library.decode([1, *ids["slow"]], skip_special_tokens=False))
        assert backs == {f"<s>{text}"} and programs.sentencepiece.decode(mine) == text, (text, backs)
        # Nothing comes between a token and what stands beside it.
        pieces = programs.slow.convert_ids_to_tokens(mine)
        after = [pieces[at + 1] for at, piece in enumerate(pieces) if piece == END]
        assert all(piece == "<0x0A>" for piece in after), text
        prompt = programs.fast.apply_chat_template(talk[:2], tokenize=False, add_generation_prompt=True)
        assert prompt == f"<s>{as_text(talk[:2])}{BEGIN}助手\n", prompt
    print(f"{len(talks)} dialogues: one id a token, no space with it; {plain} are the same everywhere, and as templated")


if __name__ == "__main__":
    main()
