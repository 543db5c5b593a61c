"""Everything the pipeline raises on purpose.

::

    CollapseError              one sentence: what was given, what was wanted, what to do next
    +-- UsageError             the request itself is wrong; nothing was started      (exit 2)
    |   +-- StaleShardsError   the folder holds numbers of another measurement       (exit 2)
    |   +-- TooFewTokensError  a corpus has fewer tokens than are asked for          (exit 2)
    |   +-- OverlapError       calibration text repeats the evaluation text          (exit 2)
    |   +-- FolderLockedError  another driver is working in the folder               (exit 2)
    +-- CheckpointError        this checkpoint cannot be measured; the others can    (exit 1)
    |   +-- InsufficientMemoryError  its weights do not fit the memory, however small the chunk  (exit 1)
    +-- ShardError             a shard is truncated or altered                       (redone)
    |   +-- OtherSchemaError   a shard is whole, but of another version              (stale)
    +-- IncompleteRunError     an expected shard is missing at the reduction         (exit 1)
    +-- OutputError            the output folder cannot be written any more          (exit 1)
        +-- UnreadableError    one file in it cannot be read; others can             (a shard: redone)

Every class takes exactly one positional string: an exception with another constructor cannot be sent back from a
Ray worker (it arrives as ``UnserializableException``).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CollapseError(Exception):
    """Base of every error raised on purpose; ``str(error)`` is the whole message."""


class UsageError(CollapseError):
    """The request cannot be carried out as given. Nothing was started."""


class StaleShardsError(UsageError):
    """The output folder holds shards whose fingerprint differs from the request."""


class TooFewTokensError(UsageError):
    """A corpus has fewer tokens than were requested."""


class OverlapError(UsageError):
    """Calibration text shares a run of tokens with the evaluation text."""


class FolderLockedError(UsageError):
    """Another live driver holds the output folder."""


class CheckpointError(CollapseError):
    """One checkpoint is unusable (truncated, NaN, wrong shape, ...). Deterministic: never retried."""


class InsufficientMemoryError(CheckpointError):
    """The weights of a checkpoint do not fit the memory."""


class ShardError(CollapseError):
    """A shard cannot be trusted: unreadable, or not what was written."""


class OtherSchemaError(ShardError):
    """An intact shard with the columns of another version: stale, never overwritten unless asked."""


class IncompleteRunError(CollapseError):
    """Expected shards are missing and the reduction was not allowed to go without them."""


class OutputError(CollapseError):
    """The output folder is unwritable, full or gone; an object store is unreachable or refuses."""


class UnreadableError(OutputError):
    """One file of the output folder cannot be read."""


def unknown_name(kind: str, given: str, valid: Iterable[str]) -> UsageError:
    """Make the UsageError for a name that is not in ``valid``: it lists the nearest names first, then their number.

    >>> str(unknown_name("suite", "pythia-160", ["pythia-160m", "tiny"]))
    "unknown suite 'pythia-160'; did you mean 'pythia-160m'? (2 known: pythia-160m, tiny)"
    >>> str(unknown_name("suite", "checkpoints", ["pythia-160m", "tiny"]))
    "unknown suite 'checkpoints' (2 known: pythia-160m, tiny)"
    """
    names = list(valid)
    near = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return UsageError(f"unknown {kind} {given!r}{hint} ({len(names)} known: {shown})")
