"""Fields of a dataclass that are options of a command too: each is declared once, with its help and its limits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Option:
    """What a command line shows of a field; its type and default are the field's own."""

    help: str | Callable[[], str]
    """The help text, or a function that makes it when it is shown."""
    name: str = ""
    """Name with its dashes; empty = the field's name."""
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    least: float | None = None
    open: bool = False
    """Whether a value must be above ``least``."""
    below: float | None = None
    bare: str | None = None
    """What the option stands for where it is given without a value."""


def option(default: Any = dataclasses.MISSING, /, **shown: Any) -> Any:
    """A field of a dataclass that is an option; ``shown``: fields of :class:`Option`."""
    return dataclasses.field(default=default, metadata={"option": Option(**shown)})
