//! BPE-dropout has the distribution of Google's SentencePiece (`enable_sampling`), text by text.
//!
//! Part of `make parity`, which has the Python that draws the other sample.

mod workshop;

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use cmx::tokenizer::Tokenizer;
use serde_json::json;
use workshop::python;

/// Draws of each text.
const DRAWS: usize = 20_000;

const TEXTS: [&str; 10] = [
    "the valley",
    "a  b",
    "unrelated",
    "云雀谷在哪里？",
    "In 2023 the",
    "the the the",
    "\u{1F600}é",
    "水车 water",
    " ",
    "aaaaaaa",
];

#[test]
#[ignore = "needs the Python that `make parity` prepares"]
fn as_sample_encode() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut state = 1_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    let mut kinds = 0;
    for (model, rate) in [("llama", 0.1), ("llama", 0.5), ("plain", 0.2), ("odd", 0.3), ("mapped", 0.1)] {
        let path = root.join(format!("tests/golden/sentencepiece/{model}.model"));
        let asked = folder.path().join("asked.json");
        std::fs::write(&asked, json!({"texts": TEXTS, "draws": DRAWS, "alpha": rate}).to_string()).expect("a file");
        let answer = Command::new(&python)
            .arg(root.join("tests/parity/bpe_dropout.py"))
            .args([&path, &asked])
            .output()
            .expect("Python");
        assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
        let theirs: Vec<Vec<(Vec<u32>, usize)>> = serde_json::from_slice(&answer.stdout).expect("JSON");
        let tokenizer = Tokenizer::open(&path).expect("a model");
        for (text, theirs) in TEXTS.iter().zip(theirs) {
            let mut counts: HashMap<Vec<u32>, [f64; 2]> = HashMap::new();
            for (ids, count) in theirs {
                counts.entry(ids).or_default()[1] = count as f64;
            }
            for _ in 0..DRAWS {
                let mut ids = Vec::new();
                tokenizer.sample_into(text, &mut || uniform() < rate, &mut ids).expect("ids");
                counts.entry(ids).or_default()[0] += 1.0;
            }
            kinds += counts.len();
            // Pearson's test of two samples of one size; what is rare is counted together.
            let (common, rare): (Vec<_>, Vec<_>) = counts.into_values().partition(|[a, b]| a + b >= 20.0);
            let rare = rare.into_iter().fold([0.0; 2], |sum, one| [sum[0] + one[0], sum[1] + one[1]]);
            let cells: Vec<_> = common.into_iter().chain([rare]).filter(|[a, b]| a + b > 0.0).collect();
            let statistic: f64 = cells.iter().map(|[a, b]| (a - b).powi(2) / (a + b)).sum();
            let freedom = (cells.len() - 1) as f64;
            println!("{model}, {rate}, {text:?}: {} ways, {statistic:.1} of {freedom}", cells.len());
            assert!(statistic <= freedom + 5.0 * (2.0 * freedom).sqrt(), "{model}, {rate}, {text:?}");
        }
    }
    assert!(kinds > 500, "{kinds}");
}
