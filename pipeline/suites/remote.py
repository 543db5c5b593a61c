"""The two listings that are asked of a hub: the commits behind its branches and tags, and the files of a commit.

A commit never changes, so its listing is kept on disk and asked for once; the branches are asked for at every
discovery, and their last known state is used only in offline mode.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.errors import OutputError
from pipeline.files import make_folder, write_atomically
from pipeline.suites.backoff import retried
from pipeline.suites.listing import HubFile, Listing


def cache_folder() -> Path:
    """Where this program keeps what it takes from hubs: a folder of its own under ``HF_HOME``."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "int4-collapse"


def repository_folder(repository: str) -> Path:
    """The part of :func:`cache_folder` that belongs to one repository."""
    return cache_folder() / repository.replace("/", "--")


def offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` forbids every request."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def list_refs(repository: str) -> dict[str, str]:
    """Commit by name of every branch and tag (a branch where both have one name); one request.

    Offline: as they were at the last discovery, or as the hub client's own cache has them. Raises what the hub
    client raises.
    """
    kept = repository_folder(repository) / "refs.json"
    if offline():
        found = read_kept(kept)
        return found if isinstance(found, dict) else _refs_in_hub_cache(repository)
    refs = retried(lambda: api().list_repo_refs(repository))
    commits = {ref.name: ref.target_commit for ref in (*refs.tags, *refs.branches)}
    keep(kept, commits)
    return commits


def list_commit(repository: str, commit: str) -> Listing:
    """The files at the top of one commit: one request the first time, none afterwards.

    Raises what the hub client raises.
    """
    kept = repository_folder(repository) / "commits" / f"{commit}.json"
    known = read_kept(kept)
    if isinstance(known, list):
        return Listing.from_json(known)
    if offline() and (cached := _listing_in_hub_cache(repository, commit)):
        return cached
    listing = retried(lambda: _ask_commit(repository, commit))
    keep(kept, listing.to_json())
    return listing


def _ask_commit(repository: str, commit: str) -> Listing:
    found = [item for item in api().list_repo_tree(repository, revision=commit) if hasattr(item, "blob_id")]
    return Listing(
        tuple(
            HubFile(file.path, file.size, file.blob_id, None if file.lfs is None else file.lfs.sha256)
            for file in sorted(found, key=lambda file: file.path)
        )
    )


def _refs_in_hub_cache(repository: str) -> dict[str, str]:
    return {name: commit.commit_hash for commit in _hub_cache(repository) for name in commit.refs}


def _listing_in_hub_cache(repository: str, commit: str) -> Listing | None:
    """A listing made from the hub client's cache, whose blobs are named by their hashes."""
    for revision in _hub_cache(repository):
        if revision.commit_hash == commit:
            files = []
            for file in sorted(revision.files, key=lambda file: file.file_name):
                blob = file.blob_path.name
                files.append(
                    HubFile(file.file_name, file.size_on_disk, blob, blob if len(blob) == 64 else None)
                )
            return Listing(tuple(files))
    return None


def _hub_cache(repository: str) -> list[Any]:
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return []
    return [
        revision
        for found in repositories
        if found.repo_id == repository and found.repo_type == "model"
        for revision in found.revisions
    ]


def read_kept(path: Path) -> Any:
    """The JSON value kept at ``path``; None where there is none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def keep(path: Path, value: Any) -> None:
    """Keeps ``value`` at ``path``; a cache that cannot be written costs requests later, nothing else."""
    try:
        make_folder(path.parent)
        write_atomically(path, json.dumps(value).encode())
    except OutputError:
        return


def api() -> Any:
    """The hub client's API object; HF_ENDPOINT and HF_TOKEN are its business."""
    from huggingface_hub import HfApi

    return HfApi()
