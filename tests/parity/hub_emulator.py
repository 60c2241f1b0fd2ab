"""Hugging Face's own client at the hub that the tests of downloads run against, so that the emulator is known to be
faithful to what it stands for.

    HF_ENDPOINT=http://127.0.0.1:PORT hub_emulator.py REPOSITORY REPOSITORY_TYPE PATTERN FOLDER

Lists the repository, takes a snapshot of the files that match the pattern, and prints what it saw as JSON:
commit, path → [size, git's name, SHA-256 if in LFS] of all files, and path → SHA-256 of what the snapshot holds.
"""

import hashlib
import json
import pathlib
import sys

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import RepositoryNotFoundError, RevisionNotFoundError

repository, kind, pattern, folder = sys.argv[1:]
api = HfApi()

commit = api.repo_info(repository, repo_type=kind, revision="main").sha
files = {
    entry.path: [entry.size, entry.blob_id, entry.lfs.sha256 if entry.lfs else None]
    for entry in api.list_repo_tree(repository, repo_type=kind, revision=commit, recursive=True)
    if isinstance(entry, RepoFile)
}
assert sorted(files) == sorted(api.list_repo_files(repository, repo_type=kind))
top = {entry.path for entry in api.list_repo_tree(repository, repo_type=kind)}
assert top == {path.split("/")[0] for path in files}, top

snapshot = pathlib.Path(
    snapshot_download(repository, repo_type=kind, cache_dir=folder, allow_patterns=[pattern], max_workers=2)
)
assert snapshot.name == commit
held = {
    path.relative_to(snapshot).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in snapshot.rglob("*")
    if path.is_file()
}

for missing, revision, error in [
    (repository + "-none", "main", RepositoryNotFoundError),
    (repository, "none", RevisionNotFoundError),
]:
    try:
        api.repo_info(missing, repo_type=kind, revision=revision)
    except error:
        continue
    raise AssertionError(f"{missing} at {revision} was found")

print(json.dumps({"commit": commit, "files": files, "snapshot": held}))
