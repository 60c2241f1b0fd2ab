//! A training large enough for all threads to take part gives the same bytes whatever their number.

mod workshop;

use std::fmt::Write;

use serde_json::json;
use workshop::Workshop;

/// 2.4 million characters of 1,500 kinds, the n-th n times rarer than the first: more than 2^16 different pairs, and one
/// with more than 2^14 places, from where on a merge is dealt out to threads.
fn documents() -> String {
    let letters: Vec<char> = ('一'..).take(1500).collect();
    let mut state = 7_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / (1_u64 << 31) as f64
    };
    let mut documents = String::new();
    for _ in 0..3000 {
        let mut text = String::new();
        for _ in 0..20 {
            for _ in 0..40 {
                let rank = (letters.len() as f64).powf(uniform()) - 1.0;
                text.push(letters[rank as usize]);
            }
            text.push_str(if uniform() < 0.2 { " " } else { "\\n" });
        }
        writeln!(documents, "{{\"text\": \"{text}\"}}").unwrap();
    }
    documents
}

#[test]
fn threads_do_not_change_a_byte() {
    let workshop = Workshop::new();
    let corpus = json!({"from": "the corpus", "files": [workshop.write("corpus.jsonl", documents())]});
    let outputs = |threads: usize| {
        let parameters = json!({"train": [corpus], "vocab_size": 3500, "byte_fallback": false, "lines": 50_000});
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| workshop.run("train-tokenizer", parameters)).unwrap();
        assert!(workshop.metrics()["merges"].as_u64().unwrap() > 1500);
        workshop.outputs()
    };
    assert!(outputs(1) == outputs(3));
}
