//! Object stores: buckets listed page by page, requests signed as AWS has it or anonymous, objects pinned by their
//! ETag, and no more trust in them than in others.

mod hub_emulator;
mod workshop;

use std::sync::Arc;

use cmx::error::{Error, ExitCode, Result};
use cmx::hub::{self, Client, Credentials, Fetched, Patterns, Rights, s3::Site};
use hub_emulator::client::{QUICK, fetch_listing, noise};
use hub_emulator::{Fault, s3};
use serde_json::json;
use workshop::Workshop;

const KEY: &str = "AKIAIOSFODNN7EXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

fn signer() -> Client {
    let rights = Rights { object_store: Some(Credentials::new(KEY, SECRET)), ..Rights::default() };
    Client::new(rights, QUICK, Arc::default())
}

fn stranger() -> Client {
    Client::new(Rights::default(), QUICK, Arc::default())
}

fn fetch(client: &Client, store: &s3::Store, url: &str, include: &[&str], shop: &Workshop) -> Result<Fetched> {
    let include: Vec<String> = include.iter().map(|glob| (*glob).to_owned()).collect();
    let site = Site::new(Some(&store.address), s3::REGION)?;
    let listing = hub::list_urls(client, &[url.to_owned()], &site, &Patterns::new(&include, &[])?)?;
    fetch_listing(client, &listing, shop)
}

fn names(shop: &Workshop) -> Vec<String> {
    shop.outputs().into_keys().collect()
}

const OBJECTS: &[(&str, &[u8])] = &[
    ("data/", b""),
    ("data/2023/a b+c.jsonl", b"a"),
    ("data/2023/\u{4e2d}\u{6587} (1).jsonl", b"b"),
    ("data/2024/c.jsonl", b"c"),
    ("data2/d.jsonl", b"d"),
    ("one", b"1"),
];

#[test]
fn a_folder_of_a_bucket_is_fetched_in_pages_with_signed_requests() {
    let store = s3::Store::start(OBJECTS);
    store.bucket().key = Some((KEY.into(), SECRET.into(), None));
    store.bucket().page_size = 2;
    let shop = Workshop::new();
    let fetched = fetch(&signer(), &store, "s3://corpus/data/", &[], &shop).unwrap();
    assert_eq!(fetched, Fetched { files: 3, bytes: 3, reused: 0 });
    assert_eq!(names(&shop), ["2023/a b+c.jsonl", "2023/\u{4e2d}\u{6587} (1).jsonl", "2024/c.jsonl"]);
    let pages = store.bucket().log.iter().filter(|line| line.contains("list-type=2")).count();
    assert_eq!(pages, 2);
    let shop = Workshop::new();
    fetch(&signer(), &store, "s3://corpus/", &["data/2023*", "one"], &shop).unwrap();
    assert_eq!(names(&shop), ["data/2023/a b+c.jsonl", "data/2023/\u{4e2d}\u{6587} (1).jsonl", "one"]);
}

#[test]
fn one_object_or_a_folder_without_its_slash() {
    let store = s3::Store::start(OBJECTS);
    for (url, expected) in [
        ("s3://corpus/one", &["one"][..]),
        ("s3://corpus/data/2024/c.jsonl", &["c.jsonl"]),
        ("s3://corpus/data/2024", &["c.jsonl"]),
        ("s3://corpus/data2", &["d.jsonl"]),
    ] {
        let shop = Workshop::new();
        fetch(&stranger(), &store, url, &[], &shop).unwrap();
        assert_eq!(names(&shop), expected, "{url}");
    }
    let error = fetch(&stranger(), &store, "s3://corpus/nothing", &[], &Workshop::new()).unwrap_err();
    assert_eq!(error.message(), "there is nothing to fetch at `s3://corpus/nothing`");
    assert_eq!(error.code(), ExitCode::Invalid);
}

#[test]
fn the_stage_names_what_pins_its_objects() {
    let store = s3::Store::start(OBJECTS);
    let shop = Workshop::new();
    let parameters = || json!({"urls": ["s3://corpus/data/"], "endpoint": store.address, "exclude": ["2024*"]});
    shop.run("download", parameters()).unwrap();
    let etags = shop.metrics()["etags"].clone();
    assert_eq!(names(&shop).len(), 2);
    shop.run("download", parameters()).unwrap();
    assert_eq!(shop.metrics()["etags"], etags);
    store.bucket().objects.insert("data/2023/a b+c.jsonl".into(), b"x".to_vec());
    shop.run("download", parameters()).unwrap();
    assert_ne!(shop.metrics()["etags"], etags);
    assert_eq!(shop.outputs()["2023/a b+c.jsonl"], b"x");
}

