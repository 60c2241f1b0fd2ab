//! The workspace: where it is, and which paths lie in it.

use std::path::{Component, Path, PathBuf};

/// The registry of datasets, in the workspace.
pub const REGISTRY: &str = "datasets.toml";
/// The store, in the workspace.
pub const CACHE: &str = "cache";

/// Nearest folder upwards from `start` that holds `datasets.toml` or `cache/`; else `start` itself.
pub fn find_workspace(start: &Path) -> PathBuf {
    let is_workspace = |folder: &&Path| folder.join(REGISTRY).is_file() || folder.join(CACHE).is_dir();
    start.ancestors().find(is_workspace).unwrap_or(start).to_owned()
}

/// Why a path can't be a source.
#[derive(Debug, PartialEq)]
pub(super) enum Unusable {
    /// By `..`, as an absolute path, or through a link.
    Leaves,
    Missing,
    /// It lies in the store, perhaps by way of a view.
    InStore,
}

/// `text` as a path relative to the workspace, if it exists there, links followed.
pub(super) fn source_path(workspace: &Path, text: &str) -> Result<PathBuf, Unusable> {
    let path = normalize(&workspace.join(text));
    let relative = path.strip_prefix(workspace).map_err(|_| Unusable::Leaves)?;
    let real = path.canonicalize().map_err(|_| Unusable::Missing)?;
    let real_workspace = workspace.canonicalize().map_err(|_| Unusable::Missing)?;
    if real.starts_with(real_workspace.join(CACHE))
        || real_workspace.join(CACHE).canonicalize().is_ok_and(|cache| real.starts_with(cache))
    {
        return Err(Unusable::InStore);
    }
    if !real.starts_with(&real_workspace) {
        return Err(Unusable::Leaves);
    }
    Ok(relative.to_owned())
}

/// Takes `.` and `..` out of an absolute path without asking the file system.
pub(super) fn normalize(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            part => normal.push(part),
        }
    }
    normal
}
