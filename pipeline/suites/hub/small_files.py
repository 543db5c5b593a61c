"""Configuration and tokenizer of a suite on a hub: small files that belong to no checkpoint's download."""

from __future__ import annotations

from pathlib import Path

from pipeline.base.errors import CheckpointError, UsageError
from pipeline.spec import Checkpoint
from pipeline.suites.hub.hub_requests import reason
from pipeline.suites.hub.listing import Listing
from pipeline.suites.hub.remote import fetch_small, list_commit
from pipeline.suites.suite import HUB


def tokenizer_folder(place: str) -> Path:
    """A folder with the tokenizer of ``org/name@commit``. Raises UsageError if it cannot be fetched."""
    repository, _, commit = place.partition("@")
    try:
        return fetch_small(repository, commit, _list(repository, commit).tokenizer)
    except CheckpointError as error:
        raise UsageError(f"the tokenizer of {repository} cannot be fetched: {error}") from error


def config_file(checkpoint: Checkpoint) -> Path:
    """The config.json of a checkpoint on a hub. Raises CheckpointError if it cannot be fetched."""
    repository, commit = checkpoint.location.removeprefix(HUB), checkpoint.commit or ""
    config = [file for file in _list(repository, commit).files if file.name == "config.json"]
    return fetch_small(repository, commit, config) / "config.json"


def listed_weight_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of the weights of a checkpoint on a hub. Raises CheckpointError if it has none or cannot be listed."""
    repository, commit = checkpoint.location.removeprefix(HUB), checkpoint.commit or ""
    weights = _list(repository, commit).weights
    if not weights:
        raise CheckpointError(f"{repository} at commit {commit[:8]} holds no weights")
    return sum(file.size for file in weights)


def _list(repository: str, commit: str) -> Listing:
    try:
        return list_commit(repository, commit)
    except Exception as error:
        raise CheckpointError(
            f"{repository} at commit {commit[:8]} cannot be listed: {reason(error)}"
        ) from error
