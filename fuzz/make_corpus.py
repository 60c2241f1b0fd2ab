"""Writes the seeds in fuzz/corpus: small, and all of our own making. Needs pyarrow (`make parity` has one).

    .venv-parity/bin/python fuzz/make_corpus.py
"""

import datetime
import decimal
import io
import json
import pathlib
import shutil
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq

CORPUS = pathlib.Path(__file__).parent / "corpus"


def write(target, name, content):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def jsonl():
    write("jsonl", "plain", '{"text": "plain"}\n{"id": 17, "text": "水车", "meta": {"a": [1, -0.5e+3, {}], "b": null}}\n')
    write("jsonl", "escapes", '{"text": "a\\"\\\\\\/\\b\\f\\n\\r\\t\\u4e2d\\ud83d\\ude00 and more than sixty-four bytes behind them"}\r\n')
    write("jsonl", "twice", '{"text": "once", "te\\u0078t": "twice", "x": true}\n{"text": 5, "text": "\\ud83d"}')
    write("jsonl", "space", ' { "a" : [ ] , "text" : "" , "b" : { "c" : [ [ true , false ] , "\\ud800" ] } } \n\n\ufeff{}\n[]')
    write("jsonl", "deep", '{"a": ' + "[" * 70 + "1e999" + "]" * 70 + ', "text": "t"}')


def parquet():
    rows = 12
    day = datetime.date(2024, 1, 31)
    noon = datetime.datetime(2024, 1, 31, 12, 0, 0, 123456)
    flat = pa.table({
        "text": [f"the mill {i % 3} 水车" if i % 4 else None for i in range(rows)],
        "i": pa.array(range(rows), pa.int32()),
        "f": pa.array([i / 3 for i in range(rows)], pa.float32()),
        "b": [i % 2 == 0 for i in range(rows)],
    })
    nested = pa.table({
        "list": pa.array([[1, None], [], None, [2]] * 3, pa.list_(pa.int64())),
        "struct": pa.array([{"a": "x", "b": [True]}, None, {"a": None, "b": None}] * 4),
        "map": pa.array([[("k", 1)], [], None, [("l", None), ("m", 2)]] * 3, pa.map_(pa.string(), pa.int32())),
        "deep": pa.array([[[["a"], []], None], [], None] * 4, pa.list_(pa.list_(pa.list_(pa.string())))),
    })
    types = pa.table({
        "u8": pa.array([0, 255], pa.uint8()),
        "u64": pa.array([0, 2**64 - 1], pa.uint64()),
        "half": pa.array([0.5, float("nan")], pa.float16()),
        "double": [1e16, float("-inf")],
        "decimal": pa.array([decimal.Decimal("-1.50"), None], pa.decimal128(9, 2)),
        "wide": pa.array([decimal.Decimal(10) ** 40, None], pa.decimal256(50, 3)),
        "date": [day, None],
        "time": pa.array([1, 3_600_000_000], pa.time64("us")),
        "ms": pa.array([1, 2], pa.time32("ms")),
        "stamp": pa.array([noon, None], pa.timestamp("ns")),
        "zoned": pa.array([noon, None], pa.timestamp("us", "UTC")),
        "binary": [b"ab", b"\xff"],
        "fixed": pa.array([b"abcd", b"efgh"], pa.binary(4)),
        "null": pa.nulls(2),
    })

    def save(name, table, **options):
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, store_schema=False, **options)
        write("parquet", name, sink.getvalue().to_pybytes())

    for codec in ["none", "snappy", "gzip", "brotli", "lz4", "zstd"]:
        save(f"flat-{codec}", flat.select(["text", "i"]), compression=codec)
    save("flat-v2", flat, compression="snappy", data_page_version="2.0", write_statistics=False)
    save("flat-crc", flat.select(["text", "f"]), compression="zstd", write_page_checksum=True)
    save("flat-pages", flat, compression="none", data_page_size=1, row_group_size=5, use_dictionary=False,
         write_statistics=False, write_batch_size=2)
    save("nested-v1", nested, compression="none", write_statistics=False)
    save("nested-v2", nested, compression="zstd", data_page_version="2.0", write_statistics=False)
    save("types", types, compression="none", write_statistics=False)
    save("empty", flat.slice(0, 0))
    for encoding in ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"]:
        save(encoding.lower(), flat.select(["text"]), use_dictionary=False, column_encoding=encoding, compression="none")
    save("delta_binary_packed", flat.select(["i"]), use_dictionary=False, column_encoding="DELTA_BINARY_PACKED",
         compression="none")
    save("byte_stream_split", flat.select(["f"]), use_dictionary=False, column_encoding="BYTE_STREAM_SPLIT",
         compression="none")


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number, content):
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def tokenizer_model():
    space = "\u2581"
    merges = f"\n1a\n1b\n1c\n1{space}\n2ab\n3bc\n4{space}a\n4abc\n3aa\n4aaa\n9水\n9车\n8水车\n"
    text = "\nabc aaa  水车 bcab\taaaa é"
    for name, options in [("plain", ""), ("bytes", "b"), ("squeezed", "be"), ("raw", "bdn"), ("suffix", "s")]:
        write("tokenizer_model", name, options + merges + text)
    write("tokenizer_model", "user-defined", f"b{merges}u0aab\nu0{space}{space}\nc0<s>\n" + text)
    write("tokenizer_model", "unused", "b" + merges.replace("2ab", "x2ab") + "x1aaaa\n" + text)
    pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("a", 1), ("b", 1), ("ab", 1), (space, 1), ("<x>", 4)]
    score = b"\x15\x00\x00\x80\xbf"
    model = b"".join(field(1, field(1, text.encode()) + score + field(3, kind)) for text, kind in pieces)
    model += field(2, field(3, 2) + field(4, len(pieces)))
    model += field(3, field(1, b"identity") + field(3, 1) + field(4, 0) + field(5, 1))
    write("tokenizer_model", "proto", model + field(4, b"ab <x>ba"))
    write("tokenizer_model", "unigram", model.replace(field(2, field(3, 2) + field(4, 8)), field(2, field(3, 1))))


