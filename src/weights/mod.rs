//! Sharded safetensors in and out, memory-mapped; torch's state dicts in; LoRA adapters in PEFT's layout; 4-bit matrices in
//! bitsandbytes'; expanding, merging and packing, by streaming.
//!
//! Reading never loads a file: [`Checkpoint`] maps the shards of a model folder and hands out slices of them. Writing
//! goes through [`ShardWriter`], tensor by tensor, so that memory is bounded by what the writer is given at once.

pub mod adapter;
pub mod expansion;
pub mod float;
pub mod magnitudes;
pub mod merging;
pub mod nf4;
pub mod quantisation;
pub mod rewrite;

mod checkpoint;
mod index;
mod normal;
mod shard;
#[cfg(test)]
mod tests;
mod torch;
mod writer;

pub use checkpoint::Checkpoint;
pub use float::{Float, bf16_bits};
pub use normal::Normal;
pub use shard::{Shard, Spec};
pub use writer::{Layout, ShardWriter, bytes_of, save};

/// The largest shard that model folders get, as transformers v4 cuts them: 5 GB.
pub const MAX_SHARD_BYTES: u64 = 5_000_000_000;
