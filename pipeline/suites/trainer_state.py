"""What a Hugging Face Trainer leaves in a checkpoint folder about the run: ``trainer_state.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard


@dataclass(frozen=True)
class TrainerState:
    """The two facts of a trainer_state.json that a trajectory needs."""

    learning_rate: float | None = None
    """As last logged at or before the checkpoint's step; None if it never was."""
    tokens_seen: int | None = None
    """``num_input_tokens_seen``; None where the Trainer did not count (it then writes 0)."""


def read_trainer_state(folder: Path, step: int) -> TrainerState:
    """The state beside a checkpoint; empty where the file is missing or not readable (it is optional)."""
    try:
        value: Any = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return TrainerState()
    if not isinstance(value, dict):
        return TrainerState()
    history = value.get("log_history")
    logged = [
        (entry["step"], float(entry["learning_rate"]))
        for entry in (history if isinstance(history, list) else [])
        if isinstance(entry, dict) and _number(entry.get("step")) and _number(entry.get("learning_rate"))
    ]
    before = [item for item in logged if item[0] <= step]
    counted = value.get("num_input_tokens_seen")
    tokens = int(counted) if _number(counted) else 0
    return TrainerState(
        learning_rate=max(before, key=lambda item: item[0])[1] if before else None,
        tokens_seen=tokens if tokens > 0 else None,
    )


def _number(value: Any) -> TypeGuard[int | float]:
    """Whether ``value`` is a number that a table can hold: not NaN, not infinite, not beyond 64 bits."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -(2**63) < value < 2**63
