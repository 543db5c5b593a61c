"""Suites that are hub repositories: one branch or tag per checkpoint.

Listing costs one request for the branches and one per checkpoint for its files, whose LFS hashes identify the
weights without a download. Weights come as safetensors, else as ``pytorch_model*.bin`` (to be loaded with
``weights_only=True``), never as another kind of pickle. No credential and no URL is put into a message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import CheckpointError, UsageError
from pipeline.spec import Checkpoint
from pipeline.suites.content import combined_sha256, find_duplicates
from pipeline.suites.files import TOKENIZER_FILES, choose_weights, has_tokenizer
from pipeline.suites.registry import HubSuite
from pipeline.suites.revisions import FORMS, Revision, sort_revisions
from pipeline.suites.suite import HUB, Suite, keyed_stages

LISTINGS_AT_ONCE = 8
MODEL_FILES = ("config.json", "generation_config.json", "*.safetensors.index.json", "*.bin.index.json")


@dataclass(frozen=True)
class Listing:
    """The files at one revision."""

    names: tuple[str, ...]
    sha256: str | None
    """Hash of the weights as ``weights_sha256`` gives it, if every weight file is in LFS."""
    content_id: str
    """Equal for equal weights and config; empty where the weights' hashes are not listed."""


def open_hub(suite: HubSuite) -> Suite:
    """The checkpoints of a repository. ``UsageError`` if it cannot be listed or has none."""
    repository, name = suite.repository, suite.name
    try:
        refs = _api().list_repo_refs(repository)
    except Exception as error:
        raise UsageError(f"hub repository {repository} cannot be listed: {reason(error)}") from error
    revisions, skipped = sort_revisions({ref.name for ref in (*refs.branches, *refs.tags)})
    if not revisions:
        found = ", ".join(skipped[:8]) or "none"
        raise UsageError(
            f"no checkpoints in hub repository {repository}: wanted branches named {FORMS}; found {found}"
        )
    stages = keyed_stages(name, revisions)
    listings = _list_all(repository, [revision.name for revision in revisions])
    checkpoints = [
        _checkpoint(suite, revision, stage, listing)
        for revision, stage, listing in zip(revisions, stages, listings, strict=True)
    ]
    return Suite(
        name=name,
        location=HUB + repository,
        checkpoints=find_duplicates(checkpoints),
        tokenizer=HUB + repository if any(has_tokenizer(listing.names) for listing in listings) else None,
        training=suite.training,
        skipped=tuple(skipped),
    )


def download(repository: str, revision: str) -> Path:
    """A local folder with config, weights and tokenizer of one revision (the hub client's cache).

    ``CheckpointError`` with the reason where it cannot be had.
    """
    from huggingface_hub import snapshot_download

    try:
        weights = choose_weights(list_files(repository, revision).names)
        wanted = [*MODEL_FILES, *TOKENIZER_FILES, *weights]
        folder = (
            Path(snapshot_download(repository, revision=revision, allow_patterns=wanted)) if weights else None
        )
    except Exception as error:
        raise CheckpointError(
            f"{repository} revision {revision} cannot be fetched: {reason(error)}"
        ) from error
    if folder is None:
        raise CheckpointError(
            f"{repository} revision {revision} has no safetensors and no pytorch_model*.bin"
        )
    return folder


def download_tokenizer(repository: str) -> Path:
    """A local folder with the tokenizer of a repository's main branch."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=["config.json", *TOKENIZER_FILES]))
    except Exception as error:
        raise UsageError(f"the tokenizer of {repository} cannot be fetched: {reason(error)}") from error


def list_files(repository: str, revision: str) -> Listing:
    """Names and LFS hashes of the files at the top of one revision."""
    files = [
        item for item in _api().list_repo_tree(repository, revision=revision) if hasattr(item, "blob_id")
    ]
    names = tuple(file.path for file in files)
    by_name = {file.path: file for file in files}
    hashes = {
        name: by_name[name].lfs.sha256 for name in choose_weights(names) if by_name[name].lfs is not None
    }
    if not hashes or len(hashes) < len(choose_weights(names)):
        return Listing(names, None, "")
    combined = combined_sha256(hashes)
    config = by_name["config.json"].blob_id if "config.json" in by_name else ""
    return Listing(names, combined, hashlib.sha256(f"{combined} {config}".encode()).hexdigest())


def reason(error: BaseException) -> str:
    """Why a hub request failed, in a few words: type and HTTP status, without URLs or request ids."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    known = {
        "RepositoryNotFoundError": "there is no such repository, or it is private",
        "GatedRepoError": "it is gated: accept its terms and log in",
        "RevisionNotFoundError": "there is no such revision",
        "HFValidationError": "that is not a repository name (wanted org/name)",
        "LocalEntryNotFoundError": "the hub cannot be reached and it is not in the local cache",
        "OfflineModeIsEnabled": "offline mode is on (HF_HUB_OFFLINE)",
    }
    said = known.get(
        type(error).__name__, f"the hub cannot be reached or answered badly ({type(error).__name__})"
    )
    return f"{said}, HTTP {status}" if status else said


def _checkpoint(suite: HubSuite, revision: Revision, stage: str, listing: Listing) -> Checkpoint:
    tokens = suite.tokens_seen(revision.step)
    return Checkpoint(
        step=revision.step,
        revision=revision.name,
        location=HUB + suite.repository,
        content_id=listing.content_id,
        stage=stage,
        tokens_seen=revision.tokens if tokens is None else tokens,
        learning_rate=suite.learning_rate(revision.step),
        weights_sha256=listing.sha256,
    )


def _list_all(repository: str, revisions: Sequence[str]) -> list[Listing]:
    def listing(revision: str) -> Listing:
        try:
            return list_files(repository, revision)
        except Exception:  # noqa: BLE001 (it then fails by name when it is fetched; the others go on)
            return Listing((), None, "")

    with ThreadPoolExecutor(max_workers=LISTINGS_AT_ONCE) as pool:
        return list(pool.map(listing, revisions))


def _api() -> Any:
    from huggingface_hub import HfApi

    return HfApi()
