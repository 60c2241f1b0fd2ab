//! Mixtral: configuration, forward for training and inference, KV cache, sampling.
