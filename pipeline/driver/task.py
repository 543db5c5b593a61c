"""The driver's view of work: a task with a key, and its outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


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
