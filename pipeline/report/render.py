"""Render charts. The renderer ends the whole process at a character that SVG forbids, so these are escaped first."""

from __future__ import annotations

import re
from typing import Any

import vl_convert

from pipeline.report.axes import VL_VERSION, Spec

SCALE = 2.0
"""Pixels of a PNG per CSS pixel."""
_NOT_XML = re.compile("[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\ud800-\\udfff\\ufffe\\uffff]")


def png(spec: Spec) -> bytes:
    """A chart as PNG, without a browser."""
    image: bytes = vl_convert.vegalite_to_png(shown(spec), vl_version=VL_VERSION, scale=SCALE)
    return image


def svg(spec: Spec) -> str:
    """A chart as SVG."""
    image: str = vl_convert.vegalite_to_svg(shown(spec), vl_version=VL_VERSION)
    return image


def shown(spec: Any) -> Any:
    """``spec`` with every character that SVG forbids replaced by an escape."""
    if isinstance(spec, str):
        return _NOT_XML.sub(lambda found: found[0].encode("unicode_escape").decode(), spec)
    if isinstance(spec, dict):
        return {key: shown(value) for key, value in spec.items()}
    return [shown(value) for value in spec] if isinstance(spec, list | tuple) else spec
