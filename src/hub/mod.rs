//! The Hugging Face Hub client: listing, patterns, resume, verification.
