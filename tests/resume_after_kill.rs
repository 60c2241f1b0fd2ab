//! A hundred SIGKILLs of the runner and of its children: the same digests as an undisturbed run, and no half-made
//! artifact is ever visible. One thread and two give the same digests.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use support::{Project, small_quickstart};

/// Numbers from a seed, so that a failure can be had again.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Every process below `pid`.
fn children(pid: u32) -> Vec<u32> {
    let mut parents: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for item in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(child) = item.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(item.path().join("stat")) else { continue };
        let after_name = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
        if let Some(parent) = after_name.split_whitespace().nth(1).and_then(|field| field.parse().ok()) {
            parents.entry(parent).or_default().push(child);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![pid];
    while let Some(pid) = open.pop() {
        let below = parents.remove(&pid).unwrap_or_default();
        found.extend(&below);
        open.extend(below);
    }
    found
}

fn kill(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Every artifact in the store, and every one that a view or a receipt names, is what its digest says.
fn nothing_half_made(project: &Project) {
    let ran = project.cmx(&["verify"]);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    for view in project.digests().keys() {
        assert!(project.path().join(view).is_dir(), "{view} shows nothing");
    }
    for item in fs::read_dir(project.path().join("cache/receipts")).into_iter().flatten().flatten() {
        let Ok(text) = fs::read(item.path()) else { continue };
        if item.path().extension().is_some_and(|extension| extension == "json") {
            let receipt: serde_json::Value = serde_json::from_slice(&text).expect("a whole receipt");
            let artifact = receipt["artifact"].as_str().expect("a digest");
            assert!(project.path().join("cache/artifacts").join(artifact).is_dir(), "{artifact} is missing");
        }
    }
}

#[test]
fn a_hundred_kills_change_nothing() {
    let undisturbed = small_quickstart();
    undisturbed.cmx(&["run", "p.toml", "--cpus", "1"]).success();
    let expected = undisturbed.digests();
    assert!(expected.len() > 15, "{expected:?}");

    let project = small_quickstart();
    let mut random = Random(20_261_124);
    let mut kills = 0;
    let mut rounds = 0;
    while kills < 100 {
        rounds += 1;
        assert!(rounds < 1000, "the run ends before it can be killed");
        let mut child = project.start(&["run", "p.toml", "--cpus", "2"]);
        std::thread::sleep(Duration::from_millis(30 + random.below(600)));
        let below = children(child.id());
        match random.below(3) {
            // The runner alone, one of its children alone, or everything at once.
            0 => kill(child.id()),
            1 if !below.is_empty() => kill(below[random.below(below.len() as u64) as usize]),
            _ => {
                kill(child.id());
                below.iter().copied().for_each(kill);
            }
        }
        let ended = child.wait().expect("the runner ends");
        if ended.success() {
            // Everything is done: start over with what comes late, where the work is longest.
            let stage = ["split", "base", "vocab", "train", "merge", "eval"][random.below(6) as usize];
            let mut again = project.start(&["rerun", "p.toml", "--from", stage]);
            std::thread::sleep(Duration::from_millis(30 + random.below(600)));
            kill(again.id());
            again.wait().expect("the runner ends");
        }
        kills += 1;
        if kills % 10 == 0 {
            nothing_half_made(&project);
        }
    }
    project.cmx(&["run", "p.toml"]).success();
    nothing_half_made(&project);
    assert_eq!(project.digests(), expected);
    assert_eq!(project.run().done(), [""; 0]);
}
