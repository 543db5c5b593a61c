"""Checks of the settings and names that an output folder holds, because someone may have edited them.

An error names the field; ``Fields`` adds the file.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from typing import Any

from pipeline.base.errors import UsageError
from pipeline.base.fingerprints import field_types
from pipeline.base.json_fields import Fields
from pipeline.spec import Variant

_PART = re.compile(r"(?!\.)[^/\\\x00-\x1f\x7f]{1,200}")
"""What can be part of a file's name, as a shard's key must be."""


def is_name_part(text: str) -> bool:
    """Whether ``text`` can be part of a file's name."""
    return _PART.fullmatch(text) is not None


def texts(fields: Fields, name: str) -> tuple[str, ...]:
    """The list of strings ``name``; empty if absent."""
    values = fields.get(name, list) or []
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise fields.wrong(f"{name}[{index}]", value, "a text")
    return tuple(values)


def text_by_name(fields: Fields, name: str) -> dict[str, str]:
    """The object ``name`` with string values; empty if absent."""
    values = fields.child(name)
    return {key: values.need(key, str) for key in values.value}


def settings_of(kind: type, fields: Fields) -> dict[str, Any]:
    """The settings of a spec of class ``kind`` (``ProbeSpec.config``), with checked types.

    A field that an earlier release lacked may be missing if it has a default; a field that this release does not
    know is kept.
    """
    hints = field_types(kind)
    for each in dataclasses.fields(kind):
        if each.name not in fields.value and each.default is not dataclasses.MISSING:
            continue
        _check(fields, each.name, hints[each.name])
    return fields.value


def _check(fields: Fields, name: str, hint: Any) -> None:
    if dataclasses.is_dataclass(hint):
        fields.need(name, dict)
        settings_of(typing.cast("type", hint), fields.child(name))
        return
    if typing.get_origin(hint) in (types.UnionType, typing.Union):  # a type or None
        (hint,) = (each for each in typing.get_args(hint) if each is not types.NoneType)
        if fields.value.get(name) is None:
            return
    if typing.get_origin(hint) is tuple:
        given = fields.need(name, list)
        if typing.get_args(hint)[0] is int:
            if wrong := [each for each in given if type(each) is not int or each < 0]:
                raise fields.wrong(name, wrong[0], "whole numbers")
            return
        values = texts(fields, name)
        if typing.get_args(hint)[0] is Variant:
            _check_variants(fields, name, values, first=("fp32",) if name == "variants" else ())
        return
    fields.need(name, hint)


def _check_variants(fields: Fields, name: str, values: tuple[str, ...], first: tuple[str, ...]) -> None:
    if values[: len(first)] != first or len(set(values)) != len(values):
        raise fields.wrong(
            name, list(values), ", ".join(["different variants", *(f"{each} first" for each in first)])
        )
    for index, value in enumerate(values):
        try:
            Variant.parse(value)
        except UsageError:
            raise fields.wrong(f"{name}[{index}]", value, "a variant, or the plug-in that has it") from None
