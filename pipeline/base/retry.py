"""The retry loop: how often, how long and after which errors a call is retried."""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pipeline.base.errors import OutputError, UsageError

T = TypeVar("T")

TRANSIENT = frozenset(
    {
        errno.ENOENT, errno.ESTALE, errno.EIO, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN,
        errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH,
    }
)  # fmt: skip
"""Errors of a folder that may soon be available again; not a full disk or a missing permission."""


@dataclass(frozen=True)
class RetryPolicy:
    """Waits between attempts double from ``first_s`` up to ``most_s`` seconds, plus up to a half at random."""

    tries: int | None = 6
    """Attempts in a row without progress; None = as many as ``for_s`` allows."""
    for_s: float | None = None
    """Seconds after the first attempt in which another may start; None = no limit."""
    first_s: float = 1.0
    most_s: float = 30.0

    def wait_s(self, failures: int) -> float:
        """Seconds to wait after the ``failures``-th failure in a row."""
        doubled: float = self.first_s * 2 ** (failures - 1)
        return min(doubled, self.most_s) * random.uniform(1.0, 1.5)


def retried(
    call: Callable[[], T],
    policy: RetryPolicy,
    transient: Callable[[Exception], bool],
    asked_s: Callable[[Exception], float | None] = lambda _: None,
) -> T:
    """Run ``call`` and retry it after a ``transient`` error; the last error passes through.

    ``asked_s``: returns the wait in seconds that a server demands, which replaces the policy's; None if it demands
    none.
    """
    began, failures = time.monotonic(), 0
    while True:
        try:
            return call()
        except Exception as error:
            failures += 1
            if not transient(error) or (policy.tries is not None and failures >= policy.tries):
                raise
            asked = asked_s(error)
            wait_s = policy.wait_s(failures) if asked is None else asked
            if policy.for_s is not None and time.monotonic() + wait_s > began + policy.for_s:
                raise
        time.sleep(wait_s)


AWAY = RetryPolicy(tries=None, for_s=15.0, first_s=0.5, most_s=0.5)
"""Policy for an unavailable output folder. Every worker waits for it, so the whole run does."""


def retry_while_away(action: Callable[[], T]) -> T:
    """Run ``action`` and retry it for ``AWAY.for_s`` seconds while its output folder is unavailable.

    A folder is briefly unavailable while a network mount reconnects or while it is being moved.
    """
    return retried(action, AWAY, _is_away)


def _is_away(error: Exception) -> bool:
    cause = error.__cause__
    return (
        isinstance(error, OutputError | UsageError)
        and isinstance(cause, OSError)
        and cause.errno in TRANSIENT
    )
