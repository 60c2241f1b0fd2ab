//! What a source names by its hash comes once: not again for another revision, nor for another stage, nor when a
//! stage is run again; and `gc` knows whose it is.

mod hub_emulator;
mod support;
mod workshop;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use cmx::hub::Fetched;
use hub_emulator::client::{fetch, noise};
use hub_emulator::{COMMIT, Hub};
use support::Project;
use workshop::Workshop;

#[test]
fn an_unchanged_file_of_a_new_commit_is_not_fetched_again() {
    let big = noise("", 100_000);
    let hub = Hub::start(&[("a.txt", b"old"), ("b.txt", b"same"), ("big.bin", &big)]);
    hub.repo().lfs.push("big.bin".into());
    let shop = Workshop::new();
    assert_eq!(fetch(&hub, &shop).unwrap(), Fetched { files: 3, bytes: 100_007, reused: 0 });
    assert_eq!(hub.fetched().len(), 3);
    hub.commit(&[("a.txt", b"new!"), ("renamed.txt", b"same"), ("big.bin", &big)]);
    fs::remove_dir_all(shop.output()).unwrap();
    assert_eq!(fetch(&hub, &shop).unwrap(), Fetched { files: 3, bytes: 100_008, reused: 2 });
    assert_eq!(hub.fetched()[3..], ["a.txt"]);
    let outputs = shop.outputs();
    assert_eq!(
        (&outputs["a.txt"][..], &outputs["renamed.txt"][..], &outputs["big.bin"]),
        (&b"new!"[..], &b"same"[..], &big)
    );
}

#[test]
fn a_file_that_was_altered_here_is_fetched_again() {
    let hub = Hub::start(&[("a.txt", b"true")]);
    let shop = Workshop::new();
    fetch(&hub, &shop).unwrap();
    fs::write(shop.output().join("a.txt"), "fake").unwrap();
    fs::remove_dir_all(shop.output()).unwrap();
    assert_eq!(fetch(&hub, &shop).unwrap(), Fetched { files: 1, bytes: 4, reused: 0 });
    assert_eq!(shop.outputs()["a.txt"], b"true");
}

fn project(hub: &Hub, stages: &[(&str, &str)]) -> Project {
    let mut manifest = "name = \"p\"\n".to_owned();
    for (name, rest) in stages {
        let endpoint = &hub.address;
        manifest += &format!(
            "[stage.{name}]\nuse = \"download\"\nrepo = \"org/corpus\"\nendpoint = \"{endpoint}\"\n{rest}\n"
        );
    }
    Project::new().file("p.toml", &manifest)
}

#[test]
fn stages_share_a_file_even_at_the_same_time() {
    let big = noise("", 1 << 20);
    let hub = Hub::start(&[("big.bin", &big), ("a", b"a"), ("b", b"b")]);
    hub.repo().lfs.push("big.bin".into());
    hub.repo().pace = Duration::from_millis(5);
    let project = project(&hub, &[("one", "exclude = [\"b\"]"), ("two", "exclude = [\"a\"]")]);
    project.cmx(&["run", "p.toml", "--cpus", "2"]).success();
    let mut fetched = hub.fetched();
    fetched.sort();
    assert_eq!(fetched, ["a", "b", "big.bin"]);
    for name in ["outputs/one/big.bin", "outputs/two/big.bin"] {
        assert!(fs::read(project.path().join(name)).unwrap() == big, "{name}");
    }
    project.cmx(&["verify"]).success();
}

#[test]
fn a_new_revision_costs_what_changed_and_gc_frees_the_rest() {
    let big = noise("", 1 << 20);
    let hub = Hub::start(&[("a", &noise("a", 100_000)), ("b", b"b"), ("big.bin", &big)]);
    let second = hub.commit(&[("a", b"new"), ("b", b"b"), ("big.bin", &big)]);
    let project = project(&hub, &[("get", &format!("revision = \"{COMMIT}\""))]);
    project.run();
    assert_eq!(hub.fetched().len(), 3);
    project.edit("p.toml", COMMIT, &second);
    project.run();
    assert_eq!(hub.fetched()[3..], ["a"]);
    let receipts: Vec<String> = fs::read_dir(project.path().join("cache/receipts"))
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    for commit in [COMMIT, &second] {
        assert!(receipts.iter().any(|receipt| receipt.contains(&format!("\"commit\": \"{commit}\""))), "{commit}");
    }
    project.cmx(&["verify"]).success();
    // The first commit's artifact goes, and with it what the pool held for it alone.
    let pool = || fs::read_dir(project.path().join("cache/pool")).unwrap().count();
    assert_eq!(pool(), 4);
    // A half file that nobody went on with for a week goes, a younger one stays.
    let half = |name: &str, days: u64| {
        let file = fs::File::create(project.path().join("cache/pool").join(name)).unwrap();
        file.set_len(1024).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(days * 24 * 3600)).unwrap();
    };
    half("git-1.part", 8);
    half("git-2.part", 6);
    let ran = project.cmx(&["gc"]).success();
    assert!(ran.stdout.ends_with("\n98.66 KiB freed\n"), "{}", ran.stdout);
    assert_eq!(pool(), 4);
    assert!(project.path().join("cache/pool/git-2.part").exists());
    assert_eq!(project.run().done(), [""; 0], "what is used is whole");
    project.cmx(&["verify"]).success();
    // Forced, it fetches nothing, and still believes nothing.
    project.cmx(&["rerun", "p.toml", "--from", "get"]).success();
    assert_eq!(hub.fetched().len(), 4);
    let b = project.path().join("outputs/get/b");
    fs::set_permissions(&b, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&b, "!").unwrap();
    project.run();
    assert_eq!(fs::read(project.path().join("outputs/get/b")).unwrap(), b"b");
    assert_eq!(hub.fetched()[4..], ["b"]);
}
