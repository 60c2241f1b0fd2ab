//! Our encoder beside Google's SentencePiece (the `sentencepiece` crate, C++) on random strings: the same ids.
//!
//! Part of `make parity`, since the crate needs cmake: `cargo test --release --features parity --test sentencepiece_live`.
#![cfg(feature = "parity")]

mod support;

use std::path::Path;

use cmx::tokenizer::Tokenizer;
use sentencepiece::SentencePieceProcessor;

/// Strings a model; `CMX_FUZZ` asks for another number.
const STRINGS: usize = 200_000;

/// Numbers from a seed, so that a failure can be had again.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound
    }

    /// Pieces of the vocabulary, spaces, and characters of every length, common and strange.
    fn string(&mut self, tokenizer: &Tokenizer) -> String {
        let mut text = String::new();
        for _ in 0..1 + self.below(24) {
            match self.below(8) {
                0 => text.push_str(&" ".repeat(1 + self.below(4))),
                1 => text.extend(char::from_u32(self.below(0x3000) as u32)),
                2 => text.extend(char::from_u32(0x4E00 + self.below(0x5200) as u32)),
                3 => text.extend(char::from_u32(self.below(0x11_0000) as u32)),
                4 => text.push_str(
                    &["a", "e", "0", "\n", "。", "▁", "é", "\u{FE0F}"][self.below(8)].repeat(self.below(9)),
                ),
                _ => {
                    let piece = tokenizer.piece(self.below(tokenizer.vocab_size()) as u32).unwrap_or_default();
                    text.push_str(&piece.replace('▁', " "));
                }
            }
        }
        // The crate hands strings to C.
        text.replace('\0', "")
    }
}

fn same_ids(model: &Path) {
    let theirs = SentencePieceProcessor::open(model).expect("a model");
    let ours = Tokenizer::open(model).expect("a model");
    let strings = std::env::var("CMX_FUZZ").ok().and_then(|text| text.parse().ok()).unwrap_or(STRINGS);
    let mut random = Random(20_261_124);
    for number in 0..strings {
        let text = random.string(&ours);
        let expected: Vec<u32> = theirs.encode(&text).expect("ids").iter().map(|piece| piece.id).collect();
        assert_eq!(ours.encode(&text).unwrap(), expected, "string {number} on {}: {text:?}", model.display());
    }
}

#[test]
fn mixtral() {
    let Some(shared) = support::shared_data() else { return };
    same_ids(&shared.join("tokenizers/mixtral-8x7b-v0.1.tokenizer.model"));
}

#[test]
fn ymcui() {
    let Some(shared) = support::shared_data() else { return };
    same_ids(&shared.join("tokenizers/ymcui-chinese-llama2-55296.model"));
}

#[test]
fn a_model_of_ours() {
    let folder = tempfile::tempdir().expect("a folder");
    let lines: Vec<String> =
        (0..400).map(|n| format!("line {n} 说的是第{n}行，the quick brown fox {}", n * 7919)).collect();
    let project = support::Project::new()
        .file("text.txt", &lines.join("\n"))
        .file("p.toml", "name = \"p\"\n[stage.train-tokenizer]\ntrain = [\"text.txt\"]\nvocab_size = 310\n");
    project.run();
    let model = folder.path().join("tokenizer.model");
    std::fs::copy(project.path().join("outputs/train-tokenizer/tokenizer.model"), &model).expect("a copy");
    same_ids(&model);
}
