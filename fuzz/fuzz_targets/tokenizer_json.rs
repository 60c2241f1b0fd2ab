//! `tokenizer.json`: an error, or a tokenizer that encodes and decodes.
#![no_main]

use cmx::tokenizer::Tokenizer;
use libfuzzer_sys::fuzz_target;

const TEXT: &str = " The mill,  by\tthe river\n\u{1}…\u{2581}水车、河边 é e\u{301} \u{1F600}\u{10FFFF} 123 <s></s>";

fuzz_target!(|bytes: &[u8]| {
    let Ok(tokenizer) = Tokenizer::open(&cmx_fuzz::file("tokenizer.json", bytes)) else { return };
    let tail = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(64)..]);
    for text in [TEXT, &tail, ""] {
        let Ok(ids) = tokenizer.encode(text) else { continue };
        for &id in &ids {
            assert!((id as usize) < tokenizer.vocab_size(), "the id {id} has no row");
        }
        let _ = tokenizer.decode(&ids);
    }
    for id in [tokenizer.bos(), tokenizer.eos(), tokenizer.unk()].into_iter().flatten() {
        assert!(tokenizer.piece(id).is_some());
    }
    let _ = tokenizer.decode(&[0, 1, 2, u32::MAX]);
});