def tokenizer_json():
    added = [{"id": 0, "content": "<unk>", "single_word": False, "lstrip": False, "rstrip": True, "normalized": False,
              "special": True},
             {"id": 7, "content": "<s>", "single_word": True, "lstrip": True, "rstrip": False, "normalized": True,
              "special": False}]
    bpe = {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
           "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
           "vocab": {"<unk>": 0, "a": 1, "b": 2, "ab": 3, "\u2581": 4, "<0x0A>": 5, "\u0120a": 6}, "merges": ["a b"]}
    pairs = bpe | {"merges": [["a", "b"]], "unk_token": "<unk>", "byte_fallback": False}
    piece = {"type": "WordPiece", "unk_token": "<unk>", "continuing_subword_prefix": "##",
             "max_input_chars_per_word": 100, "vocab": {"<unk>": 0, "the": 1, "##m": 2, "m": 3, "##ill": 4}}
    word = {"type": "WordLevel", "vocab": {"<unk>": 0, "mill": 1}, "unk_token": "<unk>"}
    unigram = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["\u2581", -1.0], ["a", -2.5], ["mill", -3]],
               "byte_fallback": False}

    def save(name, model, normalizer=None, pre=None, post=None, decoder=None, **more):
        write("tokenizer_json", name, json.dumps({
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": normalizer,
            "pre_tokenizer": pre, "post_processor": post, "decoder": decoder, "model": model} | more))

    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    save("llama", bpe, {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, replace]},
         decoder={"type": "Sequence", "decoders": [
             {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"},
             {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})
    split = {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}|[^\\s]+|\\s+(?!\\S)"}, "behavior": "Isolated",
             "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    save("byte-level", pairs, {"type": "NFC"}, {"type": "Sequence", "pretokenizers": [split, level]}, level, level)
    save("bert", piece, {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                         "strip_accents": None, "lowercase": True}, {"type": "BertPreTokenizer"},
         {"type": "BertProcessing", "sep": ["the", 1], "cls": ["m", 3]},
         {"type": "WordPiece", "prefix": "##", "cleanup": True})
    save("words", word, {"type": "Lowercase"}, {"type": "Whitespace"}, {"type": "TemplateProcessing",
         "single": [{"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}},
         {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {}})
    save("unigram", unigram, {"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAAAAAA=="},
         {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True},
         decoder={"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True},
         truncation={"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 1},
         padding={"strategy": {"Fixed": 5}, "direction": "Left", "pad_to_multiple_of": 8, "pad_id": 0,
                  "pad_type_id": 0, "pad_token": "<unk>"})


def hub():
    git, lfs = "ab" * 20, "CD" * 32
    write("hub", "revision", json.dumps({"id": "cmx/valley", "sha": git, "private": False}))
    write("hub", "tree", json.dumps([
        {"type": "directory", "oid": git, "size": 0, "path": "data"},
        {"type": "file", "oid": git, "size": 7, "path": "data/a.jsonl"},
        {"type": "file", "oid": git, "size": 134, "path": "b", "lfs": {"oid": lfs, "size": 9, "pointerSize": 134}}]))
    write("hub", "link", '<https://h/api/x?cursor=a%3D%3D&x=1>; rel="next", <https://h/3>; rel=prev')
    write("hub", "listing", '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/'
          'doc/2006-03-01/"><Name>b</Name><KeyCount>1</KeyCount><IsTruncated>true</IsTruncated><EncodingType>url'
          '</EncodingType><NextContinuationToken>t/1=</NextContinuationToken><Contents><Key>data/a%2Bb+c</Key>'
          '<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;0a&quot;</ETag><Size>12</Size>'
          '<StorageClass>STANDARD</StorageClass></Contents></ListBucketResult>')
    write("hub", "error", "<Error><Code>SignatureDoesNotMatch</Code><Message>no</Message></Error>")
    write("hub", "address", "https://me:secret@h.org/a/b%20c.jsonl?token=x#y")
    write("hub", "bucket", "s3://my-bucket/data/a.jsonl")
    write("hub", "name", "data/a.jsonl")


def header(tensors):
    """The JSON of a safetensors header: name → type and shape."""
    fields, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, *shape) in tensors.items():
        size = {"F32": 4, "BF16": 2, "F16": 2, "U8": 1}[dtype]
        for length in shape:
            size *= length
        fields[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    return json.dumps(fields)


def safetensors():
    write("safetensors", "header", header({"a": ("F32", 2, 3), "b": ("BF16", 5), "c": ("U8", 0), "d": ("F16",)}))
    text = header({"w": ("F32", 2)}).encode()
    write("safetensors", "whole", len(text).to_bytes(8, "little") + text + bytes(range(8)))
    layer = "model.layers.0.mlp"
    write("safetensors", "stacked", header({
        f"{layer}.experts.gate_up_proj": ("BF16", 2, 4, 3), f"{layer}.experts.down_proj": ("F32", 2, 3, 2),
        f"{layer}.gate.weight": ("F32", 2, 3)}))
    write("safetensors", "index", json.dumps({"metadata": {"total_size": 8}, "weight_map": {"w": "model-1.safetensors"}}))


def torch():
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    storage = b"((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x10tQ"
    hooks = b"\x89ccollections\nOrderedDict\n)RtR"
    plain = b"\x80\x02}q\0X\x01\0\0\0wq\1" + rebuild + storage + b"K\2K\2K\3\x86K\3K\1\x86" + hooks + b"s."
    write("torch", "pickle", plain)
    parameter = b"ctorch._utils\n_rebuild_parameter\n" + rebuild + storage + b"K\0K\4\x85K\1\x85" + hooks
    write("torch", "pickle-ordered", b"\x80\x02ccollections\nOrderedDict\n)R(X\x01\0\0\0w" + parameter
          + b"\x88ccollections\nOrderedDict\n)R\x87RX\x01\0\0\0v" + rebuild + storage
          + b"J\1\0\0\0)M\1\0\x85" + hooks + b"u}b.")
    write("torch", "pickle-4", b"\x80\x04\x95\0\0\0\0\0\0\0\0}\x94(\x8c\x01w\x94\x8c\x0ctorch._utils\x94\x8c\x12"
          b"_rebuild_tensor_v2\x94\x93\x94" + storage + b"K\0K\1\x85\x8a\1\1\x85" + hooks + b"u.")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in [("data.pkl", plain), ("byteorder", b"little"), ("data/0", bytes(range(64))), ("version", b"3\n")]:
            archive.writestr(zipfile.ZipInfo(f"a/{name}"), content)
    write("torch", "whole", file.getvalue())


def adapter():
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "lora_dropout": 0.05, "bias": "none",
        "target_modules": ["q_proj", "w1"], "modules_to_save": ["lm_head"], "fan_in_fan_out": False,
        "rank_pattern": {"w1": 3}, "alpha_pattern": {"layers.0.self_attn.q_proj": 1.5}, "use_rslora": False}
    q = "base_model.model.model.layers.0.self_attn.q_proj"
    w1 = "base_model.model.model.layers.0.block_sparse_moe.experts.0.w1"

    def save(name, tensors, **changes):
        write("adapter", name, json.dumps(config | changes) + "\0" + header(tensors))

    save("plain", {f"{q}.lora_A.weight": ("F32", 2, 4), f"{q}.lora_B.weight": ("F32", 4, 2),
                   f"{w1}.lora_A.weight": ("BF16", 3, 4), f"{w1}.lora_B.weight": ("BF16", 6, 3),
                   "base_model.model.lm_head.weight": ("F16", 5, 4)})
    save("raw", {f"{q}.lora_A.default.weight": ("F16", 2, 4), f"{q}.lora_B.default.weight": ("F16", 4, 2),
                 "base_model.model.model.embed_tokens.modules_to_save.default.weight": ("F32", 5, 4)},
         use_rslora=True, rank_pattern={}, target_modules="all-linear", modules_to_save=None)
    save("vocabulary", {"base_model.model.lm_head.weight": ("F32", 6, 4)})


def quant_state():
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [5, 30]}
    nested = {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.0123}
    write("quant_state", "plain", "75u 3 16 - -\n" + json.dumps(state))
    write("quant_state", "nested", "75u 3u 16 1 256\n" + json.dumps(state | nested))
    write("quant_state", "small", "1u 1 16\n" + json.dumps(state | {"blocksize": 4096, "shape": [1, 1], "dtype": "float32"}))


if __name__ == "__main__":
    shutil.rmtree(CORPUS, ignore_errors=True)
    jsonl()
    parquet()
    tokenizer_model()
    tokenizer_json()
    hub()
    safetensors()
    torch()
    adapter()
    quant_state()
