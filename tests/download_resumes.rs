//! A download fetches what is registered, is patient with a source that stumbles, and goes on where it was cut or
//! killed: the same files, and hardly a byte twice.

mod hub_emulator;
mod support;
mod workshop;

use std::time::{Duration, Instant};

use cmx::error::ExitCode;
use cmx::hub::{Fetched, Patience};
use hub_emulator::client::{QUICK, client, fetch, fetch_as, noise};
use hub_emulator::{COMMIT, Fault, Hub};
use serde_json::json;
use support::Project;
use workshop::{Workshop, dataset};

#[test]
fn the_stage_fetches_a_dataset_as_registered() {
    let hub = Hub::start(&[
        ("README.md", b"about"),
        ("data/2023-a.jsonl", b"{\"text\": \"a\"}\n"),
        ("data/2023 b.jsonl", b"{\"text\": \"b\"}\n"),
        ("data/2022-c.jsonl", b"{\"text\": \"c\"}\n"),
        ("data/empty", b""),
    ]);
    hub.repo().page_size = 2;
    hub.repo().lfs.push("data/2023-a.jsonl".into());
    let shop = Workshop::new();
    let mut corpus = dataset("corpus", None, None);
    corpus["source"]["repo"] = "org/corpus".into();
    corpus["source"]["include"] = json!(["data/2023*", "data/empty"]);
    shop.run("download", json!({"dataset": corpus, "endpoint": hub.address})).unwrap();
    let outputs = shop.outputs();
    assert_eq!(outputs.keys().collect::<Vec<_>>(), ["data/2023 b.jsonl", "data/2023-a.jsonl", "data/empty"]);
    assert_eq!(outputs["data/2023-a.jsonl"], b"{\"text\": \"a\"}\n");
    let metrics = shop.metrics();
    assert_eq!((&metrics["commit"], &metrics["files"], &metrics["bytes"]), (&json!(COMMIT), &json!(3), &json!(28)));
}

#[test]
fn a_cut_file_goes_on_where_it_was_cut() {
    let content = noise("", 3 << 20);
    let hub = Hub::start(&[("big.bin", &content)]);
    hub.repo().lfs.push("big.bin".into());
    hub.fault("big.bin", Fault::Cut(1_000_000));
    hub.fault("big.bin", Fault::Status(429, Some(0)));
    hub.fault("big.bin", Fault::Status(503, None));
    let shop = Workshop::new();
    // The third attempt is the last: what is there waits for the next run.
    let error = fetch(&hub, &shop).unwrap_err();
    assert!(error.message().ends_with(" answered HTTP 503"), "{error}");
    assert_eq!(error.advice(), Some("it was tried 3 times; run again later, what was fetched so far is kept"));
    assert!(shop.outputs().is_empty());
    hub.fault("big.bin", Fault::Cut(1_100_000));
    fetch(&hub, &shop).unwrap();
    assert_eq!(shop.outputs()["big.bin"], content);
    let ranges: Vec<String> = hub
        .log()
        .iter()
        .filter(|line| line.starts_with("/storage/"))
        .map(|line| line.replace("/storage/big.bin ", ""))
        .collect();
    let expected = ["", "bytes=1000000-", "bytes=1000000-", "bytes=1000000-", "bytes=2100000-"];
    assert_eq!(ranges, expected.map(|range| format!("range={range} authorization=")));
    assert_eq!(hub.served(), 3 << 20);
    // And what is whole is not asked for again.
    let before = hub.log().len();
    std::fs::remove_file(shop.output().join("big.bin")).unwrap();
    assert_eq!(fetch(&hub, &shop).unwrap(), Fetched { files: 1, bytes: 3 << 20, reused: 1 });
    assert_eq!(hub.log().len(), before + 2, "only the listing");
}

#[test]
fn a_damaged_half_is_fetched_anew() {
    let content = noise("", 300_000);
    let hub = Hub::start(&[("a.bin", &content)]);
    for fault in [Fault::Cut(100_000), Fault::Cut(0), Fault::Cut(0)] {
        hub.fault("a.bin", fault);
    }
    let shop = Workshop::new();
    fetch(&hub, &shop).unwrap_err();
    let part = std::fs::read_dir(shop.pool()).unwrap().next().unwrap().unwrap().path();
    assert_eq!(std::fs::read(&part).unwrap(), content[..100_000]);
    // As a power cut may leave it.
    std::fs::write(&part, vec![0; 100_000]).unwrap();
    fetch(&hub, &shop).unwrap();
    assert_eq!(shop.outputs()["a.bin"], content);
}

