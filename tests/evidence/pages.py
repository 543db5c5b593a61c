"""The pages with their numbers filled in from the findings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).parent
TEMPLATE, README_TEMPLATE = HERE / "findings.md", HERE / "readme.md"
PLACE = re.compile(r"\{([\w.:-]+)\}")
"""``{id}``, ``{id:bare}`` without its unit, or ``{table:name}``."""
BEGIN, END = "<!-- findings -->\n", "<!-- end of findings -->"


def fill(template: str, texts: Mapping[str, str]) -> str:
    """Put ``texts`` by id into ``{id}``; raises KeyError for an unknown id."""
    return PLACE.sub(lambda match: texts[match[1]], template)


def between_marks(page: str, block: str) -> str:
    """``page`` with ``block`` between its two marks."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + block + END + rest.split(END)[1]
