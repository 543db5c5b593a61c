"""Waiting for an output folder that is away for a moment: a network mount that reconnects, a folder being moved.

A full disk, a folder without permission and anything else that waiting does not mend is raised at once.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.base.errors import OutputError, UsageError

PATIENCE_S = 15.0
"""Longest wait for a folder to come back. Others wait meanwhile, each for as long, so the run as a whole does."""
POLL_S = 0.5

TRANSIENT = frozenset(
    {
        errno.ENOENT, errno.ESTALE, errno.EIO, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN,
        errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH,
    }
)  # fmt: skip
"""Errors of a folder that may be back in a moment."""

T = TypeVar("T")


def retry_while_away(action: Callable[[], T]) -> T:
    """What ``action`` returns, tried again for ``PATIENCE_S`` while it fails because a folder is away."""
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
