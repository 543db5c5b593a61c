"""A hub's listing of one commit: its files, their sizes and their hashes, without a download."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.suites.checkpoint_files import (
    INDEX,
    TOKENIZER_FILES,
    WEIGHT_NAMES,
    choose_weights,
    has_tokenizer,
    undecided_index,
)
from pipeline.suites.content import combined_sha256

MODEL_FILES = ("config.json", "generation_config.json")


@dataclass(frozen=True)
class HubFile:
    """One file of a commit."""

    name: str
    size: int
    """Bytes."""
    blob: str
    """Git's identity of the file: sha1 of ``blob <size>\\\\0`` and its bytes (of its LFS pointer if it is in LFS)."""
    sha256: str | None = None
    """sha256 of its bytes, if it is in LFS."""
    sampled: bool = False
    """Whether ``blob`` is a hash of samples only, of a large file that no hub has hashed."""

    @property
    def identity(self) -> str:
        """Id that is equal for equal bytes: the sha256 if listed, else git's blob id."""
        return self.sha256 or self.blob


@dataclass(frozen=True)
class Listing:
    """The files at the top of one commit."""

    files: tuple[HubFile, ...]
    indexed: tuple[str, ...] = ()
    """Names of the weight files from their index; empty if the index was not read."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(file.name for file in self.files)

    @property
    def weights(self) -> tuple[HubFile, ...]:
        """The files that hold the weights, in name order; safetensors if any, else ``pytorch_model*.bin``."""
        chosen = set(self.indexed or choose_weights(self.names))
        return tuple(sorted((file for file in self.files if file.name in chosen), key=lambda file: file.name))

    @property
    def deciding_index(self) -> HubFile | None:
        """The index that must be read to find the weight files; None if their names suffice.

        They do not if shards of an earlier split remain or shards have other names.
        """
        name = undecided_index(self.names)
        return next((file for file in self.files if file.name == name), None)

    @property
    def wanted(self) -> tuple[HubFile, ...]:
        """Files that a checkpoint folder needs: configuration and index first, then the weights."""
        index = {name + INDEX for name in WEIGHT_NAMES}
        small = [file for file in self.files if file.name in {*MODEL_FILES, *index}]
        return (*small, *self.weights)

    @property
    def tokenizer(self) -> tuple[HubFile, ...]:
        """The files of the tokenizer; empty if there is none."""
        if not has_tokenizer(self.names):
            return ()
        return tuple(file for file in self.files if file.name in {*TOKENIZER_FILES, "config.json"})

    @property
    def weights_sha256(self) -> str | None:
        """Hash of the weights, equal to ``pipeline.suites.weights_sha256``, if every weight file is in LFS."""
        hashes = {file.name: file.sha256 for file in self.weights if file.sha256 is not None}
        return combined_sha256(hashes) if hashes and len(hashes) == len(self.weights) else None

    @property
    def weights_id(self) -> str:
        """Id that is equal for equal weights, whatever the configuration; empty without weights."""
        parts = {file.name: file.identity for file in self.weights}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest() if parts else ""

    @property
    def content_id(self) -> str:
        """Id that is equal for equal weights and configuration; empty without weights."""
        if not self.weights:
            return ""
        parts = {file.name: file.identity for file in self.files if file.name == "config.json"}
        parts |= {file.name: file.identity for file in self.weights}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> list[dict[str, Any]]:
        return [dataclasses.asdict(file) for file in self.files]

    @classmethod
    def from_json(cls, value: Iterable[Mapping[str, Any]]) -> Listing:
        return cls(tuple(HubFile(**fields) for fields in value))


def shared_files(listings: Mapping[str, Listing], same: Mapping[str, str]) -> list[str]:
    """One sentence per weight file that is shared by revisions which otherwise differ.

    Training changes every tensor, so a shared file means that a revision was assembled from two checkpoints (or
    that the configurations differ). ``listings``: revision -> listing, in order; ``same``: revision -> id that is
    equal for identical ones.
    """
    holders: dict[tuple[str, str], list[str]] = defaultdict(list)
    for revision, listing in listings.items():
        for file in listing.weights:
            holders[file.name, file.identity].append(revision)
    found = []
    for (name, identity), revisions in holders.items():
        if len({same[revision] for revision in revisions}) > 1:
            shown = ", ".join(revisions[:4]) + (
                f" and {len(revisions) - 4} more" if len(revisions) > 4 else ""
            )
            found.append(f"{shown} share {name} ({identity[:12]}) but are not identical otherwise")
    return found
