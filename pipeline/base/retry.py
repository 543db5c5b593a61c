"""Retry while an output folder is briefly unavailable: a network mount that reconnects, a folder being moved.

A full disk, a missing permission and any other lasting error is raised at once.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.base.errors import OutputError, UsageError

PATIENCE_S = 15.0
"""Longest wait for a folder, in seconds. Every worker waits as long, so the whole run does."""
POLL_S = 0.5

TRANSIENT = frozenset(
    {
        errno.ENOENT, errno.ESTALE, errno.EIO, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN,
        errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH,
    }
)  # fmt: skip
"""Errors after which a folder may soon be available again."""

T = TypeVar("T")


def retry_while_away(action: Callable[[], T]) -> T:
    """Call ``action``, retry it for ``PATIENCE_S`` seconds while it fails because a folder is unavailable, and
    return its result.
    """
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            return action()
        except (OutputError, UsageError) as error:
            cause = error.__cause__
            transient = isinstance(cause, OSError) and cause.errno in TRANSIENT
            if not transient or time.monotonic() > give_up:
                raise
        time.sleep(POLL_S)
