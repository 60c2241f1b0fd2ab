# make quickstart   builds cmx and runs the example pipeline, offline
# make test         formatter, linter, all tests; needs no Python
# make lint         formatter and linter alone
# make bench        the benchmarks of benches/
# make parity       comparisons with the Python programs whose formats cmx reads and writes
# make fuzz         arbitrary bytes for all that reads what strangers wrote, FUZZ_SECONDS for each target

# rustup's programs are found also by a shell that was open when Rust was installed.
export PATH := $(PATH):$(HOME)/.cargo/bin

PYTHON ?= python3
VENV   := .venv-parity
# The oldest `datasets` that is compared with needs a pyarrow of its time.
VENV_2 := .venv-parity-datasets-2
# transformers 5, whose model folders have other names of tensors.
VENV_5 := .venv-parity-transformers-5
PEERS  := target/peers
CMX    := target/release/cmx
GRADIENTS := target/release/examples/gradients
# Corpora and tokenizers for the comparisons that need real ones; without the folder they are left out.
SHARED ?= ../shared/data
# How many documents of each file `make parity` encodes with the slow tokenizers of transformers; all when empty.
DOCUMENTS ?=
# A release is fuzzed with FUZZ_SECONDS=600.
FUZZ_SECONDS ?= 30
FUZZ_TARGETS := jsonl parquet tokenizer_model tokenizer_json hub safetensors torch adapter quant_state

.PHONY: quickstart build test lint bench parity fuzz tools linters fuzzer cmake

quickstart: build
	./$(CMX) run pipelines/quickstart.toml

build: tools
	cargo build --release

test: lint
	cargo test --release

lint: tools linters
	cargo fmt --check
	cargo clippy --release --all-targets -- -D warnings

# benches/NAME.rs is ours, NAME.py the peer's side; what they compare with comes from crates.io and PyPI.
bench: build $(PEERS)/bin/b3sum $(VENV)/installed
	cargo bench --bench hashing -- $(PEERS)/bin/b3sum
	$(PYTHON) benches/noop.py $(CMX)
	@if [ -d "$(SHARED)/zh" ]; then set -x; $(PYTHON) benches/data_plane.py --cmx $(CMX) --data $(SHARED) && \
		$(PYTHON) benches/vocabulary.py --cmx $(CMX) --data $(SHARED); \
	else echo "data_plane.py and vocabulary.py are left out: there is no $(SHARED)/zh"; fi
	cargo bench --bench training
	$(VENV)/bin/python benches/training.py
	$(VENV)/bin/python benches/weights.py --cmx $(CMX) merge
	@if [ -d "$(SHARED)/tokenizers" ]; then set -x; $(VENV)/bin/python benches/weights.py --cmx $(CMX) --data $(SHARED) expand; \
	else echo "weights.py expand is left out: there is no $(SHARED)/tokenizers"; fi

$(PEERS)/bin/b3sum:
	cargo install --quiet --root $(PEERS) b3sum

