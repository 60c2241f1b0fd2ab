"""Writes the small evaluation sets under tests/golden/evaluation: each odd habit of the real files, in a few rows.

Standard library only. Run from the root of the repository.
"""
import json
import pathlib

ROOT = pathlib.Path("tests/golden/evaluation")


def write(path, text):
    path = ROOT / path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8"))


# C-Eval: id, explanation in dev only, CRLF, a question over two lines, spaces around a question.
dev = ["id,question,A,B,C,D,answer,explanation"]
dev += [f"{i},第{i}题：1+{i}=____。,{i},{i + 1},{i + 2},{i + 3},B,1加{i}等于{i + 1}" for i in range(6)]
write("ceval/dev/logic_dev.csv", "\r\n".join(dev) + "\r\n")
val = "\ufeffid,question,A,B,C,D,answer\r\n"
val += '0,"  若 ""甲"" 则乙。\n由此可知____ ",甲,"乙, 或丙",丙 , 丁,C\r\n'
val += "1,下列属于质数的是____。,4,6,7,9,C\n"
write("ceval/val/logic_val.csv", val)

# CMMLU: an unnamed first column, capitals.
dev = [",Question,A,B,C,D,Answer"] + [f"{i},问题{i},甲{i},乙{i},丙{i},丁{i},{'ABCD'[i % 4]}" for i in range(5)]
write("cmmlu/dev/arts.csv", "\n".join(dev) + "\n")
write("cmmlu/test/arts.csv", ",Question,A,B,C,D,Answer\n0,水墨画起源于,中国,日本,印度,朝鲜,A\n")

# MMLU: no header, quoted options, two subjects of two groups.
for subject in ["us_foreign_policy", "astronomy"]:
    rows = [f'"Question {i} on {subject}?",w{i},"x, {i}",y{i},z{i},{"DCBA"[i % 4]}' for i in range(5)]
    write(f"mmlu/dev/{subject}_dev.csv", "\n".join(rows) + "\n")
    write(f"mmlu/test/{subject}_test.csv", f'" Which is it?\nSay so. ",0,1,None,"a ""b""",D\nLast {subject},1,2,3,4,A')

# HellaSwag: both halves of it, and more training items than the sampler keeps in a pool.
train = []
for i in range(90):
    train.append(
        {
            "ind": i,
            "activity_label": f"Activity {i}",
            "ctx_a": f"Someone begins step {i}.",
            "ctx_b": "then THEY" if i % 2 else "",
            "ctx": "",
            "split": "train",
            "endings": [f"go on {i}.", f"stop {i}.", f"look [at] it {i}.", f"leave [title] Return {i}."],
            "label": str(i % 4),
        }
    )
val = [dict(train[i], split="val") for i in (3, 4)]
val += [
    {
        "ind": 7,
        "activity_label": "Home and Garden",
        "ctx_a": "[header] How to water a plant [title] Fill a can. [step] Use  cold water.",
        "ctx_b": "",
        "ctx": "",
        "split": "val",
        "endings": ["[substeps] Pour it. ", "Drink it.", "Sell it.", "Heat it."],
        "label": "0",
    }
]
# The sampler drops an example that equals the document: some items stand in both splits.
val += train[40:80]
for name, rows in [("train", train), ("validation", val)]:
    write(f"hellaswag/{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
