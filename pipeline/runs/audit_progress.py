"""Progress of an audit: its tasks in the order of work, and shards of duplicates copied from their originals."""

from __future__ import annotations

from dataclasses import replace

from pipeline.driver import Layout, TaskOutcome
from pipeline.runs.folder_status import FolderStatus
from pipeline.runs.plans import RunPlan
from pipeline.runs.progress import ProgressTracker
from pipeline.runs.task_values import ProbeTask
from pipeline.runs.tasks import copy_probe

AHEAD = 8
"""Checkpoints that a worker knows in advance; the disk budget limits how many of them are fetched."""


class AuditProgress(ProgressTracker):
    """Records outcomes and copies shards to their duplicates."""

    def arranged(self, tasks: list[ProbeTask], plan: RunPlan, whole: FolderStatus) -> list[ProbeTask]:
        """One of the tasks for each content without a shard; a duplicate may repeat a checkpoint outside this call."""
        self._copies: list[tuple[ProbeTask, str]] = []
        """Duplicates of checkpoints that have a shard already, with the key of that shard."""
        self._followers: dict[str, list[ProbeTask]] = {}
        done, there, leader = set(whole.done), dict[str, str](), dict[str, str]()
        for checkpoint in plan.checkpoints:
            if checkpoint.key in done:
                there.setdefault(checkpoint.duplicate_of or checkpoint.key, checkpoint.key)
        leaders = []
        for task in tasks:
            original = task.checkpoint.duplicate_of or task.key
            if original in there:
                self._copies.append((task, there[original]))
            elif original in leader:
                self._followers[leader[original]].append(task)
            else:
                leader[original] = task.key
                self._followers[task.key] = []
                leaders.append(task)
        return leaders

    def begin(self) -> None:
        """Copy the shards of duplicates whose originals were done before this call."""
        for task, source in self._copies:
            self._copy(task, source)

    def placed(self, tasks: list[ProbeTask], layout: Layout) -> list[ProbeTask]:
        """The tasks for the layout's device, grouped by what they measure, each with the checkpoints to prefetch.

        With W workers a task prefetches every W-th of the following ones: together the workers of a node fetch them
        all, and on several nodes each fetches mostly what it will measure.
        """
        tasks = sorted(tasks, key=lambda task: (task.adds is not None, str(task.measuring.config())))
        following = [range(i + layout.workers, len(tasks), layout.workers)[:AHEAD] for i in range(len(tasks))]
        return [
            replace(task, device=layout.device, ahead=tuple(tasks[j].checkpoint for j in places))
            for task, places in zip(tasks, following, strict=True)
        ]

    def record(self, outcome: TaskOutcome) -> None:
        """Record an outcome and copy the shard to its duplicates."""
        super().record(outcome)
        for task in self._followers[outcome.key]:
            if outcome.failure is None:
                self._copy(task, outcome.key)
            else:
                reason = f"same content as {outcome.key}, which failed: {outcome.failure}"
                super().record(TaskOutcome(task.key, reason, outcome.trace))

    def _copy(self, task: ProbeTask, source: str) -> None:
        """Write a duplicate's shard from the shard ``source``."""
        copy_probe(task, source)
        super().record(TaskOutcome(task.key))
