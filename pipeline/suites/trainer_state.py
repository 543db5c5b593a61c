"""What a Hugging Face Trainer leaves in a checkpoint folder about the run: ``trainer_state.json``, ``scheduler.pt``.

A Trainer logs every few updates and saves every few others. Only what it logged at the checkpoint's own update is the
checkpoint's; a rate that was logged earlier may be many times too large where the schedule decays. Sources:
transformers ``trainer.py`` (``_maybe_log_save_evaluate``, ``_save_optimizer_and_scheduler``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from pipeline.base.json_fields import Fields, read_object
from pipeline.suites.scheduler_state import next_learning_rate

STATE = "trainer_state.json"
SCHEDULER = "scheduler.pt"


@dataclass(frozen=True)
class TrainerState:
    """The facts beside a checkpoint that a trajectory needs."""

    learning_rate: float | None = None
    """Of the update that led to the checkpoint, as logged at it; else as ``next_update`` says; None if unknown."""
    next_update: bool = False
    """Whether ``learning_rate`` is that of the update after the checkpoint's, from scheduler.pt."""
    tokens_seen: int | None = None
    """``num_input_tokens_seen``; None where the Trainer did not count (it then writes 0)."""
    problem: str | None = None
    """Why a file that is there says nothing."""


class _UnusableError(Exception):
    """A file of the Trainer's cannot be used; the message says why."""


def read_trainer_state(folder: Path, step: int) -> TrainerState:
    """The state beside a checkpoint, empty where there is none (it is optional).

    The update is the state's own ``global_step``: a folder's number may count tokens or epochs. ``step``, the folder's
    number, stands for it only in a state that does not say.
    """
    path, scheduler = folder / STATE, folder / SCHEDULER
    logged, tokens, problem = None, None, None
    try:
        if path.exists():
            logged, tokens = _told(read_object(path, _UnusableError, finite=False), step)
        if logged is not None or not scheduler.exists():
            return TrainerState(logged, tokens_seen=tokens)
    except (_UnusableError, OSError) as error:
        problem = f"{STATE}: {error}"
    try:
        if scheduler.exists():
            return TrainerState(next_learning_rate(scheduler), True, tokens, problem)
    except (OSError, ValueError) as error:
        problem = problem or f"{SCHEDULER}: {getattr(error, 'strerror', None) or error}"
    return TrainerState(tokens_seen=tokens, problem=problem)


def trainer_warnings(states: Iterable[tuple[str, TrainerState]]) -> list[str]:
    """A sentence for each way in which what Trainers left says less than it should, by name of checkpoint."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name, state in states:
        if state.problem is not None:
            groups[state.problem].append(name)
        elif state.next_update:
            groups[""].append(name)
    return [
        f"{_some(names)}: {problem}; what it says of the run is not known"
        if problem
        else f"{_some(names)}: no learning rate was logged at the checkpoint's own update; the one of the update after "
        f"it is given, from {SCHEDULER}"
        for problem, names in groups.items()
    ]


def _told(state: Fields, step: int) -> tuple[float | None, int | None]:
    """Learning rate and tokens that a trainer_state.json states for its own update."""
    own = state.get("global_step", int)
    own = step if own is None else own
    logged = [
        entry["learning_rate"]
        for entry in state.get("log_history", list) or []
        if isinstance(entry, dict) and entry.get("step") == own and _rate(entry.get("learning_rate"))
    ]
    counted = state.get("num_input_tokens_seen", float) or 0
    return (float(logged[-1]) if logged else None), (int(counted) if counted > 0 else None)


def _rate(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**63


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
