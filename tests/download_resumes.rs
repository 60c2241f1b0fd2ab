//! A download goes on where it was cut, believes nothing it cannot check, and writes nowhere but into its folder.

mod hub_emulator;
mod workshop;

use std::sync::Arc;
use std::time::Duration;

use cmx::error::{ExitCode, Result};
use cmx::hub::{self, Client, Fetched, Patience, Patterns, Repo, RepoType};
use hub_emulator::{COMMIT, Fault, Hub};
use serde_json::json;
use workshop::{Workshop, dataset};

/// Some bytes that no compression or pattern makes shorter.
fn noise(length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut out);
    out
}

const QUICK: Patience = Patience {
    attempts: 3,
    wait: Duration::from_millis(1),
    longest: Duration::from_millis(2),
    silence: Duration::from_secs(5),
};

/// Lists and fetches the emulator's dataset.
fn fetch(hub: &Hub, shop: &Workshop, token: Option<&str>, include: &[&str]) -> Result<(Option<String>, Fetched)> {
    let client = Client::new(token.map(str::to_owned), QUICK, Arc::default());
    let repo = Repo { name: "org/corpus".into(), kind: RepoType::Dataset, revision: "main".into() };
    let include: Vec<String> = include.iter().map(|glob| (*glob).to_owned()).collect();
    let listing = hub::list(&client, &hub.address, &repo, &Patterns::new(&include, &[])?)?;
    let fetched = hub::fetch(&client, &listing, &shop.scratch(), &shop.output(), |_| ())?;
    Ok((listing.commit, fetched))
}

#[test]
fn the_stage_fetches_a_dataset_as_registered() {
    let hub = Hub::start(&[
        ("README.md", b"about"),
        ("data/2023-a.jsonl", b"{\"text\": \"a\"}\n"),
        ("data/2023 b.jsonl", b"{\"text\": \"b\"}\n"),
        ("data/2022-c.jsonl", b"{\"text\": \"c\"}\n"),
        ("data/empty", b""),
    ]);
    hub.repo.lock().unwrap().page_size = 2;
    hub.repo.lock().unwrap().lfs.push("data/2023-a.jsonl".into());
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
    let content = noise(3 << 20);
    let hub = Hub::start(&[("big.bin", &content)]);
    hub.repo.lock().unwrap().lfs.push("big.bin".into());
    hub.fault("big.bin", Fault::Cut(1_000_000));
    hub.fault("big.bin", Fault::Status(429, Some(0)));
    hub.fault("big.bin", Fault::Status(503, None));
    let shop = Workshop::new();
    // The third attempt is the last: what is there waits for the next run.
    assert_eq!(fetch(&hub, &shop, None, &[]).unwrap_err().message().rsplit_once(' ').unwrap().1, "503");
    assert!(shop.outputs().is_empty());
    hub.fault("big.bin", Fault::Cut(1_100_000));
    fetch(&hub, &shop, None, &[]).unwrap();
    assert_eq!(shop.outputs()["big.bin"], content);
    let ranges: Vec<String> = hub
        .log()
        .iter()
        .filter(|line| line.starts_with("/storage/"))
        .map(|line| line.replace("/storage/big.bin ", ""))
        .collect();
    let expected = ["", "bytes=1000000-", "bytes=1000000-", "bytes=1000000-", "bytes=2100000-"];
    assert_eq!(ranges, expected.map(|range| format!("range={range} authorization=")));
    // And what is whole is not asked for again.
    let before = hub.log().len();
    std::fs::remove_file(shop.output().join("big.bin")).unwrap();
    fetch(&hub, &shop, None, &[]).unwrap();
    assert_eq!(hub.log().len(), before + 2, "only the listing");
}

#[test]
fn a_server_that_ignores_the_range_is_no_harm() {
    let content = noise(300_000);
    let hub = Hub::start(&[("a.bin", &content)]);
    hub.fault("a.bin", Fault::Cut(100_000));
    hub.fault("a.bin", Fault::WholeFile);
    let shop = Workshop::new();
    fetch(&hub, &shop, None, &[]).unwrap();
    assert_eq!(shop.outputs()["a.bin"], content);
}

#[test]
fn a_busy_hub_is_asked_again() {
    let hub = Hub::start(&[("a", b"a")]);
    hub.repo.lock().unwrap().api_faults = [Fault::Status(429, Some(0)), Fault::Status(502, None)].into();
    let shop = Workshop::new();
    let (commit, fetched) = fetch(&hub, &shop, None, &[]).unwrap();
    assert_eq!((commit.as_deref(), fetched), (Some(COMMIT), Fetched { files: 1, bytes: 1 }));
}

