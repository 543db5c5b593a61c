"""The static files of the page: template, style and script."""

from __future__ import annotations

from importlib import resources


def asset(name: str) -> str:
    """Text of ``static/<name>`` in this package."""
    return (resources.files("pipeline.report") / "static" / name).read_text(encoding="utf-8")
