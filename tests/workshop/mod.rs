//! A place to run one stage in: folders, captured events, and the shared data if it is there.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cmx::error::Result;
use cmx::stages::{self, Work};
use serde_json::{Value, json};

pub struct Workshop {
    folder: tempfile::TempDir,
    pub events: Arc<Mutex<Vec<u8>>>,
}

struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Workshop {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["input", "output", "scratch"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self { folder, events: Arc::default() }
    }

    pub fn input(&self) -> PathBuf {
        self.folder.path().join("input")
    }

    pub fn output(&self) -> PathBuf {
        self.folder.path().join("output")
    }

    pub fn scratch(&self) -> PathBuf {
        self.folder.path().join("scratch")
    }

    /// Where files wait that a source names by their hash; not there at first.
    pub fn pool(&self) -> PathBuf {
        self.folder.path().join("pool")
    }

    /// Writes a file below the input folder.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.input().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Runs a stage of `kind` into an empty output folder. `parameters` go over the defaults of `stages/KIND.toml`.
    pub fn run(&self, kind: &str, parameters: Value) -> Result<()> {
        std::fs::remove_dir_all(self.output()).unwrap();
        std::fs::create_dir(self.output()).unwrap();
        self.events.lock().unwrap().clear();
        let kind = stages::kind(kind).unwrap();
        let manifest: toml::Table = kind.manifest.parse().unwrap();
        let mut all = serde_json::to_value(&manifest["parameters"]).unwrap();
        for (name, value) in parameters.as_object().unwrap() {
            all[name] = value.clone();
        }
        let events = Box::new(Captured(self.events.clone()));
        let mut work = Work::new(self.output(), self.scratch(), 2, events, Arc::default()).with_pool(self.pool());
        kind.run(all, &mut work)
    }

    /// Everything that the stage said.
    pub fn said(&self) -> String {
        String::from_utf8(self.events.lock().unwrap().clone()).unwrap()
    }

    pub fn metrics(&self) -> BTreeMap<String, Value> {
        self.said()
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .filter(|event| event["event"] == "metric")
            .map(|event| (event["name"].as_str().unwrap().to_owned(), event["value"].clone()))
            .collect()
    }

    /// The files of the output: path below it → content.
    pub fn outputs(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.output()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(self.output()).unwrap().to_str().unwrap().to_owned();
                    files.insert(name, std::fs::read(path).unwrap());
                }
            }
        }
        files
    }
}

/// A resolved dataset of the splits train and dev, lying in `path`.
pub fn dataset(name: &str, form: Option<&str>, path: Option<&Path>) -> Value {
    json!({
        "name": name,
        "form": form,
        "path": path,
        "doc": {"train": format!("{name}-train"), "dev": format!("{name}-dev")},
        "encoded": {"train": format!("encoded-{name}-train"), "dev": format!("encoded-{name}-dev")},
        "source": {"repo": null, "revision": null, "include": [], "exclude": [], "urls": [], "task": null},
    })
}

/// A file or folder of the data that tests share; says that the test skips if it is not there.
pub fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {name} is not among the shared data");
    None
}

/// The Python that `make parity` prepares, for the tests that compare with the real libraries.
pub fn python() -> Option<PathBuf> {
    let python = std::env::var_os("CMX_PYTHON");
    if python.is_none() {
        eprintln!("skipped: CMX_PYTHON names no Python; run `make parity`");
    }
    python.map(PathBuf::from)
}

/// The Python that `make parity` prepares with `datasets` of version 2.
pub fn python_with_datasets_2() -> Option<PathBuf> {
    let python = std::env::var_os("CMX_PYTHON_DATASETS_2");
    if python.is_none() {
        eprintln!("skipped: CMX_PYTHON_DATASETS_2 names no Python; run `make parity`");
    }
    python.map(PathBuf::from)
}
