"""Docstrings of the library say what a thing is or does, instead of continuing its name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [*sorted((ROOT / "pipeline").rglob("*.py")), *sorted((ROOT / "jobs").rglob("*.py"))]


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of every docstring, those of fields and constants among them."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield statement.lineno, text


@pytest.mark.parametrize("room", sorted({path.relative_to(ROOT).parent for path in FILES}), ids=str)
def test_no_docstring_begins_with_of_or_as(room: Path) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}"
        for path in FILES
        if path.relative_to(ROOT).parent == room
        for line, text in docstrings(ast.parse(path.read_text()))
        if re.match(r"\s*(Of|As)\b", text)
    ]
    assert not found
