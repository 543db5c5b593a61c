"""The fingerprint of frozen values: what of them can change a number, in one form for every release."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, cast, get_type_hints

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; refuses values without a unique representation.

    Dataclasses become objects, tuples become arrays. A callable, a NaN or any other object is a ``TypeError``
    (an address or a default ``repr`` would make the fingerprint differ between two equal runs).
    """
    return json.dumps(plain_json(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def plain_json(value: Any) -> Any:
    """``value`` as JSON values, with the refusals of :func:`canonical_json`."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"cannot pin {value!r} in a fingerprint: wanted a finite number")
        return value
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("cannot pin a mapping whose keys are not all strings in a fingerprint")
        return {key: plain_json(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    raise TypeError(f"cannot pin {type(value).__name__} {value!r} in a fingerprint")


def fingerprint(value: Any) -> str:
    """sha256 (hex) of :func:`canonical_json`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


WANTED, ALWAYS = {"pinned": False}, {"pinned": True}
"""Metadata of a spec's field. WANTED: it changes no number and is never in the fingerprint. ALWAYS: it is in the
fingerprint even at its default. Any other field is in the fingerprint unless it is at its default."""
OPTIONAL = {"optional": True}
"""Metadata of a field whose default says that no number depends on it: numbers without it go with any."""


def pinned(kind: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of ``config``, the settings of a spec of class ``kind`` as JSON values, that its fingerprint covers.

    It does not depend on the release that wrote the settings. A field
    that an older release lacks counts as its default; a field that this release does not know is kept. A field may
    therefore be added if its default means what was done before, and a default never changes.
    """
    fields, hints = {each.name: each for each in dataclasses.fields(kind)}, field_types(kind)
    kept: dict[str, Any] = {}
    for name, value in config.items():
        if name not in fields:
            kept[name] = value
            continue
        rule, default = fields[name].metadata.get("pinned"), fields[name].default
        if rule is False:
            continue
        inner = pinned(hints[name], value) if dataclasses.is_dataclass(hints[name]) else value
        if rule or default is dataclasses.MISSING or _pinned_default(hints[name], default) != inner:
            kept[name] = inner
    return kept


def _pinned_default(hint: Any, default: Any) -> Any:
    """A field's default, in the form that :func:`pinned` uses."""
    return pinned(hint, plain_json(default)) if dataclasses.is_dataclass(default) else plain_json(default)


def compared(
    kind: type, one: Mapping[str, Any], other: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What of two configs of a spec of class ``kind`` is equal exactly where their numbers are comparable: what is
    pinned, without the ``OPTIONAL`` fields that one of them does not have.
    """
    first, second = pinned(kind, one), pinned(kind, other)
    for each in dataclasses.fields(kind):
        if each.name not in first or each.name not in second:
            if each.metadata.get("optional"):
                first.pop(each.name, None)
                second.pop(each.name, None)
        elif dataclasses.is_dataclass(inner := field_types(kind)[each.name]):
            pair = compared(cast("type", inner), first[each.name], second[each.name])
            first[each.name], second[each.name] = pair
    return first, second


def comparable(kind: type, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the numbers of two configs of a spec of class ``kind`` are comparable."""
    first, second = compared(kind, one, other)
    return first == second


@cache
def field_types(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def tokens_sha256(array: NDArray[np.int64]) -> str:
    """sha256 (hex) of the ids as little-endian int64 in C order; the shape is not part of it."""
    import numpy as np

    return hashlib.sha256(np.ascontiguousarray(array, dtype="<i8").tobytes()).hexdigest()
