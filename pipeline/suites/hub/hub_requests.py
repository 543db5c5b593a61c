"""Requests to a hub: which errors are worth another try, and how a refusal reads.

A message names the kind of refusal only, never a credential, an address or a request id.
"""

from __future__ import annotations

from collections.abc import Callable

from pipeline.base.errors import CollapseError
from pipeline.base.retry import RetryPolicy, T, retried

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


HUB_RETRIES = RetryPolicy()
LONGEST_ASKED_S = 300.0
"""Longest wait that a server may ask for (``Retry-After``)."""


def ask_hub(call: Callable[[], T], policy: RetryPolicy = HUB_RETRIES) -> T:
    """The result of ``call``, a request to a hub, tried again after a :func:`passing` error."""
    return retried(call, policy, passing, retry_after_s)


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
    """Seconds that the server asks to wait, at most ``LONGEST_ASKED_S``; None where it names no number."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    asked = headers.get("Retry-After", "") if headers else ""
    return min(float(asked), LONGEST_ASKED_S) if asked.isdigit() else None
