//! Documents and token blocks: JSONL, Parquet, HF-datasets Arrow folders, splitting, mixing.
