//! A source that lies, stalls or attacks: a clear error, nothing outside the folder, nothing half-made left as whole.

mod hub_emulator;
mod workshop;

use std::time::Duration;

use cmx::error::ExitCode;
use cmx::hub::{Checksum, Listing, Origin, Remote};
use hub_emulator::client::{QUICK, client, fetch, fetch_as, fetch_listing, noise};
use hub_emulator::{COMMIT, Fault, Hub};
use serde_json::json;
use workshop::Workshop;

/// The error of a download from a hub that misbehaves. Whatever it is, nothing of it stays.
fn refused(hub: &Hub) -> String {
    let shop = Workshop::new();
    let error = fetch(hub, &shop).unwrap_err();
    assert!(shop.outputs().is_empty(), "{:?}", shop.outputs().keys());
    for entry in std::fs::read_dir(shop.pool()).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap();
        assert!(name.ends_with(".part"), "{name} passes for a whole file");
    }
    error.one_line()
}

fn address(hub: &Hub, name: &str) -> String {
    format!("{}/datasets/org/corpus/resolve/{COMMIT}/{name}", hub.address)
}

#[test]
fn a_name_that_leaves_the_folder_is_refused() {
    for name in
        ["../evil", "/etc/evil", "data/../../evil", "a\\..\\evil", "a\0b", "a\nb", "a//b", "./a", "a/", ".."]
    {
        let hub = Hub::start(&[(name, b"evil"), ("good", b"good")]);
        let shop = Workshop::new();
        // Also when nobody wants it.
        for include in [&[][..], &["good"]] {
            let error = fetch_as(&client(None, QUICK), &hub, &shop, include).unwrap_err();
            let message = format!("the source names a file {name:?}, which is not a path below a folder");
            assert_eq!(error.message(), message);
        }
        assert!(shop.outputs().is_empty());
        assert!(!shop.output().join("../evil").exists());
    }
}

#[test]
fn two_files_in_one_place_are_refused() {
    let hub = Hub::start(&[("a", b"a"), ("b", b"b")]);
    hub.repo().lies.insert("b".into(), json!({"path": "a"}));
    assert_eq!(refused(&hub), "the source names two files `a`");
    hub.repo().lies.insert("b".into(), json!({"path": "a/x/b"}));
    assert_eq!(refused(&hub), "the source names `a` as a file and as a folder");
}

#[test]
fn a_file_with_another_hash_is_refused() {
    for lfs in [true, false] {
        let hub = Hub::start(&[("a.bin", b"honest")]);
        let wrong = "0".repeat(if lfs { 64 } else { 40 });
        let lie = if lfs { json!({"lfs": {"oid": wrong, "size": 6}}) } else { json!({"oid": wrong}) };
        hub.repo().lies.insert("a.bin".into(), lie);
        // Of "honest", by sha256sum and by git hash-object.
        let (kind, found) = if lfs {
            ("SHA-256", "bf5b6382c2ea46ede3117c0250a9abf431ddf38fca4d50462e5834d09b1b33ef")
        } else {
            ("git blob SHA-1", "850dbc978f38e51efd4ae369c5b64b80c4cbf3e6")
        };
        assert_eq!(refused(&hub), format!("`a.bin` has the {kind} {found}, and the hub announced {wrong}"));
        assert_eq!(hub.fetched(), ["a.bin", "a.bin"], "the transfer may have been at fault");
        let shop = Workshop::new();
        fetch(&hub, &shop).unwrap_err();
        assert!(std::fs::read_dir(shop.pool()).unwrap().next().is_none(), "nothing of it is kept");
    }
}

#[test]
fn a_file_of_another_size_is_refused() {
    let hub = Hub::start(&[("a.bin", b"honest")]);
    let at = address(&hub, "a.bin");
    for size in [5, 9] {
        hub.repo().lies.insert("a.bin".into(), json!({"size": size}));
        assert_eq!(refused(&hub), format!("{at} has 6 bytes of `a.bin`, and the listing says {size}"));
    }
    // One that does not say how much it sends.
    hub.repo().lies.clear();
    hub.fault("a.bin", Fault::Longer);
    assert_eq!(refused(&hub), format!("{at} sends more of `a.bin` than it announced"));
    hub.repo().lies.insert("a.bin".into(), json!({"size": 20}));
    for _ in 0..3 {
        hub.fault("a.bin", Fault::Longer);
    }
    assert_eq!(refused(&hub), format!("{at} broke off after 14 of 20 bytes of `a.bin`"));
}

