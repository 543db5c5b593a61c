"""Retries of hub requests: which failures are retried, how long to wait, and the message of a refusal.

A message names the kind of refusal only, never a credential, an address or a request id.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pipeline.base.errors import CollapseError

_T = TypeVar("_T")

_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses that are worth a retry."""

_KNOWN = {
    "RepositoryNotFoundError": "there is no such repository, or it is private",
    "GatedRepoError": "it is gated: accept its terms and log in",
    "RevisionNotFoundError": "there is no such revision",
    "RemoteEntryNotFoundError": "there is no such file",
    "EntryNotFoundError": "there is no such file",
    "HFValidationError": "that is not a repository name (wanted org/name)",
    "LocalEntryNotFoundError": "the hub cannot be reached and it is not in the local cache",
    "OfflineModeIsEnabled": "offline mode is on (HF_HUB_OFFLINE) and it is not in the local cache",
}


@dataclass(frozen=True)
class Backoff:
    """Waits between attempts: they double from ``first_s`` up to ``most_s`` seconds, plus up to a half at random."""

    tries: int = 6
    """Attempts in a row without any progress."""
    first_s: float = 1.0
    most_s: float = 30.0
    longest_asked_s: float = 300.0
    """Longest wait in seconds that a server may demand (``Retry-After``); it replaces the computed one."""

    def wait_s(self, failures: int, error: BaseException) -> float:
        """Seconds to wait after the ``failures``-th failure in a row."""
        asked = retry_after_s(error)
        if asked is not None:
            return min(asked, self.longest_asked_s)
        doubled: float = self.first_s * 2 ** (failures - 1)
        return min(doubled, self.most_s) * random.uniform(1.0, 1.5)


def retried(call: Callable[[], _T], backoff: Backoff | None = None) -> _T:
    """Run ``call()`` and retry transient failures; the last failure passes through."""
    backoff = backoff or Backoff()
    failures = 0
    while True:
        try:
            return call()
        except Exception as error:
            failures += 1
            if failures >= backoff.tries or not passing(error):
                raise
            time.sleep(backoff.wait_s(failures, error))


def passing(error: BaseException) -> bool:
    """Whether a retry may succeed: the server was busy or broken, or the connection failed."""
    status = status_of(error)
    if status is not None:
        return status in _PASSING
    # By name: the client library under huggingface_hub differs between its versions.
    names = {base.__name__ for base in type(error).__mro__}
    return (
        bool(names & {"TransportError", "ConnectionError", "TimeoutError"})
        and "OfflineModeIsEnabled" not in names
    )


def reason(error: BaseException) -> str:
    """Why a hub request failed, in a few words; our own errors keep their message."""
    if isinstance(error, CollapseError):
        return str(error)
    status = status_of(error)
    said = _KNOWN.get(
        type(error).__name__, f"the hub cannot be reached or answered badly ({type(error).__name__})"
    )
    return f"{said}, HTTP {status}" if status else said


def status_of(error: BaseException) -> int | None:
    """HTTP status of a refusal; None without an answer."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def retry_after_s(error: BaseException) -> float | None:
    """Seconds of the server's ``Retry-After``, if it is a number."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    asked = headers.get("Retry-After", "") if headers else ""
    return float(asked) if asked.isdigit() else None
