//! The hub that the tests of downloads run against is one to Hugging Face's own client too, and both see the same.

mod hub_emulator;
mod workshop;

use std::collections::BTreeMap;
use std::process::Command;

use cmx::hub::{self, Checksum, Patterns, Repo, RepoType};
use hub_emulator::client::{QUICK, client, fetch_listing, noise};
use hub_emulator::{Hub, hex};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use workshop::{Workshop, python};

#[test]
#[ignore = "needs the Python that `make parity` prepares"]
fn hugging_faces_client_sees_what_ours_does() {
    let Some(python) = python() else { return };
    let big = noise("", 3_000_000);
    let hub = Hub::start(&[("old", b"old")]);
    let commit = hub.commit(&[
        (".gitattributes", b"*.bin filter=lfs\n"),
        ("README.md", "\u{8c37}".as_bytes()),
        ("data/2022-01.jsonl", b"{}\n"),
        ("data/2023-01.jsonl", b"{\"text\": \"a\"}\n"),
        ("data/2023 02.jsonl", b""),
        ("data/2023-big.bin", &big),
        ("data/x/\u{4e2d}\u{6587}.bin", &big[..5]),
    ]);
    hub.repo().lfs = vec!["data/2023-big.bin".into(), "data/x/\u{4e2d}\u{6587}.bin".into()];
    hub.repo().page_size = 3;
    for (kind, name, token) in
        [(RepoType::Dataset, "dataset", None), (RepoType::Model, "model", Some("hf_canary4711"))]
    {
        let shop = Workshop::new();
        hub.repo().token = token.map(str::to_owned);
        hub.repo().log.clear();
        let ran = Command::new(&python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parity/hub_emulator.py"))
            .args(["org/corpus", name, "data/2023*"])
            .arg(shop.input())
            .env("HF_ENDPOINT", &hub.address)
            .env("HF_HOME", shop.input())
            .env("HF_TOKEN", token.unwrap_or_default())
            .env("HF_HUB_DISABLE_TELEMETRY", "1")
            .env("HF_HUB_DISABLE_XET", "1")
            .output()
            .unwrap();
        assert!(ran.status.success(), "{}\n{:#?}", String::from_utf8_lossy(&ran.stderr), hub.log());
        let seen: Value = serde_json::from_slice(&ran.stdout).unwrap();
        assert!(hub.log().iter().all(|line| !line.starts_with("/storage/") || !line.contains("hf_")));

        let client = client(token, QUICK);
        let repo = Repo { name: "org/corpus".into(), kind, revision: "main".into() };
        let patterns = |globs: &[&str]| {
            Patterns::new(&globs.iter().map(|glob| (*glob).to_owned()).collect::<Vec<_>>(), &[]).unwrap()
        };
        let all = hub::list(&client, &hub.address, &repo, &patterns(&[])).unwrap();
        assert_eq!(
            (all.commit.as_deref(), seen["commit"].as_str()),
            (Some(commit.as_str()), Some(commit.as_str()))
        );
        assert_eq!(seen["files"].as_object().unwrap().len(), all.files.len());
        for file in &all.files {
            let theirs = &seen["files"][&file.name];
            assert_eq!(theirs[0].as_u64(), file.size, "{}", file.name);
            match file.checksum.as_ref().unwrap() {
                Checksum::Sha256(hash) => assert_eq!(theirs[2], json!(hash), "{}", file.name),
                Checksum::GitBlob(hash) => assert_eq!((&theirs[1], &theirs[2]), (&json!(hash), &Value::Null)),
            }
        }
        let wanted = hub::list(&client, &hub.address, &repo, &patterns(&["data/2023*"])).unwrap();
        fetch_listing(&client, &wanted, &shop).unwrap();
        let ours: BTreeMap<String, Value> =
            shop.outputs().into_iter().map(|(name, bytes)| (name, hex(&Sha256::digest(bytes)).into())).collect();
        assert_eq!(ours.len(), 3);
        assert_eq!(seen["snapshot"], json!(ours));
    }
}