#[test]
fn a_busy_hub_is_asked_again() {
    let hub = Hub::start(&[("a", b"a")]);
    hub.repo().api_faults = [Fault::Status(429, Some(0)), Fault::Status(502, None), Fault::Cut(3)].into();
    hub.fault("a", Fault::Status(500, None));
    let shop = Workshop::new();
    let patience = Patience { attempts: 4, ..QUICK };
    let (commit, fetched) = fetch_as(&client(None, patience), &hub, &shop, &[]).unwrap();
    assert_eq!((commit.as_deref(), fetched), (Some(COMMIT), Fetched { files: 1, bytes: 1, reused: 0 }));
}

#[test]
fn a_hub_that_asks_for_time_is_given_it() {
    let hub = Hub::start(&[("a", b"a")]);
    hub.fault("a", Fault::Status(429, Some(1)));
    let start = Instant::now();
    fetch(&hub, &Workshop::new()).unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
}

#[test]
fn a_transfer_that_drips_is_broken_off_and_goes_on() {
    let content = noise("", 100);
    let hub = Hub::start(&[("a.bin", &content)]);
    let shop = Workshop::new();
    let patience = Patience { min_rate: 1000, window: Duration::from_millis(100), ..QUICK };
    let client = client(None, patience);
    for _ in 0..3 {
        hub.fault("a.bin", Fault::Drip(Duration::from_millis(20)));
    }
    let error = fetch_as(&client, &hub, &shop, &[]).unwrap_err();
    let address = format!("{}/datasets/org/corpus/resolve/{COMMIT}/a.bin", hub.address);
    assert_eq!(error.message(), format!("cannot read from {address}"));
    assert!(error.one_line().ends_with(" and at least 1000 a second are expected"), "{error:?}");
    assert!(shop.outputs().is_empty());
    hub.fault("a.bin", Fault::Drip(Duration::from_millis(20)));
    fetch_as(&client, &hub, &shop, &[]).unwrap();
    assert_eq!(shop.outputs()["a.bin"], content);
    // A listing is not waited for longer than a file.
    hub.repo().api_faults = vec![Fault::Drip(Duration::from_millis(20)); 3].into();
    let error = fetch_as(&client, &hub, &shop, &[]).unwrap_err();
    assert!(error.one_line().ends_with(" and at least 1000 a second are expected"), "{error:?}");
}

#[test]
fn what_is_not_there_is_said_to_be_so() {
    let hub = Hub::start(&[("a", b"a")]);
    let shop = Workshop::new();
    let error = fetch_as(&client(None, QUICK), &hub, &shop, &["*.parquet"]).unwrap_err();
    assert_eq!(error.message(), "no file of org/corpus matches the patterns");
    let error = shop.run("download", json!({"repo": "org/corpus", "revision": "v9", "endpoint": hub.address}));
    let error = error.unwrap_err();
    let address = format!("{}/api/models/org/corpus/revision/v9", hub.address);
    assert_eq!(error.message(), format!("the model `org/corpus` at revision `v9` was not found at {address}"));
    assert_eq!(error.code(), ExitCode::Invalid);
    // The Hub says "unauthorized" of what does not exist.
    let error = shop.run("download", json!({"repo": "org/nothing", "endpoint": hub.address})).unwrap_err();
    let address = format!("{}/api/models/org/nothing/revision/main", hub.address);
    assert_eq!(error.message(), format!("the model `org/nothing` at revision `main` was not found at {address}"));
    let advice = "check the name and the revision; a private one needs an HF_TOKEN that may read it";
    assert_eq!(error.advice(), Some(advice));
}

#[test]
fn plain_addresses_are_fetched_and_resumed_by_their_etag() {
    let content = noise("", 300_000);
    let hub = Hub::start(&[("files/a b.bin", &content)]);
    hub.fault("files/a b.bin", Fault::Cut(100_000));
    let shop = Workshop::new();
    let local = shop.write("local.txt", "here");
    let urls = json!([format!("{}/files/a%20b.bin", hub.address), format!("file://{}", local.display())]);
    shop.run("download", json!({"urls": urls})).unwrap();
    let outputs = shop.outputs();
    assert_eq!(outputs["a b.bin"], content);
    assert_eq!(outputs["local.txt"], b"here");
    assert!(hub.log()[1].contains("range=bytes=100000-"));
    let twice = json!([format!("{}/x/a", hub.address), format!("{}/y/a", hub.address)]);
    let error = shop.run("download", json!({"urls": twice})).unwrap_err();
    assert_eq!(error.message(), "two of the `urls` end in `a`; their files would be one");
}

