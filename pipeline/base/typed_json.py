"""Frozen dataclasses to JSON values and back: a field that is missing or of another kind is named."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any


def to_json(value: Any) -> Any:
    """``value`` with dataclasses as objects, tuples as lists, NaN and infinity as null: JSON has neither."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def from_json(kind: Any, value: Any, where: str) -> Any:
    """``value`` as ``kind``: a dataclass, ``X | None``, ``tuple[X, ...]``, ``dict[str, X]``, a plain type or ``Any``.

    Null where a float is wanted is NaN. Raises ``ValueError`` that says ``where`` in the file.
    """
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, where)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        (wanted,) = (each for each in inner if each is not types.NoneType)
        return None if value is None else from_json(wanted, value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(from_json(inner[0], each, f"{where}[{index}]") for index, each in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: from_json(inner[1], each, f"{where}.{key}") for key, each in value.items()}
    if kind is float and (value is None or (isinstance(value, int | float) and not isinstance(value, bool))):
        return math.nan if value is None else float(value)
    if kind is Any or (
        origin is None and isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    ):
        return value
    raise ValueError(f"{where} is {value!r:.80}, wanted {getattr(kind, '__name__', kind)}")


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is {value!r:.80}, wanted an object")
    hints = typing.get_type_hints(kind)
    found = {}
    for field in dataclasses.fields(kind):
        if field.name in value:
            found[field.name] = from_json(hints[field.name], value[field.name], f"{where}.{field.name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{where}.{field.name} is missing")
    return kind(**found)
