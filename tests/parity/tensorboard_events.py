"""Holds the TensorBoard events that `train` writes against `metrics.jsonl` beside them, as TensorBoard itself reads them.

Needs tensorboard 2.21.0:
    python tests/parity/tensorboard_events.py outputs/train…
"""

import json
import struct
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import STORE_EVERYTHING_SIZE_GUIDANCE, EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader


def float32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def expected(folder):
    """{tag: [(step, value)]} of metrics.jsonl; events hold float32."""
    series = {}

    def add(tag, step, value):
        series.setdefault(tag, []).append((step, float32(value)))

    for line in (folder / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        for name, value in record.items():
            if name != "step" and isinstance(value, (int, float)):
                add(f"train/{name}", record["step"], value)
        for group in ["validation", "bits_per_byte"]:
            for name, value in record.get(group, {}).items():
                add(f"{group}/{name}", record["step"], value)
    return series


def check(folder):
    # Every frame with its checksums, in order: the loader stops at a damaged one.
    [file] = (folder / "tensorboard").iterdir()
    records = (folder / "metrics.jsonl").read_text().splitlines()
    events = list(EventFileLoader(str(file)).Load())
    assert len(events) == len(records) + 1, f"{len(events)} events for {len(records)} records"
    assert events[0].file_version == "brain.Event:2"
    board = EventAccumulator(str(folder / "tensorboard"), size_guidance=STORE_EVERYTHING_SIZE_GUIDANCE)
    board.Reload()
    series = expected(folder)
    tags = board.Tags()["scalars"]
    assert sorted(tags) == sorted(series), f"{sorted(tags)} but {sorted(series)}"
    for tag in tags:
        shown = [(event.step, event.value) for event in board.Scalars(tag)]
        assert shown == series[tag], f"{tag} differs"
    points = sum(map(len, series.values()))
    print(f"{folder}: {len(tags)} curves of {points} points in all, as in metrics.jsonl")


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        check(Path(folder))
