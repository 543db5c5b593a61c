"""Patience with a hub: what is worth another try, how long to wait before it, and how a refusal reads.

No credential, address or request id is put into a message: only what kind of refusal it was.
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
"""HTTP statuses that another try may not meet."""

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
    """Waits between tries: they double from ``first_s`` up to ``most_s``, each stretched at random by up to a half."""

    tries: int = 6
    """Tries in a row without any progress."""
    first_s: float = 1.0
    most_s: float = 30.0
    longest_asked_s: float = 300.0
    """Longest wait that a server may ask for (``Retry-After``); it replaces the computed one."""

    def wait_s(self, failures: int, error: BaseException) -> float:
        """Seconds to wait after the ``failures``-th failure in a row."""
        asked = retry_after_s(error)
        if asked is not None:
            return min(asked, self.longest_asked_s)
        doubled: float = self.first_s * 2 ** (failures - 1)
        return min(doubled, self.most_s) * random.uniform(1.0, 1.5)


def retried(call: Callable[[], _T], backoff: Backoff | None = None) -> _T:
    """``call()``, again after a passing failure; the last failure passes through."""
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
    """Whether another try may succeed: the server is busy or broken, or the connection was."""
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
    """Why a hub request failed, in a few words; what was raised on purpose says so itself."""
    if isinstance(error, CollapseError):
        return str(error)
    status = status_of(error)
    said = _KNOWN.get(
        type(error).__name__, f"the hub cannot be reached or answered badly ({type(error).__name__})"
    )
    return f"{said}, HTTP {status}" if status else said


def status_of(error: BaseException) -> int | None:
    """HTTP status of a refusal; None where no answer came."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def retry_after_s(error: BaseException) -> float | None:
    """Seconds that the server asked to wait, if it did so in numbers."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    asked = headers.get("Retry-After", "") if headers else ""
    return float(asked) if asked.isdigit() else None
