//! Two runners at once: each stage is done once, and the one who waits says for whom. Ctrl-C ends cleanly.

mod support;

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use support::Project;

const PIPELINE: &str = r#"
name = "p"
[stage.slow]
use     = "command"
command = ["sh", "-c", "echo once >> {record}/times; sleep 1; echo done > {output}/out"]
inputs  = { record = "record" }
"#;

#[test]
fn the_second_waits_and_does_not_do_it_again() {
    let project = Project::new().file("p.toml", &PIPELINE.replace("{record}/times", "$PWD/times.txt"));
    fs::create_dir(project.path().join("record")).expect("a folder");
    project.write("record/x", "");
    let first =
        project.command(&["run", "p.toml"]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("cmx");
    let waiting = Instant::now();
    while !project.path().join("times.txt").exists() {
        assert!(waiting.elapsed() < Duration::from_secs(20), "the first runner never started");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(project.states()["slow"], "running");
    let second = project.run();
    assert!(
        second.stderr.contains(&format!("slow: waiting for cmx with pid {} on ", first.id())),
        "{}",
        second.stderr
    );
    let first = first.wait_with_output().expect("the first runner");
    assert!(first.status.success());
    assert_eq!(project.read("times.txt"), "once\n");
}

#[test]
fn an_interruption_ends_cleanly_and_leaves_no_process() {
    let project =
        Project::new().file("p.toml", &PIPELINE.replace("{record}", "$PWD").replace("sleep 1", "sleep 77.25"));
    fs::create_dir(project.path().join("record")).expect("a folder");
    project.write("record/x", "");
    let child =
        project.command(&["run", "p.toml"]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("cmx");
    let waiting = Instant::now();
    while !project.path().join("times").exists() {
        assert!(waiting.elapsed() < Duration::from_secs(20), "the runner never started");
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = rustix::process::Pid::from_raw(child.id() as i32).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("a signal");
    let ended = child.wait_with_output().expect("the runner");
    assert_eq!(ended.status.code(), Some(130));
    let told = String::from_utf8_lossy(&ended.stderr);
    assert!(told.contains("slow: interrupted; the next run continues"), "{told}");
    let list = std::process::Command::new("ps").args(["-eo", "args"]).output().expect("ps");
    assert!(!String::from_utf8_lossy(&list.stdout).contains("sleep 77.25"), "the program of the stage still runs");
}
