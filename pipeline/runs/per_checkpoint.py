"""Base of kinds of work that do one thing to every checkpoint of a suite."""

from __future__ import annotations

import json
import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.base.errors import CheckpointError, UsageError
from pipeline.base.fingerprints import canonical_json, fingerprint, pinned
from pipeline.base.retry import retry_while_away
from pipeline.base.versions import versions
from pipeline.runs.checkpoint_plan import checkpoint_plan
from pipeline.runs.folder import RunFolder
from pipeline.runs.folder_status import FolderStatus, finished
from pipeline.runs.kind_of_work import KindOfWork
from pipeline.runs.plans import RunPlan
from pipeline.runs.shard import Origin
from pipeline.runs.shard_schema import checkpoint_kind
from pipeline.runs.tasks import TaskDone
from pipeline.runs.warm_state import WarmState
from pipeline.spec import Checkpoint
from pipeline.suites import Suite, checkout

if TYPE_CHECKING:
    import polars as pl

    from pipeline.driver import Resources

__all__ = ["CheckpointRequest", "CheckpointSettings", "CheckpointTask", "PerCheckpoint", "checkpoint_kind"]


@dataclass(frozen=True)
class CheckpointSettings:
    """Base of the settings of a kind: every field can change a number, and each has a default."""

    def config(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        found: dict[str, Any] = json.loads(canonical_json(self))
        return found

    def fingerprint(self) -> str:
        """sha256 (hex) of the settings that are not at their default."""
        return fingerprint(pinned(type(self), self.config()))


@dataclass(frozen=True)
class CheckpointRequest:
    """The work, the suite and the output folder."""

    suite: Suite
    settings: CheckpointSettings
    out: RunFolder
    resources: Resources
    replace_stale: bool = False
    cache_gb: float | None = None
    """Disk for downloaded weights on each node, in 10^9 bytes; None = half of what is free."""


@dataclass(frozen=True)
class CheckpointTask:
    """The task of one checkpoint, which writes one shard."""

    measurements: ClassVar[tuple[str, ...]] = ()

    kind: str
    suite: str
    checkpoint: Checkpoint
    settings: CheckpointSettings
    out: str
    device: str = "cpu"
    cache_gb: float | None = None

    @property
    def key(self) -> str:
        return self.checkpoint.key

    def identity(self) -> dict[str, Any]:
        """Identity of the contents; a shard with another one is stale."""
        return {"weights": self.checkpoint.content_id}

    def marks(self) -> dict[str, str]:
        """Further metadata of the shard."""
        return {"identity": canonical_json(self.identity())}


class PerCheckpoint(KindOfWork):
    """Base class; its ``kind`` is made with :func:`checkpoint_kind`."""

    settings: ClassVar[type[CheckpointSettings]]

    @abstractmethod
    def measure(
        self, task: CheckpointTask, weights: Path, warm: WarmState
    ) -> Mapping[str, Any] | list[Mapping[str, Any]]:
        """Measure one checkpoint from the folder of its weights; returns one row or several of the kind's own columns.

        Runs in a worker on the torch device ``task.device``. Raises CheckpointError for an unusable checkpoint.
        """

    def plan(self, request: CheckpointRequest) -> RunPlan:
        return checkpoint_plan(request, request.suite, request.settings)

    def write_inputs(self, request: CheckpointRequest) -> None:
        """Do nothing: tasks read the suite's own weights."""

    def asked(self, request: CheckpointRequest, plan: RunPlan) -> set[str]:
        del plan
        return {checkpoint.key for checkpoint in request.suite.checkpoints}

    def tasks(self, request: CheckpointRequest, plan: RunPlan, found: FolderStatus) -> list[CheckpointTask]:
        wanted, out = set(found.to_measure), request.out.location
        return [
            CheckpointTask(self.name, plan.suite, each, request.settings, out, "cpu", request.cache_gb)
            for each in plan.checkpoints
            if each.key in wanted
        ]

    def run(self, task: CheckpointTask, warm: WarmState) -> TaskDone:
        start = time.perf_counter()
        with checkout(task.checkpoint, task.cache_gb) as weights:
            found = self.measure(task, weights, warm)
        seconds = time.perf_counter() - start
        common = {
            "suite": task.suite,
            "revision": task.checkpoint.revision,
            "step": task.checkpoint.step,
            "probe_s": seconds,
        }
        rows = [{**common, **row} for row in (found if isinstance(found, list) else [found])]
        folder = RunFolder(task.out, self.kind)
        try:
            retry_while_away(lambda: folder.shards.write(task, rows, Origin(versions())))
        except (ValueError, TypeError) as error:
            raise CheckpointError(
                f"kind of work {self.name!r} returned rows that do not fit its columns: {error}"
            ) from error
        return TaskDone(task.key, seconds, busy_s=seconds)

    def table(self, folder: RunFolder, *, allow_missing: bool) -> pl.DataFrame:
        """The rows of all shards in the order of the plan.

        Raises IncompleteRunError if there is no shard, or if shards are missing and ``allow_missing`` is False.
        """
        import polars as pl

        plan, found = finished(folder, allow_missing=allow_missing)
        done = set(found.done)
        shards = folder.shards.require([each.key for each in plan.checkpoints if each.key in done])
        return pl.concat([pl.DataFrame(pl.from_arrow(shard.table)) for shard in shards])

    def parse_settings(self, words: Mapping[str, str]) -> CheckpointSettings:
        """The settings with the given fields changed. Raises UsageError for an unknown field or a wrong type."""
        defaults = vars(self.settings())
        values: dict[str, Any] = {}
        for name, text in words.items():
            if name not in defaults:
                raise UsageError(
                    f"--set {name}: {self.name} has no such setting; wanted one of {', '.join(defaults) or 'none'}"
                )
            try:
                values[name] = type(defaults[name])(text)
            except ValueError:
                raise UsageError(
                    f"--set {name}={text}: wanted a value of type {type(defaults[name]).__name__}"
                ) from None
        return self.settings(**values)
