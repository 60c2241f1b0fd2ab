//! A second run does nothing; an edit reruns what depends on it; the same bytes stop the wave; back restores.

mod support;

use std::fs;

use support::Project;

const PIPELINE: &str = r#"
name = "p"

[stage.words]
use     = "command"
command = ["sh", "-c", "tr a-z A-Z < {text} > {output}/words"]
inputs  = { text = "text.txt" }

[stage.count]
use     = "command"
command = ["sh", "-c", "wc -l < {words}/words > {output}/count"]
inputs  = { words = "@words" }

[stage.report]
use     = "command"
command = ["sh", "-c", "cat {count}/count > {output}/report"]
inputs  = { count = "@count" }

[stage.apart]
use     = "command"
command = ["sh", "-c", "echo apart > {output}/apart"]
inputs  = {}
"#;

fn project() -> Project {
    let project = Project::new().file("p.toml", PIPELINE).file("text.txt", "one\ntwo\n");
    let mut done = project.run().done();
    done.sort();
    assert_eq!(done, ["apart", "count", "report", "words"]);
    project
}

const NOTHING: [&str; 0] = [];

#[test]
fn a_second_run_does_nothing_and_writes_nothing() {
    let project = project();
    project.run();
    let listing = |folder: &str| fs::read_dir(project.path().join(folder)).expect("a folder").count();
    let runs = listing("cache/runs");
    let ran = project.cmx(&["run"]).success();
    assert_eq!(ran.stdout, "p: nothing to do, 4 stages fresh\n");
    assert_eq!(ran.stderr, "");
    assert_eq!(listing("cache/runs"), runs);
}

#[test]
fn comments_and_white_space_change_nothing() {
    let project = project();
    project.edit("p.toml", "[stage.count]", "# a remark\n\n[ stage.count ]  # another");
    project.edit("p.toml", "use     =", "use =");
    assert_eq!(project.run().done(), NOTHING);
}

#[test]
fn the_same_bytes_stop_the_wave() {
    let project = project();
    project.write("text.txt", "three\nfour\n");
    let ran = project.run();
    assert_eq!(ran.done(), ["words", "count"], "two lines are two lines");
    assert!(ran.stderr.contains("count: done") && ran.stderr.contains("the same as before"), "{}", ran.stderr);
}

#[test]
fn an_edit_is_explained_and_going_back_restores_without_running() {
    let project = project();
    let before = project.digests();
    project.write("text.txt", "one\ntwo\nthree\n");
    let why = project.cmx(&["explain", "words"]).success().stdout;
    assert!(why.starts_with("words: input text.txt changed: "), "{why}");
    assert_eq!(project.states()["count"], "waiting");
    assert_eq!(project.run().done(), ["words", "count", "report"]);
    assert_ne!(project.digests(), before);
    project.write("text.txt", "one\ntwo\n");
    assert_eq!(project.run().done(), NOTHING);
    assert_eq!(project.digests(), before);
    assert_eq!(project.read("outputs/report/report").trim(), "2");
}

#[test]
fn rerun_runs_a_stage_and_what_follows_and_nothing_before() {
    let project = project();
    let before = project.digests();
    let ran = project.cmx(&["rerun", "--from", "count"]).success();
    assert_eq!(ran.done(), ["count", "report"]);
    assert_eq!(project.digests(), before);
    assert_eq!(project.run().done(), NOTHING);
    let unknown = project.cmx(&["rerun", "--from", "cuont"]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.stderr.contains("did you mean `count`?"), "{}", unknown.stderr);
}

#[test]
fn only_names_a_part_of_the_graph() {
    let project = Project::new().file("p.toml", PIPELINE).file("text.txt", "one\n");
    let ran = project.cmx(&["run", "p.toml", "--only", "count"]).success();
    assert_eq!(ran.done(), ["words", "count"]);
    assert_eq!(project.states()["report"], "new");
}