#[test]
fn a_folder_can_be_the_hub() {
    let shop = Workshop::new();
    shop.write("datasets/org/corpus/data/a.parquet", "a");
    shop.write("datasets/org/corpus/.gitattributes", "bookkeeping");
    shop.write("datasets/org/other/b.parquet", "b");
    shop.write("org/model/config.json", "{}");
    let mut corpus = dataset("corpus", None, None);
    corpus["source"]["repo"] = "org/corpus".into();
    let hub = json!({"from": "examples/hub", "path": shop.input()});
    shop.run("download", json!({"dataset": corpus, "hub": hub})).unwrap();
    assert_eq!(shop.outputs().into_iter().collect::<Vec<_>>(), [("data/a.parquet".to_owned(), b"a".to_vec())]);
    assert!(!shop.metrics().contains_key("commit"));
    let endpoint = format!("file://{}", shop.input().display());
    shop.run("download", json!({"repo": "org/model", "endpoint": endpoint})).unwrap();
    assert_eq!(shop.outputs().keys().collect::<Vec<_>>(), ["config.json"]);
    let error = shop.run("download", json!({"repo": "org/nothing", "endpoint": endpoint})).unwrap_err();
    let message = format!("the hub folder {} has no org/nothing", shop.input().display());
    assert_eq!(error.message(), message);
}

#[test]
fn exactly_one_source_must_be_given() {
    let shop = Workshop::new();
    let message = |parameters| {
        let error = shop.run("download", parameters).unwrap_err();
        assert_eq!(error.code(), ExitCode::Invalid);
        error.message().to_owned()
    };
    assert_eq!(message(json!({})), "nothing says what to download");
    assert_eq!(
        message(json!({"repo": "a/b", "urls": ["https://h/a"]})),
        "more than one thing says what to download"
    );
    assert_eq!(message(json!({"urls": []})), "`urls` is empty: there is nothing to download");
    assert_eq!(
        message(json!({"urls": ["https://h/a"], "include": ["*"]})),
        "`include` means a repository's files, not those at `urls`"
    );
    assert_eq!(message(json!({"repo": "../b", "endpoint": "file:///x"})), "`../b` is no repository name");
    assert_eq!(message(json!({"repo": "a/b", "endpoint": "ftp://x"})), "the endpoint `ftp://x` is no address");
    assert_eq!(
        message(json!({"dataset": dataset("books", None, None)})),
        "the dataset `books` has neither `repo` nor `urls` to come from"
    );
}

/// SIGKILL in mid-download, at moments that the bytes served decide: all of them cut a
/// transfer. `CMX_KILLS=50` is the full count.
#[test]
fn kills_in_mid_download_change_nothing_and_cost_little() {
    let kills: u64 = std::env::var("CMX_KILLS").map_or(6, |kills| kills.parse().expect("a number"));
    let size = usize::try_from(kills).unwrap() * 400_000;
    let contents: Vec<Vec<u8>> = ["a", "b", "c"].iter().map(|seed| noise(seed, size)).collect();
    let start = || {
        let hub = Hub::start(&[("a.bin", &contents[0]), ("b/b.bin", &contents[1]), ("c.bin", &contents[2])]);
        hub.repo().lfs = vec!["a.bin".into(), "b/b.bin".into()];
        let manifest =
            format!("[stage.get]\nuse = \"download\"\nrepo = \"org/corpus\"\nendpoint = \"{}\"\n", hub.address);
        let project = Project::new().file("p.toml", &format!("name = \"p\"\n{manifest}"));
        (hub, project)
    };
    let (hub, undisturbed) = start();
    undisturbed.run();
    let total = 3 * size as u64;
    assert_eq!(hub.served(), total);

    let (hub, project) = start();
    hub.repo().pace = Duration::from_millis(2);
    for kill in 1..=kills {
        let due = kill * (total * 9 / 10) / kills;
        let mut runner = project.start(&["run", "p.toml"]);
        while hub.served() < due {
            std::thread::sleep(Duration::from_millis(1));
            assert!(runner.try_wait().unwrap().is_none(), "the run ended before kill {kill}");
        }
        // The worker dies with the pipe to its runner.
        runner.kill().unwrap();
        runner.wait().unwrap();
        assert!(project.digests().is_empty(), "nothing half-made is shown");
    }
    project.run();
    assert_eq!(project.digests(), undisturbed.digests());
    let extra = hub.served() - total;
    eprintln!("{kills} kills: {extra} bytes of {total} were served twice, {} a kill", extra / kills.max(1));
    // Of the 1.08 MB between two kills, what the hub sent over three connections before it knew that nobody listens.
    assert!(extra <= kills * 3 * (128 << 10), "{extra} bytes of {total} were served twice");
}
