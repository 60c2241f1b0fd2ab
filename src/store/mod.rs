//! Artifacts, receipts, views, locks, digests: the only module that writes under `cache/`.

mod digest;

pub use digest::Digest;