parity: quickstart $(VENV)/installed $(VENV_2)/installed $(VENV_5)/installed cmake
	cargo test --release --features parity --test sentencepiece_live
	CMX_PYTHON="$(CURDIR)/$(VENV)/bin/python" CMX_PYTHON_DATASETS_2="$(CURDIR)/$(VENV_2)/bin/python" \
		cargo test --release -- --ignored
	$(VENV)/bin/python tests/parity/transformers_logits.py $(CMX) outputs/merge
	cargo build --release --example gradients
	$(VENV)/bin/python tests/parity/gradients.py $(GRADIENTS)
	$(VENV_5)/bin/python tests/parity/gradients.py $(GRADIENTS)
	$(VENV)/bin/python tests/parity/peft_training.py $(CMX) $(GRADIENTS)
	$(VENV)/bin/python tests/parity/peft_adapter.py $(CMX) outputs/expand outputs/train outputs/merge
	$(VENV)/bin/python tests/parity/peft_merge.py $(CMX)
	$(VENV)/bin/python tests/parity/tensorboard_events.py outputs/base outputs/train
	$(VENV)/bin/python tests/parity/bitsandbytes_nf4.py $(CMX) outputs/merge
	@if [ -d "$(SHARED)/tokenizers" ]; then set -x; \
		$(VENV)/bin/python tests/parity/expand_means.py $(CMX) \
			$(SHARED)/tokenizers/llama-32000.model $(SHARED)/tokenizers/ymcui-chinese-llama2-55296.model && \
		$(VENV)/bin/python tests/parity/torch_files.py $(CMX) \
			$(SHARED)/tokenizers/llama-32000.model $(SHARED)/tokenizers/ymcui-chinese-llama2-55296.model $(VENV_5)/bin/python; \
	else echo "expand_means.py and torch_files.py are left out: there is no $(SHARED)/tokenizers"; fi
	@if [ -d "$(SHARED)/zh" ]; then set -x; \
		$(VENV)/bin/python tests/parity/vocabularies.py $(CMX) $(SHARED) && \
		$(VENV)/bin/python tests/parity/merged_tokenizer.py $(CMX) $(SHARED) $(if $(DOCUMENTS),--documents $(DOCUMENTS)); \
	else echo "vocabularies.py and merged_tokenizer.py are left out: there is no $(SHARED)/zh"; fi

# What a run finds new goes to fuzz/target/corpus and is used by the next; an input that fails, to fuzz/artifacts.
fuzz: tools fuzzer
	@for target in $(FUZZ_TARGETS); do \
		mkdir -p fuzz/target/corpus/$$target; \
		(set -x; cargo +nightly fuzz run -s none --codegen-units 16 $$target \
			fuzz/target/corpus/$$target fuzz/corpus/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -timeout=20 -rss_limit_mb=2048) || exit 1; \
	done

$(VENV)/installed: tests/parity/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --requirement $<
	touch $@

$(VENV_2)/installed: tests/parity/requirements-datasets-2.txt
	$(PYTHON) -m venv $(VENV_2)
	$(VENV_2)/bin/pip install --quiet --requirement $<
	touch $@

$(VENV_5)/installed: tests/parity/requirements-transformers-5.txt
	$(PYTHON) -m venv $(VENV_5)
	$(VENV_5)/bin/pip install --quiet --requirement $<
	touch $@

# Rust, and the C compiler with which zstd, BLAKE3 and ring are built.
tools:
	@command -v cargo >/dev/null || { \
		echo "cargo is missing; this installs Rust on Debian and macOS:"; \
		echo "  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile default"; \
		exit 1; }
	@command -v cc >/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -q && apt-get install -qy --no-install-recommends gcc libc6-dev; \
		elif command -v apt-get >/dev/null; then \
			echo "cc is missing; install it with: sudo apt-get install gcc libc6-dev"; exit 1; \
		else \
			echo "cc is missing; on macOS install it with: xcode-select --install"; exit 1; \
		fi; }

linters:
	@cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || { \
		echo "rustfmt or clippy is missing; install them with: rustup component add rustfmt clippy"; exit 1; }

fuzzer:
	@cargo +nightly fuzz --version >/dev/null 2>&1 || { \
		echo "nightly Rust or cargo-fuzz is missing; install them with:"; \
		echo "  rustup toolchain install nightly --profile minimal && cargo install cargo-fuzz"; exit 1; }

# Google's SentencePiece, which only `make parity` builds, is C++.
cmake:
	@command -v cmake >/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -q && apt-get install -qy --no-install-recommends cmake g++; \
		elif command -v apt-get >/dev/null; then \
			echo "cmake is missing; install it with: sudo apt-get install cmake g++"; exit 1; \
		else \
			echo "cmake is missing; on macOS install it with: brew install cmake"; exit 1; \
		fi; }
