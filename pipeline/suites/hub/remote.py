"""The two listings of a hub, the commits behind branches and tags and the files of a commit, and small files.

A commit never changes, so its listing is requested once and kept on disk. The branches are requested at every
discovery, and their last known state is used only in offline mode.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.base.errors import CheckpointError, OutputError, UsageError
from pipeline.base.files import load_json, make_folder, write_atomically
from pipeline.base.locks import FileLock
from pipeline.spec import Checkpoint
from pipeline.suites.checkpoint_files import indexed_tensors
from pipeline.suites.hub.download import download_file
from pipeline.suites.hub.hub_cache import cached_folder, cached_listing, cached_refs
from pipeline.suites.hub.hub_requests import ask_hub, reason
from pipeline.suites.hub.listing import HubFile, Listing
from pipeline.suites.suite import HUB


def cache_folder() -> Path:
    """Folder of this program's downloads, under ``HF_HOME``."""
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
    """Branch or tag -> commit (the branch if both have one name); one request.

    Offline: as at the last discovery, or from the hub client's own cache. Exceptions of the hub client pass
    through.
    """
    kept = repository_folder(repository) / "refs.json"
    if offline():
        found = read_kept(kept)
        return found if isinstance(found, dict) else cached_refs(repository)
    refs = ask_hub(lambda: api().list_repo_refs(repository))
    commits = {ref.name: ref.target_commit for ref in (*refs.tags, *refs.branches)}
    keep(kept, commits)
    return commits


def list_commit(repository: str, commit: str) -> Listing:
    """The files at the top of one commit: one request the first time, none afterwards.

    One more request reads the index of the weights if names do not identify them. Exceptions of the hub client pass
    through; raises CheckpointError if the index is unusable.
    """
    listing = _list_files(repository, commit)
    index = listing.deciding_index
    if index is None:
        return listing
    names = indexed_tensors(fetch_small(repository, commit, [index]) / index.name)
    missing = sorted(set(names) - set(listing.names))
    if missing:
        raise CheckpointError(f"{index.name} names {', '.join(missing[:3])}, which the repository lacks")
    return Listing(listing.files, tuple(names))


def fetch_small(repository: str, commit: str, files: Sequence[HubFile]) -> Path:
    """A folder with the small files ``files``, which belong to no checkpoint's download.

    It is the hub client's cache if that has them. Raises CheckpointError if they cannot be fetched.
    """
    cached = cached_folder(repository, commit, files)
    if cached is not None:
        return cached
    folder = repository_folder(repository) / "small" / commit
    make_folder(folder)
    with FileLock(folder / ".lock") as lock:
        lock.take(shared=False)
        for file in files:
            # hf_hub_download asks twice for each, and checks no hash of a file outside LFS
            download_file(repository, commit, file, folder)
    return folder


def tokenizer_folder(place: str) -> Path:
    """A folder with the tokenizer of ``org/name@commit``. Raises UsageError if it cannot be fetched."""
    repository, _, commit = place.partition("@")
    try:
        return fetch_small(repository, commit, _listing(repository, commit).tokenizer)
    except CheckpointError as error:
        raise UsageError(f"the tokenizer of {repository} cannot be fetched: {error}") from error


def config_file(checkpoint: Checkpoint) -> Path:
    """The config.json of a checkpoint on a hub. Raises CheckpointError if it cannot be fetched."""
    repository, commit = checkpoint.location.removeprefix(HUB), checkpoint.commit or ""
    config = [file for file in _listing(repository, commit).files if file.name == "config.json"]
    return fetch_small(repository, commit, config) / "config.json"


def listed_weight_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of the weights of a checkpoint on a hub. Raises CheckpointError if it has none or cannot be listed."""
    repository, commit = checkpoint.location.removeprefix(HUB), checkpoint.commit or ""
    weights = _listing(repository, commit).weights
    if not weights:
        raise CheckpointError(f"{repository} at commit {commit[:8]} holds no weights")
    return sum(file.size for file in weights)


def _listing(repository: str, commit: str) -> Listing:
    """Like :func:`list_commit`; raises CheckpointError if it cannot be listed."""
    try:
        return list_commit(repository, commit)
    except Exception as error:
        raise CheckpointError(
            f"{repository} at commit {commit[:8]} cannot be listed: {reason(error)}"
        ) from error


def _list_files(repository: str, commit: str) -> Listing:
    kept = repository_folder(repository) / "commits" / f"{commit}.json"
    known = read_kept(kept)
    if isinstance(known, list):
        return Listing.from_json(known)
    if offline() and (cached := cached_listing(repository, commit)):
        return cached
    listing = ask_hub(lambda: _ask_commit(repository, commit))
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


def read_kept(path: Path) -> Any:
    """The JSON value kept at ``path``; None if there is no readable one."""
    try:
        return load_json(path)
    except (OSError, ValueError):
        return None


def keep(path: Path, value: Any) -> None:
    """Keep ``value`` at ``path``; a cache that cannot be written only costs requests later."""
    try:
        make_folder(path.parent)
        write_atomically(path, json.dumps(value).encode())
    except OutputError:
        return


def api() -> Any:
    """The hub client's API object, which reads HF_ENDPOINT and HF_TOKEN."""
    from huggingface_hub import HfApi

    return HfApi()
