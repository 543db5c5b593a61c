"""Progress messages and saved results of a benchmark."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from jobs.console import Report, errors
from pipeline.base.files import make_folder, write_atomically

NUMBERS = "benchmark.json"


class Stages:
    """Print each new stage and the time since the start on stderr."""

    def __init__(self, show: Report) -> None:
        self._show, self._start, self._last = show, time.monotonic(), ""

    def __call__(self, stage: str, done: int = 0, total: int = 1) -> None:
        if stage != self._last:
            errors.print(f"{time.monotonic() - self._start:6.1f} s: {stage}", markup=False)
            self._last = stage
        self._show(done, total, None, stage)


class Record:
    """A JSON file that is rewritten after each result, so that a run that ends early keeps what it found."""

    def __init__(self, suite: str, folder: Path | None, name: str = NUMBERS) -> None:
        self._found: dict[str, Any] = {"suite": suite, "complete": False}
        self._folder, self._name = folder, name
        if folder is not None:
            make_folder(folder)

    def add(self, part: dict[str, Any]) -> None:
        """Add ``part`` and save the file."""
        self._found |= part
        if self._folder is not None:
            write_atomically(self._folder / self._name, (json.dumps(self._found, indent=1) + "\n").encode())
