//! `cmx init` makes a folder whose pipeline is accepted, runs offline, and is left alone afterwards.

mod support;

use support::Project;

#[test]
fn the_example_runs_and_is_fresh_afterwards() {
    let project = Project::new();
    std::fs::remove_file(project.path().join("datasets.toml")).expect("an empty folder");
    let ran = project.cmx(&["init"]).success();
    assert!(ran.stdout.ends_with("next: cmx run pipelines/example.toml\n"), "{}", ran.stdout);
    let ran = project.cmx(&["check", "pipelines/example.toml"]).success();
    assert_eq!(ran.stdout, "pipelines/example.toml: 6 stages, ok\n");
    project.cmx(&["run", "pipelines/example.toml"]).success();
    assert!(project.path().join("outputs/train/model.safetensors").is_file());
    let again = project.cmx(&["run", "pipelines/example.toml"]).success();
    assert!(again.done().is_empty(), "{}", again.stderr);
}

#[test]
fn nothing_is_overwritten() {
    let project = Project::new().file("new/corpus/notes.jsonl", "mine");
    let ran = project.cmx(&["init", "new"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("new/corpus/notes.jsonl is there already; nothing was written"), "{}", ran.stderr);
    assert_eq!(project.read("new/corpus/notes.jsonl"), "mine");
    assert!(!project.path().join("new/datasets.toml").exists());
}
