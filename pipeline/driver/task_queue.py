"""Which task goes to whom, how often, and which are settled. Plain bookkeeping, no Ray: a holder is any object.

Tasks are handed out in order. When none waits and somebody is idle, the task that has been in hand longest, and for
at least ``STRAGGLER_FACTOR`` times the median and ``STRAGGLER_AFTER_S``, is handed out once more; one that waits
behind another in a worker's queue at once. The first outcome settles a task, whatever becomes of its other holder.
"""

from __future__ import annotations

import statistics
from collections import Counter, deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.driver.task import Task

MAX_ATTEMPTS = 3
"""Tries of one task whose worker dies or hangs."""
MAX_LOSSES = 10
"""Times that one task may lose its worker to a node that left: a task that takes down every node must end too."""
STRAGGLER_FACTOR = 2.0
STRAGGLER_AFTER_S = 5.0
HUNG_FACTOR = 20.0
HUNG_AFTER_S = 3600.0
RECENT = 1000
"""Finished tasks that the median and the maximum are of."""


@dataclass
class Attempt:
    """One holder's turn at a task."""

    task: Task
    holder: Hashable
    began: float
    """When it became the task that its holder is at (monotonic seconds)."""
    queued: bool = False
    """Whether its holder is at another one yet."""


class TaskQueue:
    """The state of all tasks of one run."""

    def __init__(self, tasks: Sequence[Task], *, copies: bool = True, timeout_s: float | None = None) -> None:
        """``copies``: hand out stragglers twice. ``timeout_s``: as ``Resources.task_timeout_s``."""
        self.unsettled = {task.key: task for task in tasks}
        self.deaths: Counter[str] = Counter()
        self._losses: Counter[str] = Counter()
        self._waiting = deque(tasks)
        self._attempts: dict[str, list[Attempt]] = {}
        self._seconds: deque[float] = deque(maxlen=RECENT)
        self._copies, self._timeout_s = copies, timeout_s

    def next(
        self, holder: Hashable, now: float, behind: Attempt | None = None
    ) -> tuple[Attempt, bool] | None:
        """A task for ``holder`` and whether it is a copy; None where there is nothing to do for it.

        ``behind``: what ``holder`` is at. A copy behind another task would only hold the end up, and a task that a
        worker died on runs alone, so that the next death says whose fault it was.
        """
        copied, queued = not self._waiting, behind is not None
        if behind is not None and (
            copied or self.deaths[behind.task.key] or self.deaths[self._waiting[0].key]
        ):
            return None
        task = self._straggler(now) if copied else self._waiting.popleft()
        if task is None:
            return None
        attempt = Attempt(task, holder, now, queued)
        self._attempts.setdefault(task.key, []).append(attempt)
        return attempt, copied

    def settle(self, attempt: Attempt, now: float) -> bool:
        """Books that an attempt ended with an outcome; whether it is the task's first."""
        self._drop(attempt)
        self._seconds.append(now - attempt.began)
        return self.unsettled.pop(attempt.task.key, None) is not None

    def lost(self, attempt: Attempt, *, tried: bool, node: bool) -> str | None:
        """Books that an attempt ended without an outcome; the word for what becomes of its task.

        ``tried``: its holder was at it (not at one before it). ``node``: the whole node went. The word is ``retried``,
        ``failed`` (tried too often, and nobody else is at it), or None where somebody else is, or nobody need be.
        """
        self._drop(attempt)
        key = attempt.task.key
        if key not in self.unsettled:
            return None
        if tried:
            (self._losses if node else self.deaths)[key] += 1
        if self._attempts.get(key):
            return None
        if self.deaths[key] >= MAX_ATTEMPTS or self._losses[key] >= MAX_LOSSES:
            del self.unsettled[key]
            return "failed"
        self._waiting.appendleft(attempt.task)
        return "retried"

    def timeout_s(self) -> float | None:
        """Seconds after which a task in hand is taken for hung; None = never (yet)."""
        if self._timeout_s is not None:
            return self._timeout_s or None
        return max(HUNG_AFTER_S, HUNG_FACTOR * max(self._seconds)) if self._seconds and self._copies else None

    def overdue(self, now: float) -> Iterator[Attempt]:
        """What has been in hand for longer than :meth:`timeout_s`."""
        limit = self.timeout_s()
        if limit is not None:
            for attempts in list(self._attempts.values()):
                yield from [
                    attempt for attempt in attempts if not attempt.queued and now - attempt.began > limit
                ]

    def _straggler(self, now: float) -> Task | None:
        if not self._copies or not self._seconds:
            return None
        late = max(STRAGGLER_AFTER_S, STRAGGLER_FACTOR * statistics.median(self._seconds))
        alone = [
            attempts[0]
            for key, attempts in self._attempts.items()
            if len(attempts) == 1 and key in self.unsettled
        ]
        slow = [attempt for attempt in alone if attempt.queued or now - attempt.began > late]
        return max(slow, key=lambda attempt: (attempt.queued, now - attempt.began)).task if slow else None

    def _drop(self, attempt: Attempt) -> None:
        attempts = self._attempts[attempt.task.key]
        attempts.remove(attempt)
        if not attempts:
            del self._attempts[attempt.task.key]