#[test]
fn a_cut_object_goes_on_and_another_version_is_not_mixed_in() {
    let content = noise("", 300_000);
    let store = s3::Store::start(&[("a.bin", &content)]);
    let shop = Workshop::new();
    store.fault("a.bin", Fault::Cut(100_000));
    store.fault("a.bin", Fault::Status(503, None));
    fetch(&stranger(), &store, "s3://corpus/a.bin", &[], &shop).unwrap();
    assert_eq!(shop.outputs()["a.bin"], content);
    assert!(store.bucket().log.last().unwrap().ends_with("range=bytes=100000-"));
    // Changed between listing and transfer.
    let site = Site::new(Some(&store.address), s3::REGION).unwrap();
    let patterns = Patterns::new(&[], &[]).unwrap();
    let listing = hub::list_urls(&stranger(), &["s3://corpus/a.bin".into()], &site, &patterns).unwrap();
    store.bucket().objects.insert("a.bin".into(), noise("other", 300_000));
    let shop = Workshop::new();
    let error = fetch_listing(&stranger(), &listing, &shop).unwrap_err();
    let message = format!("`a.bin` was changed at {}/corpus/a.bin while it was fetched", store.address);
    assert_eq!(error.message(), message);
    assert!(shop.outputs().is_empty());
}

#[test]
fn a_refusal_says_why() {
    let store = s3::Store::start(OBJECTS);
    store.bucket().key = Some((KEY.into(), SECRET.into(), None));
    let refused = |client: &Client, region: &str| -> Error {
        let site = Site::new(Some(&store.address), region).unwrap();
        let patterns = Patterns::new(&[], &[]).unwrap();
        hub::list_urls(client, &["s3://corpus/".into()], &site, &patterns).unwrap_err()
    };
    let error = refused(&stranger(), s3::REGION);
    let message = format!("access to the bucket `corpus` was refused at {}/corpus/ (HTTP 403)", store.address);
    assert_eq!(error.message(), message);
    let advice = "the store says InvalidAccessKeyId; the request was anonymous; AWS_ACCESS_KEY_ID and \
                  AWS_SECRET_ACCESS_KEY sign it";
    assert_eq!(error.advice(), Some(advice));
    let error = refused(&signer(), "us-east-1");
    let advice = "the store says AuthorizationHeaderMalformed; the bucket lies in another region: set \
                  AWS_REGION=eu-test-1";
    assert_eq!(error.advice(), Some(advice));
}

#[test]
fn a_listing_that_lies_is_refused() {
    for key in ["x/../../evil", "x//evil", "/evil", "x\\evil", "a\u{1}b"] {
        let store = s3::Store::start(&[(key, b"evil"), ("good", b"good")]);
        let shop = Workshop::new();
        let error = fetch(&stranger(), &store, "s3://corpus/", &["good"], &shop).unwrap_err();
        let message = format!("the source names a file {key:?}, which is not a path below a folder");
        assert_eq!(error.message(), message);
        assert!(shop.outputs().is_empty());
    }
    let store = s3::Store::start(&[("a", b"a"), ("a/b", b"b")]);
    let error = fetch(&stranger(), &store, "s3://corpus/", &[], &Workshop::new()).unwrap_err();
    assert_eq!(error.message(), "the source names `a` as a file and as a folder");
    store.bucket().next_token = Some("round".into());
    let error = fetch(&stranger(), &store, "s3://corpus/", &[], &Workshop::new()).unwrap_err();
    assert_eq!(error.message(), "the listing of the bucket `corpus` comes back to where it has been");
    for garbage in ["", "{}", "<html></html>", "<ListBucketResult><Contents>"] {
        store.bucket().list_faults.push_back(Fault::Body(garbage.into()));
        let error = fetch(&stranger(), &store, "s3://corpus/", &[], &Workshop::new()).unwrap_err();
        let message = format!("{}/corpus/ does not answer as an object store does", store.address);
        assert_eq!(error.message(), message);
    }
}
