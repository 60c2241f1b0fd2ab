//! A folder laid out as a hub serves: `datasets/ORGANISATION/NAME/…`, and for models `ORGANISATION/NAME/…`.

use std::path::Path;

use super::{Listing, Origin, Patterns, Remote, Repo, names};
use crate::error::{Context, Error, Result};

/// The wanted files of a repository in the folder `root`. Links to files are followed, links to folders are not;
/// what begins with a dot at the repository's top level (`.git`, `.gitattributes`) is a hub's bookkeeping.
pub fn list(root: &Path, repo: &Repo, patterns: &Patterns) -> Result<Listing> {
    let top = root.join(repo.kind.prefix()).join(&repo.name);
    if !top.is_dir() {
        return Err(Error::invalid(format!(
            "the hub folder {} has no {}{}",
            root.display(),
            repo.kind.prefix(),
            repo.name
        ))
        .hint("datasets lie in datasets/ORGANISATION/NAME, models in ORGANISATION/NAME"));
    }
    let mut files = Vec::new();
    walk(&top, "", patterns, &mut files)?;
    Ok(Listing { commit: None, files })
}

fn walk(folder: &Path, prefix: &str, patterns: &Patterns, files: &mut Vec<Remote>) -> Result<()> {
    let cannot_list = || format!("cannot list {}", folder.display());
    for entry in std::fs::read_dir(folder).context(cannot_list)? {
        let entry = entry.context(cannot_list)?;
        let path = entry.path();
        let name = entry
            .file_name()
            .into_string()
            .map_err(|name| Error::invalid(format!("the name {name:?} in {} is not UTF-8", folder.display())))?;
        if prefix.is_empty() && name.starts_with('.') {
            continue;
        }
        let name = format!("{prefix}{name}");
        if entry.file_type().context(cannot_list)?.is_dir() {
            walk(&path, &format!("{name}/"), patterns, files)?;
        } else if patterns.want(&name) {
            let metadata = std::fs::metadata(&path).context(|| format!("cannot read {}", path.display()))?;
            if metadata.is_file() {
                names::check_file(&name)?;
                let size = Some(metadata.len());
                files.push(Remote { name, from: Origin::File(path), size, checksum: None, etag: None });
            }
        }
    }
    Ok(())
}
