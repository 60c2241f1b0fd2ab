//! Views: links at readable places to the current artifacts.

use std::fs;
use std::path::{Component, Path, PathBuf};

use super::{Digest, Store, advise};
use crate::error::{Context, Error, Result};

impl Store {
    /// Lets `view` (relative to the workspace) show an artifact. The link is replaced in one step.
    ///
    /// # Errors
    /// A file or folder of the user's at that place is left alone and named.
    pub fn set_view(&self, view: &Path, artifact: Digest) -> Result<()> {
        let path = self.workspace.join(view);
        let depth = view.components().filter(|part| matches!(part, Component::Normal(_))).count();
        let mut target: PathBuf = std::iter::repeat_n("..", depth.saturating_sub(1)).collect();
        target.extend(["cache", "artifacts", &artifact.to_string()]);
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_symlink() => {
                if fs::read_link(&path).is_ok_and(|old| old == target) {
                    return Ok(());
                }
            }
            Ok(_) => {
                return Err(Error::invalid(format!("{} is in the way of a stage's output", view.display()))
                    .hint("cmx keeps a link to the artifact there: move the file or folder away"));
            }
            Err(_) => {}
        }
        for parent in view.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            if fs::symlink_metadata(self.workspace.join(parent)).is_ok_and(|metadata| metadata.is_symlink()) {
                return Err(Error::invalid(format!("{} lies below the link {}", view.display(), parent.display()))
                    .hint("give the stage another `view`"));
            }
        }
        let parent = path.parent().unwrap_or(&self.workspace);
        self.create_folder(parent)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = parent.join(format!(".{name}.{}.tmp", std::process::id()));
        let _ = fs::remove_file(&temporary);
        std::os::unix::fs::symlink(&target, &temporary)
            .and_then(|()| fs::rename(&temporary, &path))
            .context(|| format!("cannot link {}", view.display()))
            .map_err(advise)
    }
}
