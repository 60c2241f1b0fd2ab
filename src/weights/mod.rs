//! Sharded safetensors in and out, memory-mapped; NF4; LoRA adapters in PEFT's layout.
