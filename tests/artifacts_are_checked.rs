//! An artifact edited, truncated or deleted by hand, also with size and mtime put back, is noticed and never used.

mod support;

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use support::Project;

const PIPELINE: &str = r#"
name = "p"
[stage.make]
use     = "command"
command = ["sh", "-c", "echo the whole truth > {output}/a.txt; echo more > {output}/b.txt"]
inputs  = {}
[stage.use]
use     = "command"
command = ["cp", "{made}/a.txt", "{output}/copy.txt"]
inputs  = { made = "@make" }
"#;

fn project() -> Project {
    let project = Project::new().file("p.toml", PIPELINE);
    project.run();
    project
}

/// The file behind a view, made writable as its owner can.
fn file(project: &Project, path: &str) -> PathBuf {
    let path = fs::canonicalize(project.path().join(path)).expect("a file of an artifact");
    for each in [path.parent().expect("a parent"), &path] {
        let mode = if each.is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(each, fs::Permissions::from_mode(mode)).expect("a mode");
    }
    path
}

fn quarantined(project: &Project) -> Vec<PathBuf> {
    let listing = fs::read_dir(project.path().join("cache/quarantine"));
    listing.map(|items| items.flatten().map(|item| item.path()).collect()).unwrap_or_default()
}

/// After the damage: the next run says so, keeps what was there, makes the artifact again, and what follows stays.
fn is_remade(project: &Project, difference: &str, kept: Option<(&str, &str)>) {
    let status = project.cmx(&["status", "p.toml"]).success();
    assert!(status.stdout.contains(difference), "{}", status.stdout);
    let ran = project.run();
    assert!(ran.stderr.contains(difference), "{}", ran.stderr);
    assert_eq!(ran.done(), ["make"], "{}", ran.stderr);
    assert_eq!(project.read("outputs/make/a.txt"), "the whole truth\n");
    assert_eq!(project.read("outputs/use/copy.txt"), "the whole truth\n");
    let places = quarantined(project);
    assert_eq!(places.len(), 1, "{places:?}");
    if let Some((name, text)) = kept {
        assert_eq!(fs::read_to_string(places[0].join(name)).expect("the edit is kept"), text);
    }
    assert_eq!(project.run().done(), [""; 0]);
}

#[test]
fn an_edit_is_kept_in_quarantine() {
    let project = project();
    fs::write(file(&project, "outputs/make/a.txt"), "my own words\n").expect("an edit");
    is_remade(&project, "a.txt changed", Some(("a.txt", "my own words\n")));
}

#[test]
fn an_edit_with_size_and_mtime_put_back_is_noticed() {
    let project = project();
    let path = file(&project, "outputs/make/a.txt");
    project.run();
    let modified = fs::metadata(&path).and_then(|metadata| metadata.modified()).expect("a time");
    fs::write(&path, "the whole lies!\n").expect("an edit");
    let opened = File::options().append(true).open(&path).expect("the file");
    opened.set_times(FileTimes::new().set_modified(modified)).expect("the old time");
    assert_eq!(fs::metadata(&path).expect("metadata").len(), "the whole truth\n".len() as u64);
    is_remade(&project, "a.txt changed", Some(("a.txt", "the whole lies!\n")));
}

#[test]
fn a_truncated_file_is_noticed() {
    let project = project();
    File::options()
        .write(true)
        .open(file(&project, "outputs/make/a.txt"))
        .and_then(|f| f.set_len(3))
        .expect("a cut");
    is_remade(&project, "a.txt changed", Some(("a.txt", "the")));
}

#[test]
fn a_deleted_file_is_noticed() {
    let project = project();
    fs::remove_file(file(&project, "outputs/make/b.txt")).expect("a removal");
    is_remade(&project, "b.txt missing", None);
}

#[test]
fn an_added_file_is_noticed() {
    let project = project();
    let path = file(&project, "outputs/make/b.txt").with_file_name("c.txt");
    fs::write(path, "mine").expect("an addition");
    is_remade(&project, "c.txt added", Some(("c.txt", "mine")));
}

