"""Errors of an object store in words of our own, because the clients' messages may quote keys and signatures."""

from __future__ import annotations

import re
from dataclasses import dataclass

_DENIED = {
    "ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "INVALID_SIGNATURE",
    "MISSING_AUTHENTICATION_TOKEN", "INVALID_CLIENT_TOKEN_ID", "UNRECOGNIZED_CLIENT", "EXPIRED_TOKEN",
    "PERMISSION_DENIED", "UNAUTHENTICATED",
}  # fmt: skip
_SPELLED = re.compile(
    r"AWS Error (\w+)(?: \(HTTP status (\d+)\))?|\b(PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE)\b"
)

_LOGIN = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE), or run where a role may read, write, list "
    "and delete there",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or run where a service account may read, write, list and delete there",
}


@dataclass(frozen=True)
class Fault:
    """Why a request failed."""

    reason: str
    """What happened and what to do; the caller adds the place."""
    lasting: bool
    """Whether a retry is pointless."""


def explain(error: OSError, scheme: str) -> Fault:
    """The fault behind an exception of pyarrow."""
    found = _SPELLED.search(str(error))
    code = "" if found is None else found[1] or found[3] or ""
    status = int(found[2]) if found is not None and found[2] else 0
    if code in _DENIED or status in (401, 403):
        return Fault(f"access denied ({code or status}): {_LOGIN[scheme]}", lasting=True)
    if code == "NO_SUCH_BUCKET" or re.search(r"Bucket '.*' not found", str(error)):  # asked for its region
        return Fault("there is no such bucket: create it, or correct its name", lasting=True)
    if code in {"NETWORK_CONNECTION", "UNAVAILABLE"}:
        hint = "the network and AWS_ENDPOINT_URL" if scheme == "s3" else "the network"
        return Fault(f"no answer from the store: check {hint}", lasting=False)
    if 400 <= status < 500 and status not in (408, 425, 429):
        return Fault(
            f"the store refuses the request ({code}, HTTP {status}): check bucket and region", lasting=True
        )
    said = f"{code}, HTTP {status}" if status else code or type(error).__name__
    return Fault(f"the store failed ({said}): try again later", lasting=False)
