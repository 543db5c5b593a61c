"""A JSON object that an output folder holds, read with checked types."""

from __future__ import annotations

from functools import partial
from typing import TypeVar

from pipeline.base.errors import UsageError
from pipeline.base.files import parse_json
from pipeline.base.json_fields import Fields
from pipeline.base.typed_json import from_json

T = TypeVar("T")


def json_fields(place: str, data: bytes, command: str) -> Fields:
    """The JSON object ``data`` of the file at ``place``; a UsageError names the ``command`` that rewrites it."""
    try:
        return Fields(parse_json(data), partial(damaged, place, command))
    except ValueError as error:
        raise damaged(place, command, f"not readable JSON ({error})") from error


def json_record(kind: type[T], place: str, data: bytes, command: str) -> T:
    """The same as a dataclass ``kind``; the UsageError names the wrong field too."""
    value = json_fields(place, data, command).value
    try:
        record: T = from_json(kind, value)
    except ValueError as error:
        raise damaged(place, command, f"{error}, or it was made by an earlier version") from error
    return record


def damaged(place: str, command: str, what: str) -> UsageError:
    """Make the error for the file at ``place``, of which ``what`` is wrong."""
    return UsageError(f"{place} is damaged: {what}; run `int4-collapse {command}` again to rewrite it")
