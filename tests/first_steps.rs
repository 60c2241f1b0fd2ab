//! What a newcomer meets: no pipeline yet, a wrong name, a pipe that is closed early, one name for two pipelines.

mod support;

use std::io::Read;
use std::process::Stdio;

use support::Project;

const PIPELINE: &str = "name = \"one\"\n[stage.a]\nuse = \"command\"\ncommand = [\"touch\", \"{output}/a\"]\n";

fn told(project: &Project, arguments: &[&str]) -> String {
    let ran = project.cmx(arguments);
    assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{}", ran.stderr);
    ran.stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

#[test]
fn nothing_is_here_yet() {
    let project = Project::new();
    let none = "× no pipeline was named, and none has been run here yet\nhelp: ";
    for command in ["run", "status", "plan", "graph", "tokens"] {
        let init = "`cmx init FOLDER` makes a project with a pipeline that runs as it is";
        assert_eq!(told(&project, &[command]), format!("{none}{init}"));
    }
    let project = project.file("pipelines/one.toml", PIPELINE);
    assert_eq!(told(&project, &["run"]), format!("{none}name its manifest, for example pipelines/one.toml"));
    for near in ["one", "one.toml", "pipelines/onee.toml"] {
        let expected = format!("× there is no pipeline {near}\nhelp: did you mean `pipelines/one.toml`?");
        assert_eq!(told(&project, &["run", near]), expected);
    }
    assert_eq!(told(&project, &["-C", "nowhere", "status"]), "× there is no folder nowhere");
    assert!(!project.path().join("cache").exists(), "asking makes nothing");
}

#[test]
fn a_closed_pipe_ends_nothing() {
    let project = Project::new().file("one.toml", PIPELINE);
    for arguments in [&["run", "one.toml"][..], &["schema"], &["completions", "fish"], &["status"], &["logs", "a"]]
    {
        let mut command = project.command(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the cmx program");
        drop(child.stdout.take());
        let mut told = String::new();
        child.stderr.take().expect("a pipe").read_to_string(&mut told).expect("text");
        assert!(child.wait().expect("an end").success(), "{arguments:?}: {told}");
        assert!(!told.contains("panicked"), "{arguments:?}: {told}");
    }
    assert!(project.cmx(&["status", "one.toml"]).success().stdout.contains("fresh"));
    // A run goes on when nobody reads what it says.
    project.edit("one.toml", "[\"touch\"", "[\"touch\", \"{output}/b\"");
    let mut child = project
        .command(&["run", "one.toml"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the cmx program");
    drop(child.stderr.take());
    assert!(child.wait().expect("an end").success());
}

#[test]
fn two_pipelines_of_one_name() {
    let project = Project::new().file("one.toml", PIPELINE).file("two.toml", PIPELINE);
    project.cmx(&["run", "one.toml"]).success();
    assert_eq!(
        told(&project, &["run", "two.toml"]),
        "× one.toml and two.toml are both named `one`\nhelp: give one of them another `name`"
    );
    project.edit("one.toml", "name = \"one\"", "name = \"1\"");
    project.cmx(&["run", "two.toml"]).success();
    // A manifest may be renamed.
    std::fs::rename(project.path().join("two.toml"), project.path().join("renamed.toml")).expect("a renamed file");
    project.cmx(&["run", "renamed.toml"]).success();
}
