"""Typed reads from an untrusted JSON object: an error names the field."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pipeline.base.files import load_json
from pipeline.base.typed_json import NAMES, shown

_T = TypeVar("_T")


class Fields:
    """The fields of one JSON object. Null counts as absent."""

    def __init__(self, value: Any, broken: Callable[[str], Exception], prefix: str = "") -> None:
        """``broken``: makes the exception, which names the file, from a message. ``prefix``: place of the object in
        the file, such as ``checkpoints[3].``.
        """
        self._broken, self._prefix = broken, prefix
        if not isinstance(value, dict):
            raise self.wrong("", value, "an object")
        self.value: dict[str, Any] = value

    def get(self, name: str, kind: type[_T]) -> _T | None:
        """The field ``name``, None if absent. Raises if it has another type, is not finite, or exceeds 64 bits."""
        value = self.value.get(name)
        if value is None:
            return None
        accepted = (int, float) if kind is float else (kind,)
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise self.wrong(name, value, NAMES[kind])
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise self.wrong(name, value, "a number of at most 64 bits")
        if isinstance(value, float) and not math.isfinite(value):
            raise self.wrong(name, value, "a finite number")
        return value  # type: ignore[return-value]

    def need(self, name: str, kind: type[_T]) -> _T:
        """The required field ``name``; see :meth:`get`."""
        value = self.get(name, kind)
        if value is None:
            raise self._broken(f"{self._prefix}{name} is missing, wanted {NAMES[kind]}")
        return value

    def child(self, name: str) -> Fields:
        """The object ``name``; an empty one if absent."""
        return Fields(self.get(name, dict) or {}, self._broken, f"{self._prefix}{name}.")

    def children(self, name: str) -> list[Fields]:
        """The objects in the list ``name``; none if absent."""
        return [
            Fields(each, self._broken, f"{self._prefix}{name}[{index}].")
            for index, each in enumerate(self.get(name, list) or [])
        ]

    def wrong(self, name: str, value: Any, wanted: str) -> Exception:
        """Make the error for a wrong ``value`` of the field ``name`` (empty: of the object itself)."""
        where = f"{self._prefix}{name}".rstrip(".") or "the whole"
        return self._broken(f"{where} is {shown(value)}, wanted {wanted}")


def read_object(path: Path, broken: Callable[[str], Exception], *, finite: bool = True) -> Fields:
    """The object in the JSON file ``path``, read by :func:`pipeline.base.files.load_json`.

    ``broken`` makes the error to raise from whatever is wrong with the file.
    """
    try:
        value = load_json(path, finite=finite)
    except OSError as error:
        raise broken(error.strerror or str(error)) from error
    except ValueError as error:
        raise broken(f"not readable JSON ({error})") from error
    return Fields(value, broken)
