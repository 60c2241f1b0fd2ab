"""Parquet files as JSON lines, by pyarrow: what `parquet2jsonl` has to write, byte for byte.

    parquet_as_json.py FILE...

Prints for each file its name, the number of its rows and the SHA-256 of its JSON lines, or what is wrong with it.
"""

import datetime
import decimal
import hashlib
import json
import math
import pathlib
import sys

import pandas
import pyarrow.parquet


def plain(value):
    """A value of `to_pylist` as `json.dumps` takes it, in the forms that src/corpus/columns.rs states."""
    if isinstance(value, dict):
        return {key: plain(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, decimal.Decimal):
        return f"{value:f}"
    if isinstance(value, (datetime.date, datetime.time, datetime.datetime, pandas.Timestamp)):
        return value.isoformat()
    return value


for path in map(pathlib.Path, sys.argv[1:]):
    try:
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            rows, digest = 0, hashlib.sha256()
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    digest.update(json.dumps(plain(row), ensure_ascii=False).encode() + b"\n")
                    rows += 1
        print(path.name, rows, digest.hexdigest())
    except Exception as error:
        print(path.name, "fails:", str(error).splitlines()[0])
