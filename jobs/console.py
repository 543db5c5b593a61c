"""What a person sees while a run goes on: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

LINE_EVERY_S = 10.0
"""Least time between two plain lines."""

Report = Callable[[int, int, float | None, str], None]
"""Called with units done, units in all, seconds left (None: not known yet) and a word on the last one."""

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """A duration for people.

    >>> duration(42), duration(95), duration(7300)
    ('42 s', '1 min 35 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@contextmanager
def progress(label: str) -> Iterator[Report]:
    """A reporter for work named ``label``, for the length of the block."""
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, TextColumn("{task.fields[note]}"), console=console, transient=True) as bar:
            task = bar.add_task(label, total=None, note="")

            def show(done: int, total: int, eta_s: float | None, note: str) -> None:
                left = "" if eta_s is None else f"{duration(eta_s)} left  "
                bar.update(task, completed=done, total=total, note=left + note)

            yield show
        return
    last = 0.0

    def line(done: int, total: int, eta_s: float | None, note: str) -> None:
        nonlocal last
        now = time.monotonic()
        if done < total and now - last < LINE_EVERY_S:
            return
        last = now
        left = "" if eta_s is None else f", {duration(eta_s)} left"
        console.print(f"{label}: {done}/{total}{left}  {note}".rstrip(), markup=False)

    yield line
