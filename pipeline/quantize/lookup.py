"""The registry of quantizers; files of this package and plug-ins add theirs."""

from __future__ import annotations

from collections import Counter
from typing import TypeVar

from pipeline.base.errors import UsageError, unknown_name
from pipeline.base.plugins import Registry
from pipeline.quantize.quantizer import Method, Quantizer

Q = TypeVar("Q", bound=Quantizer)
_QUANTIZERS: Registry[type[Quantizer]] = Registry("quantizer", "pipeline.quantize")


def register(quantizer: type[Q]) -> type[Q]:
    """Class decorator that registers a quantizer. Raises UsageError if another one has its name."""
    _QUANTIZERS.register(quantizer)
    return quantizer


def registered() -> tuple[type[Quantizer], ...]:
    """All quantizers, by name."""
    return tuple(_QUANTIZERS)


def parse_quantizer(text: str) -> Quantizer | None:
    """The quantizer that ``text`` (GRID[@METHOD[:parameter=value...]]) names; None if there is none.

    Raises UsageError for an unknown method or parameter, or a name that two quantizers claim.
    """
    grid_text, at, method_text = text.partition("@")
    classes = registered()
    found = [(cls, cls.parse(grid_text)) for cls in classes if not issubclass(cls, Method)]
    grids = [(cls, grid) for cls, grid in found if grid is not None]
    if len(grids) > 1:
        claims = " and ".join(f"{cls.__module__}.{cls.__qualname__}" for cls, _ in grids)
        raise UsageError(f"{grid_text!r} names several quantizers: {claims}; leave a plug-in out")
    if not grids:
        return None
    if not at:
        return grids[0][1]
    name, *settings = method_text.split(":")
    methods = {cls.name: cls for cls in classes if issubclass(cls, Method)}
    if name not in methods:
        raise unknown_name("quantization method", name, methods)
    given = [_setting(name, setting) for setting in settings]
    for parameter, times in Counter(parameter for parameter, _ in given).items():
        if times > 1:
            raise UsageError(f"@{method_text}: {parameter} is given {times} times; wanted one value")
    return methods[name].make(grids[0][1], dict(given))


def grammar() -> str:
    """The names of all variants, for help and error texts."""
    classes = registered()
    grids = [cls.grammar for cls in classes if not issubclass(cls, Method)]
    methods = [cls.grammar for cls in classes if issubclass(cls, Method)]
    return f"{', '.join(['fp32', *grids])}; each may be followed by {', '.join([*methods, '+head'])}"


def _setting(method: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise UsageError(f"{text!r} after @{method}: wanted parameter=value")
    return name, value