#[test]
fn a_deleted_artifact_is_made_again() {
    let project = project();
    let folder = fs::canonicalize(project.path().join("outputs/make")).expect("an artifact");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("a mode");
    fs::remove_dir_all(&folder).expect("a removal");
    let ran = project.run();
    assert_eq!(ran.done(), ["make"], "{}", ran.stderr);
    assert!(ran.stderr.contains("its artifact is missing"), "{}", ran.stderr);
    assert_eq!(project.read("outputs/make/b.txt"), "more\n");
}

#[test]
fn verify_reads_everything_again() {
    let project = project();
    assert!(project.cmx(&["verify"]).success().stdout.starts_with("2 artifacts are whole"));
    fs::write(file(&project, "outputs/make/a.txt"), "other").expect("an edit");
    let ran = project.cmx(&["verify"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stdout.contains("(p/make): a.txt changed"), "{}", ran.stdout);
}

#[test]
fn a_view_never_replaces_a_users_folder() {
    let project = Project::new().file("p.toml", PIPELINE).file("outputs/make/mine.txt", "mine");
    let ran = project.cmx(&["run", "p.toml"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("outputs/make is in the way of a stage's output"), "{}", ran.stderr);
    assert_eq!(project.read("outputs/make/mine.txt"), "mine");
}

#[test]
fn garbage_is_what_no_pipeline_uses() {
    let project = project();
    assert!(project.cmx(&["gc", "--dry-run"]).success().stdout.starts_with("nothing to remove"));
    let before = project.digests();
    project.edit("p.toml", "whole truth", "new truth");
    project.run();
    let shown = project.cmx(&["gc", "--dry-run"]).success().stdout;
    assert!(shown.contains("p/make") && shown.contains("p/use") && shown.contains("would be freed"), "{shown}");
    project.cmx(&["gc"]).success();
    assert!(project.cmx(&["gc", "--dry-run"]).success().stdout.starts_with("nothing to remove"));
    assert_eq!(project.run().done(), [""; 0], "what is in use stays");
    project.edit("p.toml", "new truth", "whole truth");
    assert_eq!(project.run().done(), ["make", "use"], "what went is made again");
    assert_eq!(project.digests(), before);
}

/// What a stage links to is taken for what it was, unless it was written to meanwhile.
#[test]
fn a_link_has_the_digest_of_its_file_and_an_edit_through_it_is_seen() {
    let project = Project::new().file(
        "p.toml",
        r#"
name = "p"
[stage.make]
use     = "command"
command = ["sh", "-c", "head -c 17000000 /dev/zero > {output}/large"]
inputs  = {}
[stage.link]
use     = "command"
command = ["sh", "-c", "ln {made}/large {output}/linked && echo more > {output}/more"]
inputs  = { made = "@make" }
"#,
    );
    project.run();
    // Every file is read for this.
    assert!(project.cmx(&["verify"]).success().stdout.starts_with("2 artifacts are whole"));
    assert_eq!(project.run().done(), [""; 0]);
    let tree = |view: &str| project.read(&format!("cache/trees/{}", project.digests()[view]));
    let digest = |view: &str, file: &str| {
        let line = tree(view).lines().find(|line| line.ends_with(file)).expect("a file").to_owned();
        line.split_once(' ').expect("a digest").0.to_owned()
    };
    assert_eq!(digest("outputs/link", " linked"), digest("outputs/make", " large"));

    let edit = "chmod u+w {output}/linked && printf x | dd of={output}/linked conv=notrunc status=none";
    project.edit("p.toml", "echo more > {output}/more", edit);
    let ran = project.run();
    assert_eq!(ran.done(), ["link"], "{}", ran.stderr);
    assert_ne!(digest("outputs/link", " linked"), digest("outputs/make", " large"));
    // What was made before of the same file is altered with it; what the edit made is whole.
    let ran = project.cmx(&["verify"]);
    let short = |view: &str| project.digests()[view][..12].to_owned();
    assert!(ran.stdout.contains(&format!("{} (p/make): large changed", short("outputs/make"))), "{}", ran.stdout);
    assert!(!ran.stdout.contains(&short("outputs/link")), "{}", ran.stdout);
}
