"""A JSON object that an output folder holds, read with checked types."""

from __future__ import annotations

from functools import partial
from typing import TypeVar

from pipeline.base.errors import UsageError
from pipeline.base.json_files import json_as

T = TypeVar("T")


def json_record(kind: type[T], place: str, data: bytes, command: str) -> T:
    """The JSON ``data`` of the file at ``place`` as ``kind``; a UsageError names the ``command`` that rewrites it."""
    return json_as(kind, data, partial(damaged, place, command))


def damaged(place: str, command: str, what: str) -> UsageError:
    """Make the error for the file at ``place``, of which ``what`` is wrong."""
    return UsageError(
        f"{place} is damaged: {what}, or it was made by an earlier version or with a plug-in that is not loaded; run "
        f"`int4-collapse {command}` again to rewrite it"
    )