#[test]
fn states_are_told_as_json() {
    let project = project();
    project.edit("p.toml", "echo apart", "echo astray");
    let states = project.states();
    let expected = [("apart", "stale"), ("count", "fresh"), ("report", "fresh"), ("words", "fresh")];
    assert_eq!(states, expected.map(|(stage, state)| (stage.to_owned(), state.to_owned())).into());
    let plan = project.cmx(&["plan", "p.toml"]).success().stdout;
    assert!(plan.starts_with("p: 1 of 4 stages are not fresh\n"), "{plan}");
    assert!(plan.contains(r#"command: "echo apart > {output}/apart" → "echo astray > {output}/apart""#), "{plan}");
}

#[test]
fn a_failure_keeps_what_was_done_and_says_where_to_look() {
    let project = Project::new().file("p.toml", PIPELINE).file("text.txt", "one\n");
    project.edit("p.toml", "wc -l < {words}/words > {output}/count", "echo about to fail; exit 3");
    let ran = project.cmx(&["run", "p.toml", "--keep-going"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("count: failed: sh failed: exit status: 3"), "{}", ran.stderr);
    assert!(ran.stderr.contains("log: cache/runs/"), "{}", ran.stderr);
    assert!(ran.stderr.contains("p: count failed; 1 not started"), "{}", ran.stderr);
    let mut done = ran.done();
    done.sort();
    assert_eq!(done, ["apart", "words"]);
    let expected = [("apart", "fresh"), ("count", "failed"), ("report", "waiting"), ("words", "fresh")];
    assert_eq!(project.states(), expected.map(|(stage, state)| (stage.to_owned(), state.to_owned())).into());
    let log = project.cmx(&["logs", "count"]).success().stdout;
    assert!(log.contains("\nabout to fail\n"), "{log}");
    project.edit("p.toml", "echo about to fail; exit 3", "echo 1 > {output}/count");
    assert_eq!(project.run().done(), ["count", "report"]);
}

#[test]
fn a_stage_that_is_killed_or_runs_wild_takes_only_itself() {
    let project = Project::new().file("p.toml", PIPELINE).file("text.txt", "one\n");
    project.edit("p.toml", "wc -l < {words}/words > {output}/count", "kill -9 $PPID; sleep 60");
    let ran = project.cmx(&["run", "p.toml", "--keep-going"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("count: failed: the stage was killed (signal 9)"), "{}", ran.stderr);
    assert!(ran.done().contains(&"apart".to_owned()));
}

#[test]
fn an_output_that_cannot_be_an_artifact_is_refused() {
    let project = Project::new().file("text.txt", "one\n").file("p.toml", PIPELINE);
    project.edit("p.toml", "echo apart > {output}/apart", "true");
    let ran = project.cmx(&["run", "p.toml", "--only", "apart"]);
    assert!(ran.stderr.contains("apart: failed: the stage produced no file"), "{}", ran.stderr);
    project.edit("p.toml", "\"true\"", "\"ln -s /etc/hosts {output}/hosts\"");
    let ran = project.cmx(&["run", "p.toml", "--only", "apart"]);
    assert!(ran.stderr.contains("the stage's output holds `hosts`, which is not a plain file"), "{}", ran.stderr);
}

#[test]
fn events_are_told_as_json() {
    let project = Project::new().file("p.toml", PIPELINE).file("text.txt", "one\n");
    let ran = project.cmx(&["run", "p.toml", "--log-format", "json"]).success();
    let events: Vec<serde_json::Value> =
        ran.stderr.lines().map(|line| serde_json::from_str(line).expect("one object a line")).collect();
    assert_eq!(events[0]["event"], "run-started");
    assert!(events.iter().any(|event| event["event"] == "stage-finished" && event["stage"] == "report"));
    let last = events.last().expect("an event");
    assert_eq!((&last["event"], &last["ran"]), (&"run-ended".into(), &4.into()));
}

#[test]
fn what_a_pipeline_makes_of_a_dataset_is_no_part_of_it() {
    let project = Project::new()
        .file("datasets.toml", "[books]\n")
        .file("data/books/books.jsonl", "{\"text\": \"one\"}\n{\"text\": \"two\"}\n{\"text\": \"three\"}\n")
        .file("p.toml", "name = \"p\"\n[stage.split]\ndataset = \"books\"\nratio = \"2:1\"\n");
    assert_eq!(project.run().done(), ["split"]);
    assert_eq!(project.run().done(), NOTHING);
    assert!(project.path().join("outputs/split/books-train.jsonl").exists());
}
