"""The terminal output of every kind of work: what is there already, progress, failures, and what was done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Thread
from typing import TYPE_CHECKING

from jobs.console import console, duration, errors, progress
from pipeline.base.english import counted
from pipeline.runs.kind_of_work import Request

if TYPE_CHECKING:
    from pipeline.runs.folder_status import FolderStatus
    from pipeline.runs.progress import Progress

SHOWN = 4
"""How many unfinished tasks a progress line names."""
NOTHING: Mapping[str, str] = {}


def carry_out(
    request: Request,
    name: str,
    *,
    done: str = "done",
    names: Mapping[str, str] = NOTHING,
    meanwhile: Callable[[], None] | None = None,
) -> int:
    """Carry out the missing tasks of ``request`` and name every failure on stderr; return the exit code.

    ``name``: of the work; ``done``: the word for a finished task; ``names``: key of a task -> its name for readers,
    where it has one. If there is anything to do, ``meanwhile`` is called in a thread once the workers have started.
    """
    from pipeline.runs.execute import execute

    later = [] if meanwhile is None else [meanwhile]
    with progress(name) as show:

        def on_progress(state: Progress) -> None:
            note = _under_way(state) if state.last is None else names.get(state.last.key, state.last.key)
            show(state.done + state.failed, state.total, state.eta_s, note)
            if state.last is None and later:
                Thread(target=later.pop(), daemon=True).start()
            for each in () if state.last is None else state.last.notes:
                errors.print(f"{note}: {each}")

        summary = execute(request, _show_status, on_progress)
    for key, reason in summary.failures.items():
        errors.print(f"failed: {names.get(key, key)}: {reason}")
    console.print(
        f"{name}: {len(summary.measured)} {done}, {summary.already_done} existed already, "
        f"{len(summary.failures)} failed in {duration(summary.wall_s)}: {request.out}"
    )
    if summary.idle_share is not None:
        console.print(f"workers were idle {summary.idle_share:.0%} of the time")
    return summary.exit_code


def _show_status(found: FolderStatus) -> None:
    if found.done:
        exist = "exists" if len(found.done) == 1 else "exist"
        console.print(
            f"{counted(len(found.done), 'shard')} {exist} already; {len(found.to_measure)} to measure"
        )
    if found.incomplete:
        lacking = " or ".join(sorted({str(lacks) for lacks in found.incomplete.values()}))
        console.print(f"{len(found.incomplete)} of these are incomplete: each {lacking}")
    for reason in found.corrupt.values():
        errors.print(f"redone: {reason}")


def _under_way(state: Progress) -> str:
    """The unfinished tasks that have saved a state, with their progress."""
    shown = [f"{key} {share:.0%}" for key, share in list(state.under_way.items())[:SHOWN]]
    return ", ".join([*shown, *(["..."] if len(state.under_way) > SHOWN else [])])