#[test]
fn a_file_with_another_hash_is_refused() {
    for lfs in [true, false] {
        let hub = Hub::start(&[("a.bin", b"honest"), ("good.bin", b"good")]);
        let wrong = "0".repeat(if lfs { 64 } else { 40 });
        let lie = if lfs { json!({"lfs": {"oid": wrong, "size": 6}}) } else { json!({"oid": wrong}) };
        hub.repo.lock().unwrap().lies.insert("a.bin".into(), lie);
        let shop = Workshop::new();
        let error = fetch(&hub, &shop, None, &["a.bin"]).unwrap_err();
        // Of "honest", by sha256sum and by git hash-object.
        let (kind, found) = if lfs {
            ("SHA-256", "bf5b6382c2ea46ede3117c0250a9abf431ddf38fca4d50462e5834d09b1b33ef")
        } else {
            ("git blob SHA-1", "850dbc978f38e51efd4ae369c5b64b80c4cbf3e6")
        };
        assert_eq!(error.message(), format!("`a.bin` has the {kind} {found}, and the hub announced {wrong}"));
        assert!(shop.outputs().is_empty());
        assert!(std::fs::read_dir(shop.scratch()).unwrap().next().is_none(), "nothing of it is kept");
    }
}

#[test]
fn a_file_of_another_size_is_refused() {
    let hub = Hub::start(&[("a.bin", b"honest")]);
    let shop = Workshop::new();
    hub.repo.lock().unwrap().lies.insert("a.bin".into(), json!({"size": 5}));
    let error = fetch(&hub, &shop, None, &[]).unwrap_err();
    let address = format!("{}/datasets/org/corpus/resolve/{COMMIT}/a.bin", hub.address);
    assert_eq!(error.message(), format!("{address} sends more of `a.bin` than it announced"));
    hub.repo.lock().unwrap().lies.insert("a.bin".into(), json!({"size": 9}));
    let error = fetch(&hub, &shop, None, &[]).unwrap_err();
    assert_eq!(error.message(), format!("{address} broke off after 6 of 9 bytes of `a.bin`"));
    assert!(shop.outputs().is_empty());
}

#[test]
fn a_name_that_leaves_the_folder_is_refused() {
    for name in ["../evil", "/etc/evil", "data/../../evil", "a\\..\\evil"] {
        let hub = Hub::start(&[(name, b"evil"), ("good", b"good")]);
        let shop = Workshop::new();
        let error = fetch(&hub, &shop, None, &[]).unwrap_err();
        assert_eq!(
            error.message(),
            format!("the source names a file {name:?}, which is not a path below a folder")
        );
        assert!(shop.outputs().is_empty());
        assert!(!shop.output().join("../evil").exists());
    }
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    const CANARY: &str = "hf_canary_4711";
    let hub = Hub::start(&[("big.bin", b"content"), ("small", b"s")]);
    hub.repo.lock().unwrap().lfs.push("big.bin".into());
    hub.repo.lock().unwrap().token = Some(CANARY.into());
    let shop = Workshop::new();
    let error = fetch(&hub, &shop, None, &[]).unwrap_err();
    assert_eq!(error.advice(), Some("set HF_TOKEN to a token that may read it"));
    let error = fetch(&hub, &shop, Some("hf_wrong"), &[]).unwrap_err();
    assert!(!format!("{error:?}{:?}", error.advice()).contains("hf_wrong"));
    fetch(&hub, &shop, Some(CANARY), &[]).unwrap();
    assert_eq!(shop.outputs().len(), 2);
    for line in hub.log() {
        assert!(!line.starts_with("/storage/") || !line.contains("hf_"), "{line}");
    }
}

#[test]
fn what_is_not_there_is_said_to_be_so() {
    let hub = Hub::start(&[("a", b"a")]);
    let shop = Workshop::new();
    let error = fetch(&hub, &shop, None, &["*.parquet"]).unwrap_err();
    assert_eq!(error.message(), "no file of org/corpus matches the patterns");
    let parameters = json!({"repo": "org/corpus", "revision": "v9", "endpoint": hub.address});
    let error = shop.run("download", parameters).unwrap_err();
    assert_eq!(
        error.message(),
        format!(
            "the model `org/corpus` at revision `v9` was not found at {}/api/models/org/corpus/revision/v9",
            hub.address
        )
    );
    assert_eq!(error.code(), ExitCode::Invalid);
}

#[test]
fn plain_addresses_are_fetched_and_resumed_by_their_etag() {
    let content = noise(300_000);
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
