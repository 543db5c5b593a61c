"""Read what a Hugging Face Trainer leaves in a checkpoint folder: ``trainer_state.json``, ``scheduler.pt``.

A Trainer logs every few updates and saves every few others. Only values logged at the checkpoint's own update
belong to the checkpoint; a rate logged earlier may be many times too large in a decay. Sources: transformers
``trainer.py`` (``_maybe_log_save_evaluate``, ``_save_optimizer_and_scheduler``).
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from pipeline.base.files import read_regular
from pipeline.base.json_files import read_json

STATE = "trainer_state.json"
SCHEDULER = "scheduler.pt"
MOST_SCHEDULER_BYTES = 2**20
"""Largest state of a scheduler that is read, bytes; one has about a thousand."""


@dataclass(frozen=True)
class TrainerState:
    """Facts about a checkpoint from its Trainer's files."""

    learning_rate: float | None = None
    """Learning rate of the checkpoint's update, as logged there; see ``next_update``; None if unknown."""
    next_update: bool = False
    """Whether ``learning_rate`` belongs to the update after the checkpoint's, from scheduler.pt."""
    tokens_seen: int | None = None
    """``num_input_tokens_seen``; None where the Trainer did not count (it then writes 0)."""
    problem: str | None = None
    """Why an existing file is unusable."""


class _UnusableError(Exception):
    """A file of the Trainer's cannot be used; the message says why."""


def read_trainer_state(folder: Path, step: int) -> TrainerState:
    """Read the state beside a checkpoint; empty if there is none (it is optional).

    The update is the state's own ``global_step``, because a folder's number may count tokens or epochs. ``step``,
    the folder's number, is used only for a state without it.
    """
    path, scheduler = folder / STATE, folder / SCHEDULER
    logged, tokens, problem = None, None, None
    try:
        if path.exists():
            logged, tokens = _told(read_json(_Logged, path, _UnusableError, finite=False), step)
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
    """One sentence per kind of gap in what the Trainers left, with the names of the checkpoints."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name, state in states:
        if state.problem is not None:
            groups[state.problem].append(name)
        elif state.next_update:
            groups[""].append(name)
    return [
        f"{_some(names)}: {problem}; its facts about the run are unknown"
        if problem
        else f"{_some(names)}: no learning rate was logged at the checkpoint's own update; the one of the update after "
        f"it is given, from {SCHEDULER}"
        for problem, names in groups.items()
    ]


@dataclass(frozen=True)
class _Logged:
    """The part of a trainer_state.json that is used."""

    global_step: int | None = None
    log_history: tuple[Any, ...] = ()
    num_input_tokens_seen: float | None = None


def _told(state: _Logged, step: int) -> tuple[float | None, int | None]:
    """Learning rate and tokens in a trainer_state.json, for its own update."""
    own = step if state.global_step is None else state.global_step
    logged = [
        entry["learning_rate"]
        for entry in state.log_history
        if isinstance(entry, dict) and entry.get("step") == own and _rate(entry.get("learning_rate"))
    ]
    counted = state.num_input_tokens_seen or 0
    if not math.isfinite(counted):
        raise _UnusableError(f"num_input_tokens_seen is {counted}, wanted a finite number")
    return (float(logged[-1]) if logged else None), (int(counted) if counted > 0 else None)


def _rate(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**63


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler of numbers, strings, lists and dicts only."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it wants {module}.{name}, which no scheduler's state needs")


def next_learning_rate(path: Path) -> float:
    """The learning rate of the next update, of the first parameter group, in the scheduler saved at ``path``.

    ``torch.save`` writes a zip whose member ``.../data.pkl`` is a pickle. A scheduler saves plain numbers and lists, so
    no class and no function is accepted. Raises OSError like ``read_regular``, ValueError if the state holds no rate.
    """
    data = read_regular(path, MOST_SCHEDULER_BYTES)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            (member,) = (each for each in archive.infolist() if each.filename.endswith("/data.pkl"))
            if member.file_size > MOST_SCHEDULER_BYTES:
                raise ValueError(f"its state has {member.file_size:,} bytes")
            state = _PlainUnpickler(io.BytesIO(archive.read(member))).load()
    except Exception as error:  # a damaged zip or pickle raises exceptions of many types
        raise ValueError(f"not the state of a scheduler ({error})") from error
    rates = state.get("_last_lr") if isinstance(state, dict) else None
    rate = rates[0] if isinstance(rates, list) and rates else None
    if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 <= rate < math.inf:
        raise ValueError("it holds no learning rate")
    return float(rate)
