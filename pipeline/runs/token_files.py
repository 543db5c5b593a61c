"""The tokens of an output folder: those that are evaluated and those that a fork experiment trains on."""

from __future__ import annotations

import errno
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.base.errors import UnreadableError, UsageError
from pipeline.base.files import JSON_BYTES, parse_json
from pipeline.base.fingerprints import tokens_sha256
from pipeline.store import Store

TRAIN_TOKENS, TRAIN_NOTE = "fork_train.npy", "fork_train.json"
TOKENS_BYTES, TRAIN_BYTES = 2**31, 2**36
"""Largest files of evaluation and of training tokens that are read, bytes."""


def write_array(store: Store, name: str, array: np.ndarray) -> None:
    """Writes ``array`` as the npy file ``name``."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    store.write(name, buffer.getvalue())


def read_array(
    store: Store,
    name: str,
    most_bytes: int,
    command: str,
    check: Callable[[np.ndarray], None] = lambda _: None,
) -> np.ndarray:
    """The array of the npy file ``name``; a UsageError names the ``command`` that rewrites it. ``check`` raises
    ValueError for another array than was written.
    """
    try:
        data = store.read(name, most_bytes)
        if data is None:
            raise FileNotFoundError(errno.ENOENT, "not there")
        array: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
        check(array)
    except (UnreadableError, FileNotFoundError, ValueError, EOFError) as error:
        # The cause is the system's own error, whose number shows whether a retry helps.
        raise UsageError(
            f"{store.place(name)} cannot be read ({error}): run the {command} again to rewrite it"
        ) from (error.__cause__ or error)
    return array


@dataclass(frozen=True)
class EvaluationTokenFile:
    """The evaluation tokens of one kind of work, int64 (batches, batch_size, seq_len)."""

    store: Store
    name: str
    command: str

    def write(self, tokens: np.ndarray) -> None:
        write_array(self.store, self.name, tokens)

    def read(self) -> np.ndarray:
        """UsageError where they are missing or damaged."""
        return read_array(self.store, self.name, TOKENS_BYTES, self.command)


class TrainingTokenFiles:
    """The training tokens of a fork experiment, int64 (n,), and a note on what they were made of."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def write(self, tokens: np.ndarray, note: dict[str, Any] | None = None) -> None:
        """Writes the 1-D training tokens of a fork experiment.

        ``note``: their hash as ``tokens_sha256`` and, if known, their text and tokenizer; see
        :meth:`holds` and :meth:`kept`.
        """
        self._store.remove(TRAIN_NOTE)  # a note never lies beside other tokens
        write_array(self._store, TRAIN_TOKENS, tokens)
        if note is not None:
            self.write_note(note)

    def write_note(self, note: dict[str, Any]) -> None:
        """Write the note on the existing training tokens, unless it is already correct."""
        if self._train_note() != note:
            self._store.write(TRAIN_NOTE, json.dumps(note, indent=1).encode())

    def read(self) -> np.ndarray:
        return read_array(self._store, TRAIN_TOKENS, TRAIN_BYTES, "fork")

    def kept(self, made_of: dict[str, Any]) -> np.ndarray | None:
        """The intact training tokens of an earlier call if they come from the same text and tokenizer; else None."""
        note = self._train_note()
        sha256 = note.pop("tokens_sha256", None)
        return self._checked(sha256) if note == made_of else None

    def holds(self, sha256: str, *, checked: bool = False) -> bool:
        """Whether the training tokens of an earlier call are intact and hash to ``sha256``.

        Their note is read first. It is trusted if it has been ``checked`` before, as :meth:`kept`
        does; otherwise the tokens are read.
        """
        if self._train_note().get("tokens_sha256") != sha256:
            return False
        return checked or self._checked(sha256) is not None

    def _train_note(self) -> dict[str, Any]:
        """The note on the training tokens; empty if it is missing or damaged."""
        try:
            note = parse_json(self._store.read(TRAIN_NOTE, JSON_BYTES) or b"{}")
        except (ValueError, UnreadableError):
            return {}
        return note if isinstance(note, dict) else {}

    def _checked(self, sha256: Any) -> np.ndarray | None:
        try:
            tokens = self.read()
        except UsageError:
            return None
        return tokens if tokens_sha256(tokens) == sha256 else None
