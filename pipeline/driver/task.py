"""What the driver knows of work: a task by its key, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Task(Protocol):
    """A unit of work: a value that can be pickled. What is done with it is for the worker class to know."""

    @property
    def key(self) -> str:
        """Its name, unique among the tasks of a run."""
        ...


@dataclass(frozen=True)
class TaskOutcome:
    """How one task ended."""

    key: str
    failure: str | None = None
    """The reason in one line, None if it is done."""
    trace: str = ""
    """Python's traceback of the failure; empty where no Python of ours failed (a worker that died)."""
    deaths: int = 0
    """Workers that died on it."""
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    busy_s: float = 0.0
    """Seconds its worker computed on it."""
    idle_s: float = 0.0
    """Seconds its worker computed nothing before it: downloads and files it waited for."""
    host: str = ""
    """Where it ran; filled in by the driver."""
