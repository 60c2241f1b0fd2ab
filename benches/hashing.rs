//! Hashing a large file: cmx's store beside `b3sum`, in the same run on the same file.
//!
//! `cargo bench --bench hashing -- PATH/TO/b3sum [BYTES]`

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use cmx::store::Store;

/// Runs of each; the median counts.
const RUNS: usize = 7;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let b3sum = arguments.first().cloned().unwrap_or_else(|| "b3sum".to_owned());
    let size: usize = arguments.get(1).map_or(2 << 30, |text| text.parse().expect("a number of bytes"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("large");
    write(&path, size);

    // Each run of cmx starts from an empty store: nothing is known of the file.
    let ours = |_| {
        let store = Store::open(&folder.path().join("workspace"));
        store.digest_of(&path).expect("a digest");
    };
    let theirs = |_| {
        let status = Command::new(&b3sum).arg(&path).stdout(Stdio::null()).status();
        assert!(status.expect("b3sum runs").success());
    };
    // The file is in memory for both.
    ours(0);
    let (ours, theirs) = (median(ours), median(theirs));
    let rate = |seconds: f64| size as f64 / seconds / 1e9;
    println!("| | GB/s |\n|---|--:|");
    println!("| cmx | {:.2} |\n| b3sum | {:.2} |\n| ratio | {:.2} |", rate(ours), rate(theirs), theirs / ours);
}

fn median(run: impl Fn(usize)) -> f64 {
    let time = |number| {
        let start = Instant::now();
        run(number);
        start.elapsed().as_secs_f64()
    };
    let mut times: Vec<f64> = (0..RUNS).map(time).collect();
    times.sort_by(f64::total_cmp);
    times[RUNS / 2]
}

fn write(path: &Path, size: usize) {
    let mut file = std::fs::File::create(path).expect("a file");
    let mut block = vec![0_u8; 1 << 20];
    let mut left = size;
    let mut state = 1_u64;
    while left > 0 {
        for word in block.chunks_exact_mut(8) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            word.copy_from_slice(&state.to_le_bytes());
        }
        let part = left.min(block.len());
        file.write_all(&block[..part]).expect("room on the disk");
        left -= part;
    }
}
