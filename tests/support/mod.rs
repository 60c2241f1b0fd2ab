//! A project in a temporary folder, and the real binary run in it.
#![allow(dead_code, reason = "every test file uses its own part of this")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The program under test.
pub const CMX: &str = env!("CARGO_BIN_EXE_cmx");

/// A workspace of its own; removed at the end.
pub struct Project {
    folder: tempfile::TempDir,
}

/// What a command came to.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Project {
    /// An empty project with an empty registry.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("datasets.toml"), "").expect("a writable folder");
        Self { folder }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn file(self, path: &str, contents: &str) -> Self {
        self.write(path, contents);
        self
    }

    pub fn write(&self, path: &str, contents: &str) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(&path, contents).expect("a written file");
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path().join(path)).unwrap_or_else(|error| panic!("cannot read {path}: {error}"))
    }

    /// Replaces a text that occurs in a file.
    pub fn edit(&self, path: &str, from: &str, to: &str) {
        let text = self.read(path);
        assert!(text.contains(from), "{path} does not contain {from:?}");
        self.write(path, &text.replace(from, to));
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(CMX);
        command
            .args(arguments)
            .current_dir(self.path())
            .env("NO_COLOR", "1")
            .env_remove("DATA_DIR")
            .stdin(Stdio::null());
        command
    }

    pub fn cmx(&self, arguments: &[&str]) -> Ran {
        let output = self.command(arguments).output().expect("the cmx program");
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    pub fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the cmx program")
    }

    /// Runs the pipeline `p.toml` and expects success.
    pub fn run(&self) -> Ran {
        self.cmx(&["run", "p.toml"]).success()
    }

    /// Stages that a run's plain lines say were done.
    pub fn states(&self) -> BTreeMap<String, String> {
        let ran = self.cmx(&["status", "p.toml", "--json"]).success();
        let status: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
        let stages = status["stages"].as_array().expect("stages").iter();
        let text = |value: &serde_json::Value| value.as_str().expect("a string").to_owned();
        stages.map(|stage| (text(&stage["name"]), text(&stage["state"]))).collect()
    }

    /// View → digest of its artifact, for every view below `outputs/` and `data/`.
    pub fn digests(&self) -> BTreeMap<String, String> {
        let mut digests = BTreeMap::new();
        let mut open: Vec<PathBuf> = ["outputs", "data"].iter().map(|name| self.path().join(name)).collect();
        while let Some(folder) = open.pop() {
            for item in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = item.path();
                if let Ok(target) = fs::read_link(&path) {
                    let name = path.strip_prefix(self.path()).expect("inside").display().to_string();
                    let digest = target.file_name().expect("a digest").to_string_lossy().into_owned();
                    digests.insert(name, digest);
                } else if path.is_dir() {
                    open.push(path);
                }
            }
        }
        digests
    }
}

impl Ran {
    pub fn success(self) -> Self {
        assert_eq!(self.code, 0, "failed\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }

    /// Names of the stages that this run carried out, in order of their ends.
    pub fn done(&self) -> Vec<String> {
        let line = |line: &str| {
            let rest = line.get(9..)?;
            let (stage, what) = rest.split_once(": ")?;
            what.starts_with("done in ").then(|| stage.to_owned())
        };
        self.stderr.lines().filter_map(line).collect()
    }
}

/// The shared data for tests, where it exists. A test that needs it says that it skips where it does not.
pub fn shared_data() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if !folder.is_dir() {
        eprintln!("skipped: ../shared/data is not here");
        return None;
    }
    folder.canonicalize().ok()
}

/// The shipped quickstart in a project of its own, with little work in every stage.
pub fn small_quickstart() -> Project {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).expect("a file of the project");
    let project = Project::new().file("datasets.toml", &read("datasets.toml"));
    copy(&root.join("examples/hub"), &project.path().join("examples/hub"));
    let mut manifest = read("pipelines/quickstart.toml");
    for (after, added) in [
        ("[stage.base]\n", "max_steps = 12\ncheckpoint_steps = 3\n"),
        ("[stage.train]\n", "max_steps = 12\ncheckpoint_steps = 3\n"),
        ("[stage.eval]\n", "limit = 4\nmax_documents = 3\n"),
    ] {
        assert!(manifest.contains(after), "the quickstart has no {after}");
        manifest = manifest.replace(after, &format!("{after}{added}"));
    }
    project.file("p.toml", &manifest)
}

/// A file system of its own, unmounted at the end.
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    /// `None` where the user may not mount.
    pub fn new(place: PathBuf, size: &str) -> Option<Self> {
        fs::create_dir(&place).expect("a folder");
        let options = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&place).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(place));
        }
        eprintln!("skipped: mounting a tmpfs needs root");
        None
    }

    /// Gives it another size, not below what it holds.
    pub fn resize(&self, bytes: u64) {
        let options = format!("remount,size={bytes}");
        let resized = Command::new("mount").args(["-o", &options]).arg(&self.0).status().expect("mount");
        assert!(resized.success(), "{options}");
    }

    /// Bytes that it holds.
    pub fn used(&self) -> u64 {
        let state = rustix::fs::statvfs(&self.0).expect("a file system");
        (state.f_blocks - state.f_bfree) * state.f_frsize
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// A folder with all in it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for item in fs::read_dir(from).expect("a folder") {
        let path = item.expect("an entry").path();
        let to = to.join(path.file_name().expect("a name"));
        if path.is_dir() { copy(&path, &to) } else { fs::copy(&path, &to).map(drop).expect("a copy") }
    }
}
