//! A stage whose worker is started without a runner, to be killed.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use serde_json::Value;

/// Numbers from a seed, so that a failure can be had again.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// A stage's folder as the runner keeps it: its output is emptied before every attempt, what it keeps stays.
pub struct KilledStage {
    folder: PathBuf,
}

impl KilledStage {
    /// A stage that is to do `task`, of which the folders are filled in.
    pub fn new(folder: PathBuf, mut task: Value) -> Self {
        for name in ["output", "kept", "pool"] {
            task[name] = folder.join(name).to_string_lossy().into();
        }
        let stage = Self { folder };
        stage.forget();
        std::fs::write(stage.folder.join("task.json"), task.to_string()).expect("a task");
        stage
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// As if it had never been tried.
    pub fn forget(&self) {
        let kept = self.folder.join("kept");
        if kept.exists() {
            std::fs::remove_dir_all(&kept).expect("an old folder");
        }
        std::fs::create_dir_all(&kept).expect("a folder");
    }

    /// A worker, in a group of its own, and the pipe whose end would tell it that its runner is gone.
    pub fn start(&self) -> (Child, ChildStdin) {
        let output = self.folder.join("output");
        if output.exists() {
            std::fs::remove_dir_all(&output).expect("an old folder");
        }
        std::fs::create_dir(&output).expect("a folder");
        let mut worker = Command::new(env!("CARGO_BIN_EXE_cmx"))
            .arg("work")
            .arg(&self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("a worker");
        let pipe = worker.stdin.take().expect("a pipe");
        (worker, pipe)
    }

    /// Runs it to the end.
    pub fn finish(&self) {
        let (mut worker, _pipe) = self.start();
        assert!(worker.wait().expect("an end").success());
    }
}