#[test]
fn a_body_that_always_ends_early_is_refused() {
    let hub = Hub::start(&[("a.bin", b"honest")]);
    for _ in 0..3 {
        hub.fault("a.bin", Fault::Cut(0));
    }
    assert!(refused(&hub).starts_with(&format!("cannot read from {}: ", address(&hub, "a.bin"))));
}

#[test]
fn redirects_end() {
    let hub = Hub::start(&[("a.bin", b"honest")]);
    let at = address(&hub, "a.bin");
    for _ in 0..11 {
        hub.fault("a.bin", Fault::Redirect("a.bin?token=secret".into()));
    }
    assert_eq!(refused(&hub), format!("{at} redirects more than 10 times, at last to {at}"));
    for place in ["file:///etc/passwd", "ftp://h/a", "http://", "data:text/plain,a"] {
        hub.fault("a.bin", Fault::Redirect(place.into()));
        assert_eq!(refused(&hub), format!("{at} redirects to what is no address of the web"));
    }
    hub.repo().api_faults = vec![Fault::Redirect("?again".into()); 20].into();
    assert!(refused(&hub).contains("/revision/main redirects more than 10 times, at last to "));
}

#[test]
fn another_part_than_was_asked_for_is_not_used() {
    let content = noise("", 300_000);
    let hub = Hub::start(&[("a.bin", &content)]);
    let at = address(&hub, "a.bin");
    for (fault, message) in [
        (Fault::WrongRange, format!("{at} answered with another part of `a.bin` than was asked for")),
        (Fault::WrongTotal, format!("{at} has 300001 bytes of `a.bin`, and the listing says 300000")),
    ] {
        hub.fault("a.bin", Fault::Cut(100_000));
        hub.fault("a.bin", fault.clone());
        hub.fault("a.bin", Fault::Status(503, None));
        let shop = Workshop::new();
        fetch(&hub, &shop).unwrap_err();
        // Begun anew after the answer that cannot be trusted.
        fetch(&hub, &shop).unwrap();
        assert_eq!(shop.outputs()["a.bin"], content);
        assert!(hub.log().last().unwrap().contains("range= "), "{:?}", hub.log());
        // One that cannot do better: its three attempts end after a wrong answer.
        for fault in [Fault::Cut(100), fault.clone(), Fault::Cut(100), Fault::Cut(0), Fault::Cut(0), fault] {
            hub.fault("a.bin", fault);
        }
        let shop = Workshop::new();
        fetch(&hub, &shop).unwrap_err();
        let error = fetch(&hub, &shop).unwrap_err();
        assert_eq!(error.message(), message);
        hub.repo().faults.clear();
    }
}

#[test]
fn a_server_that_ignores_the_range_is_no_harm() {
    let content = noise("", 300_000);
    let hub = Hub::start(&[("a.bin", &content)]);
    hub.fault("a.bin", Fault::Cut(100_000));
    hub.fault("a.bin", Fault::WholeFile);
    let shop = Workshop::new();
    fetch(&hub, &shop).unwrap();
    assert_eq!(shop.outputs()["a.bin"], content);
    assert_eq!(hub.served(), 400_000);
}

#[test]
fn a_range_that_is_refused_is_no_harm() {
    let content = noise("", 300_000);
    let hub = Hub::start(&[("a.bin", &content)]);
    hub.fault("a.bin", Fault::Cut(100_000));
    hub.fault("a.bin", Fault::Status(416, None));
    let shop = Workshop::new();
    fetch(&hub, &shop).unwrap();
    assert_eq!(shop.outputs()["a.bin"], content);
    for _ in 0..3 {
        hub.fault("a.bin", Fault::Status(416, None));
    }
    assert_eq!(refused(&hub), format!("{} has no part of `a.bin` after 0 bytes", address(&hub, "a.bin")));
}

