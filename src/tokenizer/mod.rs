//! SentencePiece and HF tokenizers: encoding, BPE training, ALP, merging vocabularies.
