"""What a kind of work is, and the registry of all kinds.

A kind of work has a part on every floor: a plan and tasks for the driver, ``run`` for a worker, tables and a page for
whoever reads. One file puts them together, as a subclass of :class:`KindOfWork` marked with ``@register``: those of
the library are in ``pipeline.kinds``, above all that they use, and the floors below find them here by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from pipeline.base.plugins import Registry

if TYPE_CHECKING:
    from pipeline.base.event_log import EventLog
    from pipeline.driver import Resources
    from pipeline.runs.folder import RunFolder
    from pipeline.runs.folder_status import FolderStatus
    from pipeline.runs.progress import Progress, ProgressTracker
    from pipeline.runs.shard_schema import Kind
    from pipeline.runs.tasks import TaskDone
    from pipeline.runs.warm_state import WarmState


class Request(Protocol):
    """What every request of a kind of work has; the rest is between the kind and whoever asks."""

    @property
    def out(self) -> RunFolder:
        """Of the kind's own :class:`Kind`."""
        ...

    @property
    def resources(self) -> Resources: ...

    @property
    def replace_stale(self) -> bool: ...


@dataclass(frozen=True)
class TextTable:
    """A table for a terminal: plain text, cells as written."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    named: bool = False
    """Whether the first column holds names: to the left, and folded where they are long."""


@dataclass(frozen=True)
class Reduced:
    """What a reduction says on a terminal."""

    sentences: Sequence[str] = ()
    places: Sequence[str] = ()
    """Lines that say where the tables are."""
    table: TextTable | None = None


@dataclass(frozen=True)
class Unfinished:
    """How far the unfinished tasks are, beside what the folder status says."""

    fields: dict[str, Any] = field(default_factory=dict)
    """For ``status --json``."""
    lines: Sequence[str] = ()
    """For ``status``."""


class KindOfWork(ABC):
    """One kind of work."""

    name: ClassVar[str]
    """That of ``kind``, and of the command."""
    kind: ClassVar[Kind]
    """What it keeps in an output folder."""
    long_tasks: ClassVar[bool] = False
    """Whether a task takes long and keeps its state: then no task is given to two workers, and none is timed out."""

    @abstractmethod
    def plan(self, request: Any) -> Any:
        """What a complete run has (``kind.plan_type``), with what earlier calls have planned in the same folder."""

    @abstractmethod
    def write_inputs(self, request: Any) -> None:
        """Writes into the folder what the tasks read there, such as the tokens."""

    @abstractmethod
    def tasks(self, request: Any, plan: Any, found: FolderStatus) -> list[Any]:
        """A task for every key that ``found`` wants measured. Each names its kind in ``kind``."""

    def asked(self, request: Any, plan: Any) -> set[str]:
        """The keys that this call is about, of those of the plan."""
        del request
        return set(plan.expected())

    def tracker(
        self,
        request: Any,
        plan: Any,
        found: FolderStatus,
        on_progress: Callable[[Progress], None],
        events: EventLog,
    ) -> ProgressTracker:
        """Who books the outcomes of this call; ``found`` is of the whole plan."""
        from pipeline.runs.progress import ProgressTracker

        asked = self.asked(request, plan)
        mine = found.only(asked)
        tasks = self.tasks(request, plan, mine)
        return ProgressTracker(
            request.out, mine, len(asked), on_progress, events, tasks=tasks, label=plan.suite
        )

    @abstractmethod
    def run(self, task: Any, warm: WarmState) -> TaskDone:
        """Does ``task`` and writes its shard; in a worker. ``CheckpointError`` where it cannot be done."""

    def unfinished(self, folder: RunFolder, plan: Any, found: FolderStatus) -> Unfinished:
        """How far the unfinished tasks are, from files only."""
        del folder, plan, found
        return Unfinished()

    @abstractmethod
    def reduce(self, folder: RunFolder, *, allow_missing: bool, seed: int) -> Reduced:
        """Makes tables of the shards. ``IncompleteRunError`` where some are missing and that is not allowed."""

    @abstractmethod
    def page(self, folder: RunFolder) -> list[str]:
        """Draws the tables; returns lines that say where. ``UsageError`` where there are none."""


W = TypeVar("W", bound=KindOfWork)
kinds_of_work: Registry[KindOfWork] = Registry("kind of work", "pipeline.kinds")


def register(kind: type[W]) -> type[W]:
    """Adds a kind of work, as a decorator of its class. ``UsageError`` where another one has its name."""
    kinds_of_work.register(kind())
    return kind


def work_in(folder: RunFolder) -> list[KindOfWork]:
    """The kinds of work that the folder at the same place holds a plan of; the audit first."""
    found = [each for each in kinds_of_work if folder.of(each.kind).has_plan()]
    return sorted(found, key=lambda each: each.name != "audit")