#[test]
fn an_encoding_that_nobody_asked_for_is_refused() {
    let hub = Hub::start(&[("a.bin", b"honest")]);
    hub.fault("a.bin", Fault::Encoded);
    let message = "sends `a.bin` encoded (\"gzip\"), which was not asked for";
    assert_eq!(refused(&hub), format!("{} {message}", address(&hub, "a.bin")));
}

#[test]
fn an_answer_that_is_no_hubs_is_refused() {
    let hub = Hub::start(&[("a.bin", b"honest")]);
    let revision = format!("{}/api/datasets/org/corpus/revision/main", hub.address);
    for garbage in ["<html>captive portal</html>", "{}", "", "{\"sha\": \"../../evil\"}", "\u{0}"] {
        hub.repo().api_faults = [Fault::Body(garbage.into())].into();
        let error = refused(&hub);
        assert!(error.starts_with(&format!("{revision} does not answer as a Hugging Face hub does: ")), "{error}");
        assert!(!error.contains("evil"));
    }
    let commit = format!("{{\"sha\": \"{COMMIT}\"}}");
    for garbage in [
        "{\"error\": 1}",
        "[{\"type\": \"file\"}]",
        "[[[[",
        "[{\"type\": \"file\", \"path\": \"a\", \"size\": 1}]",
        "[{\"type\": \"file\", \"path\": \"a\", \"size\": 1e99, \"oid\": \"0\"}]",
    ] {
        hub.repo().api_faults = [Fault::Body(commit.clone().into()), Fault::Body(garbage.into())].into();
        let error = refused(&hub);
        assert!(error.contains(" does not answer as a Hugging Face hub does: "), "{error}");
    }
}

#[test]
fn a_listing_without_end_is_refused() {
    let hub = Hub::start(&[("a.bin", b"honest")]);
    let tree = format!("{}/api/datasets/org/corpus/tree/{COMMIT}", hub.address);
    let what = "the listing of the dataset `org/corpus` at revision `main` continues at";
    hub.repo().next_page = Some(format!("{tree}?recursive=true&expand=false"));
    assert_eq!(refused(&hub), format!("{what} {tree}, where it has been"));
    hub.repo().next_page = Some("https://evil.example/collect".into());
    assert_eq!(refused(&hub), format!("{what} https://evil.example/collect, which is no listing"));
}

#[test]
fn a_mirror_may_pass_on_the_hubs_own_links() {
    let hub = Hub::start(&[("a", b"a"), ("b", b"b"), ("c", b"c")]);
    // One page more, at the Hub's address: asked of the mirror, with its token.
    let tree = format!("/api/datasets/org/corpus/tree/{COMMIT}");
    hub.repo().next_page = Some(format!("https://huggingface.co{tree}?recursive=true&cursor=3"));
    let error = refused(&hub);
    assert!(error.ends_with(", where it has been"), "{error}");
    assert_eq!(hub.log().iter().filter(|line| line.starts_with(&tree)).count(), 2);
}

#[test]
fn what_does_not_fit_is_not_begun() {
    let hub = Hub::start(&[("a.bin", b"honest"), ("b.bin", b"honest")]);
    hub.repo().lies.insert("a.bin".into(), json!({"size": 1_u64 << 62}));
    // Sums of lies do not wrap around.
    hub.repo().lies.insert("b.bin".into(), json!({"size": u64::MAX}));
    let error = refused(&hub);
    assert!(error.starts_with(&format!("the files need {} bytes more, and ", u64::MAX)), "{error}");
    assert_eq!(hub.served(), 0);
    assert!(hub.fetched().is_empty());
}

#[test]
fn a_silent_server_is_not_waited_for() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/a", listener.local_addr().unwrap());
    let from = Origin::Plain(url.clone());
    let file =
        Remote { name: "a".into(), from, size: Some(1), checksum: Some(Checksum::Sha256("0".into())), etag: None };
    let patience = cmx::hub::Patience { silence: Duration::from_millis(50), attempts: 2, ..QUICK };
    let listing = Listing { commit: None, files: vec![file] };
    let error = fetch_listing(&client(None, patience), &listing, &Workshop::new()).unwrap_err();
    assert_eq!(error.message(), format!("cannot read from {url}"));
    assert_eq!(error.code(), ExitCode::Failed);
}
