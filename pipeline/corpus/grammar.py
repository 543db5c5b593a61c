"""The corpus grammar as frozen types: ``docstrings``, ``python-source``, ``file:``, ``tokens:`` and ``hf:``."""

from __future__ import annotations

import os
from dataclasses import dataclass

from pipeline.base.errors import UsageError, unknown_name

GRAMMAR = "docstrings, python-source, file:GLOB, tokens:FILE.npy or hf:DATASET[/CONFIG][:SPLIT[:COLUMN]]"


@dataclass(frozen=True)
class Docstrings:
    """Docstrings of the installed numpy, scipy and polars."""

    def __str__(self) -> str:
        return "docstrings"


@dataclass(frozen=True)
class PythonSource:
    """The Python files of all installed packages."""

    def __str__(self) -> str:
        return "python-source"


@dataclass(frozen=True)
class Files:
    """Text files, one document each, in the sorted order of their paths."""

    pattern: str
    """A glob (``**`` crosses folders, ``~`` is the home folder); relative to the working directory."""

    def __str__(self) -> str:
        return f"file:{self.pattern}"


@dataclass(frozen=True)
class TokenFile:
    """A 1-D integer ``.npy`` file of token ids, taken in order."""

    path: str

    def __str__(self) -> str:
        return f"tokens:{self.path}"


@dataclass(frozen=True)
class HubDataset:
    """A column of a data set that ``datasets.load_dataset`` can open (a hub name or a local folder)."""

    dataset: str
    """``name``, ``org/name`` or a folder, optionally followed by ``/config``."""
    split: str | None = None
    """Split; None = the first of validation, test and train that exists."""
    column: str | None = None
    """Column; None = ``text`` if it exists, else the only column of strings."""

    def __str__(self) -> str:
        return ":".join(["hf", self.dataset, *(part for part in (self.split, self.column) if part)])


BUILT_IN: dict[str, Docstrings | PythonSource] = {str(each): each for each in (Docstrings(), PythonSource())}
"""Corpora that need nothing but this installation; evaluations read the held-out tenth of their documents."""

Corpus = Docstrings | PythonSource | Files | TokenFile | HubDataset


def parse_corpus(text: str) -> Corpus:
    """The corpus that ``text`` names; nothing is read yet. ``UsageError`` if it is not in the grammar.

    >>> parse_corpus("hf:wikitext/wikitext-2-raw-v1:test")
    HubDataset(dataset='wikitext/wikitext-2-raw-v1', split='test', column=None)
    """
    if not text:
        raise UsageError(f"corpus '' names nothing: wanted {GRAMMAR}")
    if text in BUILT_IN:
        return BUILT_IN[text]
    kind, colon, rest = text.partition(":")
    if not colon:
        there = os.path.exists(text)  # noqa: PTH110 (Path.exists raises for a name that is too long)
        hint = f"; for a file write {_as_file(text)!r}" if there else f"; wanted {GRAMMAR}"
        raise UsageError(f"{unknown_name('corpus', text, BUILT_IN)}{hint}")
    if not rest or rest.startswith(":"):
        raise UsageError(f"corpus {text!r} names nothing after {kind + ':'!r}: wanted {GRAMMAR}")
    if kind == "file":
        return Files(rest)
    if kind == "tokens":
        return TokenFile(rest)
    if kind == "hf":
        dataset, *more = rest.split(":")
        if len(more) > 2 or not all(more):
            raise UsageError(f"corpus {text!r}: wanted hf:DATASET[/CONFIG][:SPLIT[:COLUMN]]")
        return HubDataset(dataset, *more)
    raise UsageError(f"{unknown_name('kind of corpus', kind, ['file', 'tokens', 'hf'])}; wanted {GRAMMAR}")


def _as_file(path: str) -> str:
    return f"tokens:{path}" if path.endswith(".npy") else f"file:{path}"
