//! A full disk and a missing permission: a clear error, an exit code, nothing lost, and the next run goes on.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use support::{Project, Tmpfs};

const PIPELINE: &str = r#"
name = "p"
[stage.small]
use     = "command"
command = ["sh", "-c", "echo small > {output}/small"]
inputs  = {}
[stage.large]
use     = "command"
command = ["sh", "-c", "cat {small}/small; head -c 3000000 /dev/zero > {output}/large"]
inputs  = { small = "@small" }
"#;

#[test]
fn a_full_disk_fails_the_stage_and_keeps_the_rest() {
    let project = Project::new().file("p.toml", PIPELINE);
    let Some(cache) = Tmpfs::new(project.path().join("cache"), "2m") else { return };
    let ran = project.cmx(&["run", "p.toml"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("large: failed: sh failed: exit status: 1"), "{}", ran.stderr);
    assert!(project.cmx(&["logs", "large"]).success().stdout.contains("No space left on device"));
    assert_eq!(project.states()["small"], "fresh");
    cache.resize(20 << 20);
    assert_eq!(project.run().done(), ["large"]);
    assert!(project.cmx(&["verify"]).success().stdout.starts_with("2 artifacts are whole"));
}

#[test]
fn a_disk_that_fills_while_a_built_in_stage_writes() {
    let project = Project::new()
        .file(
            "datasets.toml",
            "[words]\nsplits = [\"train\", \"dev\"]\nroot = \"words\"\ndoc = \"{name}-{split}\"\n",
        )
        .file("p.toml", "name = \"p\"\n[stage.split]\ndataset = \"words\"\n");
    let line = format!("{{\"text\": \"{}\"}}\n", "words ".repeat(200));
    project.write(
        "words/words.jsonl",
        &(0..2000).map(|n| line.replacen("words", &n.to_string(), 1)).collect::<String>(),
    );
    let Some(_cache) = Tmpfs::new(project.path().join("cache"), "1m") else { return };
    let ran = project.cmx(&["run", "p.toml"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("split: failed: cannot split the dataset `words`: cannot write "),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("No space left on device"), "{}", ran.stderr);
    assert!(!project.path().join("data").exists(), "nothing half-made is shown");
}

#[test]
fn a_workspace_without_permission_is_said_plainly() {
    let project = Project::new().file("p.toml", PIPELINE);
    fs::set_permissions(project.path(), fs::Permissions::from_mode(0o555)).expect("a mode");
    let mut command = project.command(&["run", "p.toml"]);
    if rustix::process::getuid().is_root() {
        // Root may write anywhere: nobody may not. The program must be where nobody can read it.
        let program =
            tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir().expect("a folder");
        let copy = program.path().join("cmx");
        fs::copy(support::CMX, &copy).expect("a copy");
        let output = Command::new(&copy)
            .args(["run", "p.toml"])
            .current_dir(project.path())
            .env("NO_COLOR", "1")
            .uid(65534)
            .gid(65534)
            .output()
            .expect("the cmx program");
        check(&output);
        return;
    }
    check(&command.output().expect("the cmx program"));
}

fn check(output: &std::process::Output) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("cannot create") && told.to_lowercase().contains("permission denied"), "{told}");
    assert!(told.contains("cmx needs to write in the workspace"), "{told}");
}
