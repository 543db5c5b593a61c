"""Frozen dataclasses to JSON values and back: a field that is missing or of another kind is named.

Two marks for a field of a dataclass, as its ``metadata``: :data:`INLINE` puts the fields of a dataclass into the
object around it, and :data:`UNLESS_NONE` leaves a field out where it is None.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.base.errors import CollapseError

INLINE: Mapping[str, bool] = {"inline": True}
UNLESS_NONE: Mapping[str, bool] = {"unless none": True}
NAMES: dict[Any, str] = {
    dict: "an object", list: "a list", tuple: "a list", str: "a text", bool: "true or false",
    int: "an integer of at most 64 bits", float: "a number",
}  # fmt: skip
"""Kinds of JSON values, in words."""
MOST = 2**63
"""Integers from this on, and under its negative, are refused: nothing that is measured or counted reaches them."""


def to_json(value: Any) -> Any:
    """``value`` with dataclasses as objects, tuples as lists, NaN and infinity as null: JSON has neither."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dict(_items(value))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, enum.StrEnum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if "inline" in field.metadata:
            yield from _items(item)
        elif item is not None or "unless none" not in field.metadata:
            yield field.name, to_json(item)


def from_json(kind: Any, value: Any, where: str = "") -> Any:
    """``value`` as ``kind``: a dataclass, a union of dataclasses, ``X | None``, ``tuple[X, ...]``, ``tuple[X, Y]``,
    ``dict[str, X]``, an enumeration of texts, a plain type, ``Any``, or a dataclass that can ``parse`` a text. Fields
    that a dataclass lacks are left out.

    Null where a float is wanted is NaN; elsewhere a field that is null counts as absent. Raises ``ValueError`` that
    says ``where`` in the file.
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, where)
    if origin is types.UnionType:
        return None if value is None and types.NoneType in inner else _one_of(inner, value, where)
    if origin is tuple and isinstance(value, list):
        return _tuple(inner, value, where)
    if origin is dict and isinstance(value, dict):
        return {key: from_json(inner[1], each, _inside(where, key)) for key, each in value.items()}
    if kind is Any:
        return value
    if origin is None and (found := _plain(kind, value)) is not None:
        return found
    raise _wrong(where, value, NAMES.get(origin or kind) or str(getattr(kind, "__name__", kind)))


def _parsed(kind: Any, text: str, where: str) -> Any:
    try:
        return kind.parse(text)
    except CollapseError as error:
        raise ValueError(f"{where or 'the whole'} is {shown(text)}: {error}") from error


def _plain(kind: Any, value: Any) -> Any:
    """``value`` as ``kind``; None if it is no such value."""
    if kind is float and value is None:
        return math.nan
    if isinstance(value, int) and not isinstance(value, bool) and not -MOST <= value < MOST:
        return None
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if issubclass(kind, enum.StrEnum):
        return kind(value) if value in list(kind) else None
    return value if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)) else None


def _one_of(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    """The first of several dataclasses whose necessary fields are all there, else the first."""
    wanted = [each for each in kinds if each is not types.NoneType]
    fitting = (
        each
        for each in wanted
        if len(wanted) > 1 and isinstance(value, dict) and _necessary(each) <= value.keys()
    )
    return from_json(next(fitting, wanted[0]), value, where)


def _necessary(kind: Any) -> set[str]:
    missing = dataclasses.MISSING
    return {
        each.name
        for each in dataclasses.fields(kind)
        if each.default is missing and each.default_factory is missing
    }


def _tuple(kinds: tuple[Any, ...], values: list[Any], where: str) -> tuple[Any, ...]:
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(values)
    if len(kinds) != len(values):
        raise ValueError(f"{where} has {len(values)} elements, wanted {len(kinds)}")
    pairs = zip(kinds, values, strict=True)
    return tuple(from_json(kind, each, f"{where}[{index}]") for index, (kind, each) in enumerate(pairs))


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    if isinstance(value, str) and hasattr(kind, "parse"):
        return _parsed(kind, value, where)
    if not isinstance(value, dict):
        raise _wrong(where, value, "an object")
    hints, necessary = typing.get_type_hints(kind), _necessary(kind)
    found = {}
    for field in dataclasses.fields(kind):
        if "inline" in field.metadata:
            found[field.name] = from_json(hints[field.name], value, where)
        elif value.get(field.name) is not None or (field.name in value and _may_be_null(hints[field.name])):
            found[field.name] = from_json(hints[field.name], value[field.name], _inside(where, field.name))
        elif field.name in necessary:
            raise ValueError(f"{_inside(where, field.name)} is missing")
    try:
        return kind(**found)
    except CollapseError as error:  # the values do not go together
        raise ValueError(f"{where or 'the whole'}: {error}") from error


def _may_be_null(kind: Any) -> bool:
    return kind in (float, Any) or types.NoneType in typing.get_args(kind)


def _inside(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _wrong(where: str, value: Any, wanted: str) -> ValueError:
    return ValueError(f"{where or 'the whole'} is {shown(value)}, wanted {wanted}")


def shown(value: Any) -> str:
    """``value`` for a message: ASCII, at most 80 characters."""
    text = ascii(value) if not isinstance(value, int) or value.bit_length() < 256 else "a larger number"
    return text if len(text) <= 80 else f"{text[:77]}..."
