"""A JSON object that an output folder holds, read with checked types."""

from __future__ import annotations

from pipeline.base.errors import UsageError
from pipeline.base.files import parse_json
from pipeline.base.json_fields import Fields


def json_fields(place: str, data: bytes, command: str) -> Fields:
    """The JSON object ``data`` of the file at ``place``; a UsageError names the ``command`` that rewrites it."""

    def broken(what: str) -> UsageError:
        return UsageError(f"{place} is damaged: {what}; run `int4-collapse {command}` again to rewrite it")

    try:
        return Fields(parse_json(data), broken)
    except ValueError as error:
        raise broken(f"not readable JSON ({error})") from error
