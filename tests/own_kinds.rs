//! A kind of the user's own needs no Rust: a manifest with a command beside the pipeline.

mod support;

use support::Project;

#[test]
fn a_command_in_stages_is_a_kind() {
    let project = Project::new()
        .file(
            "pipelines/stages/keep.toml",
            r#"
description = "Keeps the lines that hold a word."
command = ["sh", "-c", "grep {word} {text} > {output}/kept.txt"]
inputs  = ["text"]

[parameters]
word = "river"
"#,
        )
        .file("text.txt", "a river\na hill\na lake\n")
        .file(
            "pipelines/own.toml",
            r#"
name = "own"
[stage.keep]
text = "text.txt"
[stage.again]
use  = "keep"
text = "@keep/kept.txt"
word = "a"
"#,
        );
    let ran = project.cmx(&["run", "pipelines/own.toml"]).success();
    assert_eq!(ran.done(), ["keep", "again"]);
    assert_eq!(project.read("outputs/again/kept.txt"), "a river\n");
    project.edit("pipelines/stages/keep.toml", "\"river\"", "\"lake\"");
    let why = project.cmx(&["explain", "keep"]).success().stdout;
    assert_eq!(why, "keep: word: \"river\" → \"lake\"\n");
    assert_eq!(project.cmx(&["run"]).success().done(), ["keep", "again"]);
    assert_eq!(project.read("outputs/again/kept.txt"), "a lake\n");

    project.edit("pipelines/own.toml", "word = \"a\"", "wrod = \"a\"");
    let ran = project.cmx(&["run"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("did you mean `word`?"), "{}", ran.stderr);
}
