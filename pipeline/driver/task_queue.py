"""The task queue: which task goes to which worker, how often, and which are finished. Independent of Ray: a holder
is any object.

Tasks are handed out in order, each to one holder at a time. A task comes back when its holder dies, hangs or leaves.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

MAX_ATTEMPTS = 3
"""Attempts at one task whose worker dies or hangs."""
MAX_LOSSES = 10
"""How often a task may lose its worker to a lost node: a task that takes down every node must end too."""
HUNG_FACTOR = 20.0
HUNG_AFTER_S = 3600.0
RECENT = 1000
"""Finished tasks whose longest time decides when a task counts as hung."""


class Task(Protocol):
    """A unit of work that can be pickled. The worker class knows what to do with it."""

    @property
    def key(self) -> str:
        """Name of the task, unique in its run."""
        ...


@dataclass(frozen=True)
class TaskOutcome:
    """How one task ended."""

    key: str
    failure: str | None = None
    """Reason of the failure in one line; None if it succeeded."""
    trace: str = ""
    """Python traceback of the failure; empty if no Python code failed (the worker died)."""
    deaths: int = 0
    """Number of workers that died while running it."""
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    busy_s: float = 0.0
    """Seconds that its worker computed."""
    idle_s: float = 0.0
    """Seconds that its worker waited for downloads and files before it."""
    host: str = ""
    """Host that it ran on; filled in by the driver."""


@dataclass
class Attempt:
    """One attempt at a task by one worker."""

    task: Task
    holder: Hashable
    began: float
    """When its worker began it (monotonic seconds)."""
    queued: bool = False
    """Whether it still waits behind another task of its worker."""


class TaskQueue:
    """The state of all tasks of one run."""

    def __init__(
        self, tasks: Sequence[Task], *, detects_hung: bool = True, timeout_s: float | None = None
    ) -> None:
        """``detects_hung``: whether a task of unusual length counts as hung. ``timeout_s``: the limit to use instead
        (``Resources.task_timeout_s``).
        """
        self.unsettled = {task.key: task for task in tasks}
        self.deaths: Counter[str] = Counter()
        self._losses: Counter[str] = Counter()
        self._waiting = deque(tasks)
        self._attempts: dict[str, Attempt] = {}
        self._seconds: deque[float] = deque(maxlen=RECENT)
        self._detects_hung, self._timeout_s = detects_hung, timeout_s

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def next(self, holder: Hashable, now: float, behind: Attempt | None = None) -> Attempt | None:
        """The next task for ``holder``; None if there is none.

        ``behind``: the attempt that ``holder`` is running. A task on which a worker has died runs alone, so that
        another death shows its cause.
        """
        if not self._waiting:
            return None
        if behind is not None and (self.deaths[behind.task.key] or self.deaths[self._waiting[0].key]):
            return None
        task = self._waiting.popleft()
        attempt = self._attempts[task.key] = Attempt(task, holder, now, queued=behind is not None)
        return attempt

    def settle(self, attempt: Attempt, now: float) -> None:
        """Record that an attempt ended with an outcome."""
        del self._attempts[attempt.task.key]
        self._seconds.append(now - attempt.began)
        del self.unsettled[attempt.task.key]

    def lost(self, attempt: Attempt, *, tried: bool, node: bool) -> bool:
        """Record that an attempt ended without an outcome; return whether its task is tried again.

        ``tried``: its holder was running it, not one before it. ``node``: the whole node was lost.
        """
        key = attempt.task.key
        del self._attempts[key]
        if tried:
            (self._losses if node else self.deaths)[key] += 1
        if self.deaths[key] >= MAX_ATTEMPTS or self._losses[key] >= MAX_LOSSES:
            del self.unsettled[key]
            return False
        self._waiting.appendleft(attempt.task)
        return True

    def timeout_s(self) -> float | None:
        """Seconds after which a running task counts as hung; None = never (yet)."""
        if self._timeout_s is not None:
            return self._timeout_s or None
        if not self._seconds or not self._detects_hung:
            return None
        return max(HUNG_AFTER_S, HUNG_FACTOR * max(self._seconds))

    def overdue(self, now: float) -> list[Attempt]:
        """The attempts that have lasted longer than :meth:`timeout_s`."""
        limit = self.timeout_s()
        if limit is None:
            return []
        return [each for each in self._attempts.values() if not each.queued and now - each.began > limit]
