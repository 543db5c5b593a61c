"""The interface of a kind of work, and the registry of all kinds.

A kind of work has a plan and tasks for the driver, ``run`` for a worker, and tables and a page for readers. One
file puts them together, as a subclass of :class:`KindOfWork` with ``@register``. The library's own are in
``pipeline.kinds``, above all packages that they use; lower packages find them here by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from pipeline.base.plugins import Registry
from pipeline.runs.audit_options import DecisionOptions

if TYPE_CHECKING:
    from pipeline.driver import Resources
    from pipeline.runs.folder import RunFolder
    from pipeline.runs.folder_status import FolderStatus
    from pipeline.runs.progress import ProgressTracker
    from pipeline.runs.shard_schema import Kind
    from pipeline.runs.tasks import TaskDone
    from pipeline.runs.warm_state import WarmState


class Request(Protocol):
    """The common part of the requests of all kinds of work."""

    @property
    def out(self) -> RunFolder:
        """The output folder, for the kind's own :class:`Kind`."""
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
    """Whether the first column holds names, which are left-aligned and wrapped."""


@dataclass(frozen=True)
class Reduced:
    """Terminal output of a reduction."""

    sentences: Sequence[str] = ()
    places: Sequence[str] = ()
    """Lines with the paths of the tables."""
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
    """Name of ``kind`` and of the command."""
    kind: ClassVar[Kind]
    """Its files in an output folder."""
    long_tasks: ClassVar[bool] = False
    """Whether tasks are long and save their state: they then have no second copies and no timeout."""

    @abstractmethod
    def plan(self, request: Any) -> Any:
        """The plan (``kind.plan_type``) of a complete run, merged with plans of earlier calls in the folder."""

    @abstractmethod
    def write_inputs(self, request: Any) -> None:
        """Write the tasks' inputs, such as the tokens, into the folder."""

    @abstractmethod
    def tasks(self, request: Any, plan: Any, found: FolderStatus) -> list[Any]:
        """One task for every key in ``found.to_measure``. Each names its kind in ``kind``."""

    def asked(self, request: Any, plan: Any) -> set[str]:
        """The keys of the plan that this call requests."""
        del request
        return set(plan.expected())

    def tracker(self) -> type[ProgressTracker]:
        """The class that records this call's outcomes."""
        from pipeline.runs.progress import ProgressTracker

        return ProgressTracker

    @abstractmethod
    def run(self, task: Any, warm: WarmState) -> TaskDone:
        """Run ``task`` in a worker and write its shard. Raises CheckpointError if it fails."""

    def unfinished(self, folder: RunFolder, plan: Any, found: FolderStatus) -> Unfinished:
        """Progress of the unfinished tasks, from files only."""
        del folder, plan, found
        return Unfinished()

    @abstractmethod
    def reduce(self, folder: RunFolder, *, allow_missing: bool, seed: int) -> Reduced:
        """Make tables from the shards. Raises IncompleteRunError if some are missing, unless ``allow_missing``."""

    def decide(self, folder: RunFolder, chosen: DecisionOptions) -> Sequence[str]:
        """What to ship by the tables that :meth:`reduce` left, in sentences; with another tolerance or level than they
        were made with, decided anew and kept. Empty where there is nothing to choose.
        """
        del folder, chosen
        return ()

    @abstractmethod
    def page(self, folder: RunFolder) -> list[str]:
        """Draw the page and return lines with its path. Raises UsageError if there are no tables."""


W = TypeVar("W", bound=KindOfWork)
kinds_of_work: Registry[KindOfWork] = Registry("kind of work", "pipeline.kinds")


def register(kind: type[W]) -> type[W]:
    """Class decorator that adds a kind of work. Raises UsageError if another one has its name."""
    kinds_of_work.register(kind())
    return kind


def work_in(folder: RunFolder) -> list[KindOfWork]:
    """The kinds of work that have a plan in the folder, the audit first."""
    found = [each for each in kinds_of_work if folder.of(each.kind).has_plan()]
    return sorted(found, key=lambda each: each.name != "audit")
