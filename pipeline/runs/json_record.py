"""A JSON object that an output folder holds, read with checked types."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pipeline.base.errors import UsageError
from pipeline.base.files import parse_json
from pipeline.base.json_fields import Fields
from pipeline.base.typed_json import from_json

T = TypeVar("T")


def json_fields(place: str, data: bytes, command: str) -> Fields:
    """The JSON object ``data`` of the file at ``place``; a UsageError names the ``command`` that rewrites it."""
    broken = _damage(place, command)
    try:
        return Fields(parse_json(data), broken)
    except ValueError as error:
        raise broken(f"not readable JSON ({error})") from error


def json_record(kind: type[T], place: str, data: bytes, command: str) -> T:
    """The same as a dataclass ``kind``; the UsageError names the wrong field too."""
    value = json_fields(place, data, command).value
    try:
        record: T = from_json(kind, value)
    except ValueError as error:
        raise _damage(place, command)(f"{error}, or it was made by an earlier version") from error
    return record


def _damage(place: str, command: str) -> Callable[[str], UsageError]:
    def broken(what: str) -> UsageError:
        return UsageError(f"{place} is damaged: {what}; run `int4-collapse {command}` again to rewrite it")

    return broken
