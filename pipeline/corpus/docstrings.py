"""The ``docstrings`` corpus: technical English that is there wherever this package is installed.

The text is read from the source files with ``ast`` (nothing is imported or run), so that it depends on the
installed versions only. ``pydoc_data.topics`` and the standard library are left out: they differ in every
Python version.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path

from pipeline.base.errors import UsageError
from pipeline.base.files import read_regular
from pipeline.corpus.text import decoded

PACKAGES = ("numpy", "scipy", "polars")

MIN_CHARACTERS = 200
"""Shorter docstrings are mostly one-line labels; 5,400 longer ones make 8 MB of prose."""

MOST_BYTES = 2**26

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@functools.cache
def docstrings() -> tuple[str, ...]:
    """Every docstring of over 200 characters, without repeats, by package and path.

    About 4 s, once per process.
    """
    return tuple(dict.fromkeys(text for package in PACKAGES for text in _of_package(package)))


def _of_package(package: str) -> Iterator[str]:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UsageError(
            f"the docstrings corpus needs {package}, which is not installed: pip install {package}"
        )
    root = Path(spec.origin).parent
    paths = {path.relative_to(root): path for path in root.rglob("*.py")}
    for relative, path in sorted(paths.items(), key=lambda item: item[0].as_posix()):
        if "tests" in relative.parts:
            continue  # half the time of all, for 1 % of the text, which documents nothing
        source = decoded(read_regular(path, MOST_BYTES), "replace")
        if '"""' in source or "'''" in source:
            yield from _of_source(source)


def _of_source(source: str) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's strings
        try:
            tree = ast.parse(source)
        except SyntaxError:  # templates and test inputs that are not meant to parse
            return
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED):
            text = ast.get_docstring(node)
            if text is not None and len(text) > MIN_CHARACTERS:
                yield text
