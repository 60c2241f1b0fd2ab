//! A token or a key is told to the one it is for: it stands in no log, receipt, key, error or other file, and is sent
//! to no other host.

mod hub_emulator;
mod support;
mod workshop;

use std::fs;
use std::path::Path;

use hub_emulator::{COMMIT, Fault, Hub, s3};
use support::{Project, Ran};

const TOKEN: &str = "hf_canary4711TokenOfNobody";
const KEY: &str = "AKIACANARYKEYOFNOBODY";
const SECRET: &str = "canary4712SecretOfNobody";
const SESSION: &str = "canary4713SessionOfNobody";

/// Runs `arguments` with every secret set, and looks for them wherever they could have been left.
fn run(project: &Project, arguments: &[&str], variables: &[(&str, &str)]) -> Ran {
    let mut command = project.command(arguments);
    command.env("HF_TOKEN", TOKEN).env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", SECRET);
    command.env("AWS_SESSION_TOKEN", SESSION).env("AWS_REGION", s3::REGION).env("CMX_LOG", "trace");
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let ran =
        Ran { code: output.status.code().unwrap(), stdout: text(&output.stdout), stderr: text(&output.stderr) };
    for said in [&ran.stdout, &ran.stderr] {
        assert!(find(said.as_bytes()).is_none(), "{said}");
    }
    let files = search(project.path());
    assert!(files > 3, "only {files} files were searched");
    ran
}

/// A secret, or a signature made with one, in some bytes.
fn find(bytes: &[u8]) -> Option<&'static str> {
    let secrets = [TOKEN, KEY, SECRET, SESSION, "X-Amz-Signature"];
    secrets.into_iter().find(|secret| bytes.windows(secret.len()).any(|window| window == secret.as_bytes()))
}

fn search(folder: &Path) -> usize {
    let mut files = 0;
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        assert!(find(path.as_os_str().as_encoded_bytes()).is_none(), "{}", path.display());
        if path.is_dir() && !path.is_symlink() {
            files += search(&path);
        } else if path.is_file() {
            files += 1;
            assert_eq!(find(&fs::read(&path).unwrap()), None, "in {}", path.display());
        }
    }
    files
}

fn project(stage: &str) -> Project {
    Project::new().file("p.toml", &format!("name = \"p\"\n[stage.get]\nuse = \"download\"\n{stage}\n"))
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let hub = Hub::start(&[("big.bin", b"content"), ("small", b"s")]);
    hub.repo().lfs.push("big.bin".into());
    hub.repo().token = Some(TOKEN.into());
    let project = project("repo = \"org/corpus\"");
    let endpoint = [("HF_ENDPOINT", hub.address.as_str())];
    run(&project, &["run", "p.toml"], &endpoint).success();
    for arguments in [&["status"][..], &["explain", "get", "-v"], &["logs", "get"], &["plan", "p.toml", "--json"]] {
        run(&project, arguments, &endpoint);
    }
    let log = hub.log();
    assert_eq!(log.iter().filter(|line| line.starts_with("/storage/")).count(), 1);
    for line in log {
        // Here the storage is another host.
        assert_eq!(line.contains(TOKEN), !line.starts_with("/storage/"), "{line}");
    }
}

#[test]
fn a_refused_token_is_not_told() {
    let hub = Hub::start(&[("a", b"a")]);
    hub.repo().token = Some("hf_another".into());
    let project = project("repo = \"org/corpus\"");
    let ran = run(&project, &["run", "p.toml"], &[("HF_ENDPOINT", &hub.address)]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("(HTTP 401)"), "{}", ran.stderr);
    assert!(ran.stderr.contains("the token in HF_TOKEN was sent"), "{}", ran.stderr);
    run(&project, &["logs", "get"], &[]);
    run(&project, &["status"], &[]);
    // One that cannot be sent.
    let endpoint = [("HF_ENDPOINT", hub.address.as_str())];
    let broken = format!("{TOKEN}\u{1}");
    let ran = run(&project, &["run", "p.toml"], &[endpoint[0], ("HF_TOKEN", &broken)]);
    assert!(ran.stderr.contains("look at the address, at HF_ENDPOINT and HF_TOKEN"), "{}", ran.stderr);
}

#[test]
fn no_redirect_takes_the_token_along_or_back() {
    let hub = Hub::start(&[("a", b"a"), ("b", b"b")]);
    let other = Hub::start(&[("a", b"a"), ("b", b"b")]);
    // Another port of the same host is another server; and one that sends back to the hub is told nothing either.
    let at = |hub: &Hub, name: &str| format!("{}/datasets/org/corpus/resolve/{COMMIT}/{name}", hub.address);
    hub.fault("a", Fault::Redirect(at(&other, "a")));
    hub.fault("b", Fault::Redirect(at(&other, "b")));
    other.fault("b", Fault::Redirect(at(&hub, "b")));
    let project = project("repo = \"org/corpus\"\nrepo_type = \"dataset\"");
    run(&project, &["run", "p.toml"], &[("HF_ENDPOINT", &hub.address)]).success();
    assert_eq!(other.log().len(), 2);
    assert!(other.log().iter().all(|line| !line.contains(TOKEN)), "{:?}", other.log());
    let back: Vec<bool> =
        hub.log().iter().filter(|line| line.contains("/b ")).map(|line| line.contains(TOKEN)).collect();
    assert_eq!(back, [true, false]);
}

#[test]
fn plain_addresses_are_told_nothing_and_told_of_in_part() {
    let hub = Hub::start(&[("a", b"a")]);
    let address = format!("{}/a?token={SECRET}", hub.address.replace("http://", &format!("http://me:{SESSION}@")));
    let project =
        Project::new().file("p.toml", "name = \"p\"\n[stage.get]\nuse = \"download\"\nrepo = \"org/corpus\"\n");
    let ran = run(&project, &["run", "p.toml"], &[("HF_ENDPOINT", &address)]);
    assert_ne!(ran.code, 0);
    let plain = project.path().join("p.toml");
    fs::write(plain, format!("name = \"p\"\n[stage.get]\nuse = \"download\"\nurls = [\"{}/a\"]\n", hub.address))
        .unwrap();
    run(&project, &["run", "p.toml"], &[]).success();
    assert!(!hub.log().last().unwrap().contains(TOKEN));
}

#[test]
fn a_key_signs_and_is_not_told() {
    let store = s3::Store::start(&[("data/a.txt", b"a"), ("data/b.txt", b"b")]);
    store.bucket().key = Some((KEY.into(), SECRET.into(), Some(SESSION.into())));
    let project = project("urls = [\"s3://corpus/data/\"]");
    let endpoint = [("AWS_ENDPOINT_URL", store.address.as_str())];
    run(&project, &["run", "p.toml"], &endpoint).success();
    assert_eq!(fs::read(project.path().join("outputs/get/b.txt")).unwrap(), b"b");
    let log = store.bucket().log.clone();
    assert!(log.iter().all(|line| line.contains("X-Amz-Signature=") && !line.contains(SECRET)), "{log:?}");
    // Refused, cut and slowed down: errors and logs tell the address without its query.
    store.bucket().key = Some((KEY.into(), "another".into(), Some(SESSION.into())));
    project.edit("p.toml", "corpus/data/", "corpus/");
    let ran = run(&project, &["run", "p.toml"], &endpoint);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("the store says SignatureDoesNotMatch"), "{}", ran.stderr);
}
