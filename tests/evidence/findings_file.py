"""One finding: a number with its interval, what it counts, and the file and key that it is read from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TEXT = "text and checkpoints"
TRAININGS = "trainings"
ORDER = "data order and text"
SCHEDULES = ("constant", "wsd", "cosine")
ROOT = "outputs/reference"


@dataclass(frozen=True)
class Finding:
    """A number of the pages."""

    id: str
    question: str
    estimate: float | int | str | None
    lower: float | None
    upper: float | None
    unit: str
    """``%``: estimate and interval are shares of 1."""
    interval: str
    """What the 95 % interval counts; empty without one."""
    trainings: int
    source: str
    """File under outputs/reference."""
    key: list[Any]
    """Path in the file: a name, a number, or the values that pick one of a list; or how it is computed."""
    text: str
    """As the pages write it."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def look_up(value: Any, key: Sequence[Any]) -> Any:
    """The value at ``key``; a dict in it picks the one element of a list with these values."""
    for part in key:
        if isinstance(part, dict):
            (value,) = (each for each in value if all(each[name] == want for name, want in part.items()))
        else:
            value = value[part]
    return value


def said(values: Sequence[float | int | str | None], unit: str, form: str) -> str:
    """``values``: estimate, lower, upper; the last two None without an interval."""
    scale = 100 if unit == "%" else 1
    name = {"": "", "ratio": "", "p": "", "r": "", "count": ""}.get(unit, f" {unit}")
    estimate, lower, upper = values
    if isinstance(estimate, str):
        return estimate
    middle, *ends = (format(scale * each, form) for each in (estimate, lower, upper) if each is not None)
    return f"{middle}{name} [{', '.join(ends)}]" if ends else f"{middle}{name}"


class Source:
    """Makes findings of one JSON file."""

    def __init__(self, reference: Path, path: str) -> None:
        self.path = path
        self.content = json.loads((reference / path).read_text())

    def finding(
        self,
        id: str,  # noqa: A002
        question: str,
        key: Sequence[Any],
        *,
        unit: str = "ratio",
        form: str = ".2f",
        interval: str = "",
        trainings: int = 1,
    ) -> Finding:
        """The number at ``key``: an estimate with ends, a pair of ends [lower, upper] beside it, or a plain value."""
        value = look_up(self.content, key)
        ends: tuple[Any, Any] = (None, None)
        if isinstance(value, dict):
            name = "ratio" if "ratio" in value else "estimate"
            value, ends = value[name], (value["lower"], value["upper"])
        text = said((value, *ends), unit, form)
        return Finding(
            id,
            question,
            value,
            *ends,
            unit,
            interval if ends[0] is not None else "",
            trainings,
            self.path,
            [*key],
            text,
        )


def derived(
    id: str,  # noqa: A002
    question: str,
    value: float | str,
    *,
    how: str,
    source: str,
    unit: str,
    form: str = ".3f",
    trainings: int = 1,
) -> Finding:
    """A number computed from a table; ``how`` says from which columns and steps."""
    text = said((value, None, None), unit, form)
    return Finding(id, question, value, None, None, unit, "", trainings, source, [{"computed": how}], text)
