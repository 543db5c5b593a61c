"""Progress of a fork experiment: how far its unfinished runs are."""

from __future__ import annotations

import time
from contextlib import suppress

from pipeline.base.errors import OutputError
from pipeline.runs.folder_status import FolderStatus
from pipeline.runs.plans import ForkPlan
from pipeline.runs.progress import ProgressTracker
from pipeline.runs.task_values import ForkTask

LOOK_EVERY_S = 10.0
"""Shortest time between two checks of the unfinished runs' progress, seconds."""


class ForkProgress(ProgressTracker):
    """Reports the unfinished runs' progress from their saved states; costs one listing per check."""

    def arranged(self, tasks: list[ForkTask], plan: ForkPlan, whole: FolderStatus) -> list[ForkTask]:
        del whole
        self._steps, self._keys = plan.rates.steps, {task.key for task in tasks}
        self._looked, self._made = time.monotonic(), self._list()
        self.resume(self._shares())
        return tasks

    def look(self) -> None:
        """Check the progress, unless just done, and return what has changed."""
        if time.monotonic() - self._looked < LOOK_EVERY_S:
            return
        before = self._made
        with suppress(OutputError):  # a fault of the folder is reported where the folder is needed
            self._made = self._list()
        self._looked = time.monotonic()
        changed = {key: made for key, made in self._made.items() if made != before.get(key)}
        for key, made in changed.items():
            self.events("advanced", key=key, updates=made, of=self._steps)
        if changed:
            self.advance(self._shares())

    def _list(self) -> dict[str, int]:
        return {key: made for key, made in self._out.states.updates_made().items() if key in self._keys}

    def _shares(self) -> dict[str, float]:
        return {key: made / self._steps for key, made in self._made.items()}
