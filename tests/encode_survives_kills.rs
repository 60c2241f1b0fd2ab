//! SIGKILL in the middle of encoding, again and again: the bytes of an undisturbed run, and no kill costs more than the
//! shard that was being written.
//!
//! `CMX_KILLS` asks for another number of kills, `CMX_KILL_MEGABYTES` for a corpus of another size.

mod killed_stage;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use killed_stage::{KilledStage, Random};
use serde_json::{Value, json};

const KILLS: u64 = 8;
const MEGABYTES: u64 = 24;

fn asked(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The stage, and what it makes.
struct Stage(KilledStage);

impl Stage {
    fn new(folder: PathBuf, corpus: &Path, recipe: &str, max_shard_bytes: u64) -> Self {
        let dataset = json!({
            "name": "d", "form": "split", "path": corpus,
            "doc": {"train": "train", "dev": "dev"}, "encoded": {"train": "train", "dev": "dev"},
            "source": {"repo": null, "revision": null, "include": [], "exclude": [], "urls": [], "task": null},
        });
        let task = json!({
            "stage": "encode", "kind": "encode", "threads": 2,
            "parameters": {
                "dataset": dataset,
                "tokenizer": {"from": "t", "path": root("tests/golden/sentencepiece/llama.model")},
                "encoder": "native", "sequence_length": 256, "recipe": recipe, "storage": "compact",
                "position_ids": false, "document_ids": true, "max_shard_bytes": max_shard_bytes, "text_field": "text",
                "packing": "stream", "loss": "all", "bpe_dropout": 0.0, "passes": 1, "seed": 1,
            },
        });
        Self(KilledStage::new(folder, task))
    }

    fn finish(&self) -> BTreeMap<String, blake3::Hash> {
        self.0.finish();
        self.digests()
    }

    fn digests(&self) -> BTreeMap<String, blake3::Hash> {
        let mut digests = BTreeMap::new();
        for split in ["train", "dev"] {
            for entry in std::fs::read_dir(self.0.folder().join("output").join(split)).expect("a folder") {
                let path = entry.expect("a file").path();
                let mut hasher = blake3::Hasher::new();
                hasher.update_mmap_rayon(&path).expect("a file");
                let name = format!("{split}/{}", path.file_name().expect("a name").display());
                digests.insert(name, hasher.finalize());
            }
        }
        digests
    }

    /// How many shards count, and when each of them was written.
    fn shards(&self) -> Vec<std::time::SystemTime> {
        let kept = self.0.folder().join("kept");
        let Ok(text) = std::fs::read(kept.join("train.json")) else { return Vec::new() };
        let state: Value = serde_json::from_slice(&text).expect("whole, however the worker ended");
        let shards = if state["Whole"].is_null() {
            &state["Part"]["checkpoint"]["shards"]
        } else {
            &state["Whole"]["shards"]
        };
        let count = shards["whole"].as_array().expect("shards").len();
        let files = std::fs::read_dir(kept.join("train")).expect("a folder").count();
        assert!(files <= count + 1, "{files} files, of which {count} count");
        let written = |shard| std::fs::metadata(kept.join(format!("train/data-{shard:05}.arrow")))?.modified();
        (0..count).map(|shard| written(shard).expect("a shard")).collect()
    }
}

/// The example corpus, repeated.
fn corpus(folder: &Path, megabytes: u64) {
    let mut whole = Vec::new();
    for month in ["01", "02", "03", "04"] {
        let file = format!("examples/hub/datasets/cmx/valley-zh/data/2023-{month}.jsonl");
        whole.extend(std::fs::read(root(&file)).expect("an example"));
    }
    let mut train = std::fs::File::create(folder.join("train.jsonl")).expect("a file");
    for _ in 0..(megabytes * 1_000_000).div_ceil(whole.len() as u64) {
        train.write_all(&whole).expect("room on the disk");
    }
    std::fs::write(
        folder.join("dev.jsonl"),
        &whole[..=whole.iter().position(|&byte| byte == b'\n').expect("a line")],
    )
    .expect("a file");
}

#[test]
fn kills_cost_a_shard_and_change_nothing() {
    let (kills, megabytes) = (asked("CMX_KILLS", KILLS), asked("CMX_KILL_MEGABYTES", MEGABYTES));
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    corpus(folder, megabytes);
    let mut random = Random(20_261_125);
    let mut made = 0;
    for (number, recipe) in ["clean", "as-published"].into_iter().enumerate() {
        // About a hundred shards.
        let stage =
            |name: &str| Stage::new(folder.join(format!("{recipe}-{name}")), folder, recipe, megabytes * 10_000);
        let undisturbed = stage("undisturbed");
        let clock = Instant::now();
        let expected = undisturbed.finish();
        let whole = clock.elapsed().as_millis() as u64;
        assert!(expected.len() > 50, "{} files", expected.len());
        std::fs::remove_dir_all(undisturbed.0.folder()).expect("a folder");

        let killed = stage("killed");
        let mut before = Vec::new();
        while made < kills * (number as u64 + 1) / 2 {
            let (mut worker, _pipe) = killed.0.start();
            std::thread::sleep(Duration::from_millis(whole / 50 + random.below(whole / 4)));
            let ended = worker.try_wait().expect("a worker");
            worker.kill().expect("a kill");
            worker.wait().expect("an end");
            let after = killed.shards();
            assert!(after.len() >= before.len() && after[..before.len()] == before[..], "a whole shard was lost");
            before = after;
            match ended {
                None => made += 1,
                // It was done before the kill: once more from the beginning.
                Some(status) => {
                    assert!(status.success());
                    assert_eq!(killed.digests(), expected, "{recipe}");
                    killed.0.forget();
                    before.clear();
                }
            }
        }
        assert_eq!(killed.finish(), expected, "{recipe}");
        std::fs::remove_dir_all(killed.0.folder()).expect("a folder");
    }
}
