"""JSON that someone may have edited, as values of checked types: an error names the field."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pipeline.base.files import load_json, parse_json
from pipeline.base.typed_json import from_json

T = TypeVar("T")
Broken = Callable[[str], Exception]
"""Makes the error to raise, which names the file, from what is wrong."""


def checked(kind: type[T], value: Any, broken: Broken, where: str = "") -> T:
    """The JSON ``value`` as ``kind`` (:func:`from_json`); ``where``: its place in the file."""
    try:
        found: T = from_json(kind, value, where)
    except ValueError as error:
        raise broken(str(error)) from error
    return found


def json_as(kind: type[T], data: bytes, broken: Broken) -> T:
    """The JSON text ``data`` as ``kind``."""
    try:
        value = parse_json(data)
    except ValueError as error:
        raise broken(f"not readable JSON ({error})") from error
    return checked(kind, value, broken)


def read_json(kind: type[T], path: Path, broken: Broken, *, finite: bool = True) -> T:
    """The JSON file ``path`` as ``kind``; ``finite``: see ``parse_json``."""
    try:
        value = load_json(path, finite=finite)
    except OSError as error:
        raise broken(error.strerror or str(error)) from error
    except ValueError as error:
        raise broken(f"not readable JSON ({error})") from error
    return checked(kind, value, broken)
