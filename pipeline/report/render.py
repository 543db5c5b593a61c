"""Render charts. The renderer ends the whole process at a character that SVG forbids, so these are escaped first."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import vl_convert

from pipeline.report.axes import VL_VERSION, Spec
from pipeline.report.theme import config, paint

SCALE = 2.0
"""Pixels of a PNG per CSS pixel."""
_NOT_XML = re.compile("[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\ud800-\\udfff\\ufffe\\uffff]")


def png(spec: Spec) -> bytes:
    """A chart as PNG, without a browser."""
    image: bytes = vl_convert.vegalite_to_png(shown(spec), vl_version=VL_VERSION, scale=SCALE)
    return image


def figure_png(spec: Spec, values: Mapping[str, Any], datasets: Spec | None = None) -> bytes:
    """A chart with tokens as PNG, on paper of its own. ``datasets``: by name, without tokens."""
    styled = _styled(spec, values, {"background": values["$paper"], "padding": 14})
    return png({**styled, "datasets": datasets or {}})


def figure_svg(spec: Spec, values: Mapping[str, Any], *, padding: int) -> str:
    """A chart with tokens as SVG, on that of the page that it is put into."""
    styled = shown(_styled(spec, values, {"padding": padding}))
    image: str = vl_convert.vegalite_to_svg(styled, vl_version=VL_VERSION)
    return image


def _styled(spec: Spec, values: Mapping[str, Any], paper: Spec) -> Spec:
    return {**paint(spec, values), "config": {**config(values), **spec.get("config", {}), **paper}}


def shown(spec: Any) -> Any:
    """``spec`` with every character that SVG forbids replaced by an escape."""
    if isinstance(spec, str):
        return _NOT_XML.sub(lambda found: found[0].encode("unicode_escape").decode(), spec)
    if isinstance(spec, dict):
        return {key: shown(value) for key, value in spec.items()}
    return [shown(value) for value in spec] if isinstance(spec, list | tuple) else spec
