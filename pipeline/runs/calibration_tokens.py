"""The calibration tokens of an output folder, kept by what they are.

::

    DIR/calibration/2f6c0a....npy    int64 (sequences, seq_len), named after the hash of its ids
    DIR/calibration/2f6c0a....json   what they were made of, as far as making them again would take long

Every worker reads those whose hash its probe names. They are written before the first task, by the one driver of the
folder, and never changed: other tokens have another name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import UnreadableError, UsageError
from pipeline.base.files import JSON_BYTES, parse_json
from pipeline.base.fingerprints import tokens_sha256
from pipeline.runs.folder import RunFolder
from pipeline.runs.token_files import TOKENS_BYTES, read_array, write_array
from pipeline.store import open_store

FOLDER = "calibration"
NAME_LENGTH = 16
"""Digits of the hash that a file's name has."""


@dataclass(frozen=True, eq=False)
class CalibrationTokens:
    """Calibration tokens of all checkpoints of a run."""

    array: NDArray[np.int64]
    """Token ids, (sequences, seq_len)."""
    sha256: str
    """sha256 of the ids (``corpus.tokens_sha256``)."""
    source: str
    """The text, for people."""
    made_of: dict[str, Any] = field(default_factory=dict)
    """Origin of the tokens, by which a later call finds them; empty if they are made each time."""


def write_calibration(folder: RunFolder, tokens: CalibrationTokens) -> None:
    """Keeps ``tokens`` in ``folder``, for the holder of its lock."""
    store = open_store(folder.location)
    store.make_folder(FOLDER)
    store.sweep(FOLDER)
    try:
        read_calibration(folder, tokens.sha256)
    except UsageError:
        write_array(store, _name(tokens.sha256, "npy"), tokens.array)
    note = {"source": tokens.source, "sha256": tokens.sha256, "made_of": tokens.made_of}
    if tokens.made_of and note not in list(_notes(folder)):
        store.write(_name(tokens.sha256, "json"), json.dumps(note, indent=1).encode())


def read_calibration(folder: RunFolder, sha256: str) -> NDArray[np.int64]:
    """The tokens in ``folder`` that hash to ``sha256``. Raises UsageError if they are missing or damaged."""

    def check(array: np.ndarray) -> None:
        if array.ndim != 2 or array.dtype != np.int64 or tokens_sha256(array) != sha256:
            raise ValueError("not what was written")

    store, name = open_store(folder.location), _name(sha256, "npy")
    return read_array(store, name, TOKENS_BYTES, folder.kind.name, check)


def kept_calibrations(folder: RunFolder) -> Iterator[CalibrationTokens]:
    """Intact calibration tokens in ``folder`` with a known origin."""
    for note in _notes(folder):
        try:
            array = read_calibration(folder, note["sha256"])
        except UsageError:
            continue
        yield CalibrationTokens(array, note["sha256"], note["source"], note["made_of"])


def _notes(folder: RunFolder) -> Iterator[dict[str, Any]]:
    """Every note that can be read."""
    store = open_store(folder.location)
    for name in store.names(FOLDER, ".json"):
        try:
            note = parse_json(store.read(f"{FOLDER}/{name}", JSON_BYTES) or b"")
        except (ValueError, UnreadableError):
            continue
        kinds = {"source": str, "sha256": str, "made_of": dict}
        if isinstance(note, dict) and all(isinstance(note.get(key), kind) for key, kind in kinds.items()):
            yield note


def _name(sha256: str, suffix: str) -> str:
    return f"{FOLDER}/{sha256[:NAME_LENGTH]}.{suffix}"
