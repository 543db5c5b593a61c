"""``suite.json``: what a folder of checkpoints says about itself. Written whole or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import UsageError
from pipeline.files import write_atomically
from pipeline.spec import TokenShape

MANIFEST = "suite.json"

_T = TypeVar("_T")


@dataclass(frozen=True)
class Entry:
    """One checkpoint of a manifest."""

    step: int
    revision: str
    """Folder name beside suite.json."""
    tokens_seen: int | None = None
    learning_rate: float | None = None
    """Of the optimizer step that led here."""
    sha256: str | None = None
    """``weights_sha256`` of the folder."""


@dataclass(frozen=True)
class Manifest:
    """The content of a suite.json."""

    name: str
    checkpoints: tuple[Entry, ...]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the training run, as plain JSON values."""
    corpus: str | None = None
    """Training corpus, in the corpus grammar."""
    corpus_sha256: str | None = None
    """Hash of the training documents or tokens."""
    evaluation_corpus: str | None = None
    """Default evaluation corpus; a relative ``tokens:`` or ``file:`` path is relative to the suite's folder.
    """
    evaluation_shape: TokenShape | None = None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes ``folder/suite.json`` atomically."""
    shape = manifest.evaluation_shape
    value = {
        "name": manifest.name,
        "recipe": dict(manifest.recipe),
        "corpus": {"spec": manifest.corpus, "sha256": manifest.corpus_sha256},
        "evaluation": {"corpus": manifest.evaluation_corpus, **(vars(shape) if shape else {})},
        "checkpoints": [vars(entry) for entry in manifest.checkpoints],
    }
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    write_atomically(folder / MANIFEST, text.encode())


def read_manifest(folder: Path) -> Manifest | None:
    """``folder/suite.json``, or None if there is none. ``UsageError`` if it is broken: file and field."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except (ValueError, OSError, RecursionError) as error:
        raise _broken(path, f"not readable JSON ({error})") from error
    top = _Fields(path, "", value)
    corpus, evaluation = top.child("corpus"), top.child("evaluation")
    entries = top.get("checkpoints", list) or []
    return Manifest(
        name=top.get("name", str) or folder.name,
        checkpoints=tuple(
            _entry(_Fields(path, f"checkpoints[{i}].", each)) for i, each in enumerate(entries)
        ),
        recipe=top.get("recipe", dict) or {},
        corpus=corpus.get("spec", str),
        corpus_sha256=corpus.get("sha256", str),
        evaluation_corpus=evaluation.get("corpus", str),
        evaluation_shape=_shape(evaluation),
    )


class _Fields:
    """Typed reads from one JSON object that name the file and the field when the type is wrong."""

    def __init__(self, path: Path, prefix: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise _broken(path, f"{prefix.rstrip('.') or 'the whole'} is {value!r:.80}, wanted an object")
        self.path, self.prefix, self.value = path, prefix, value

    def get(self, name: str, kind: type[_T]) -> _T | None:
        value: Any = self.value.get(name)
        accepted = (int, float) if kind is float else (kind,)
        if value is None or (isinstance(value, accepted) and not isinstance(value, bool)):
            if isinstance(value, int) and abs(value) >= 2**63:
                raise _broken(self.path, f"{self.prefix}{name} is larger than any such number can be")
            return value  # type: ignore[return-value]
        raise _broken(self.path, f"{self.prefix}{name} is {value!r:.80}, wanted {kind.__name__}")

    def need(self, name: str, kind: type[_T]) -> _T:
        value = self.get(name, kind)
        if value is None:
            raise _broken(self.path, f"{self.prefix}{name} is missing, wanted {kind.__name__}")
        return value

    def child(self, name: str) -> _Fields:
        return _Fields(self.path, f"{name}.", self.get(name, dict) or {})


def _entry(fields: _Fields) -> Entry:
    return Entry(
        step=fields.need("step", int),
        revision=fields.need("revision", str),
        tokens_seen=fields.get("tokens_seen", int),
        learning_rate=fields.get("learning_rate", float),
        sha256=fields.get("sha256", str),
    )


def _shape(fields: _Fields) -> TokenShape | None:
    names = ("batches", "batch_size", "seq_len")
    if not any(name in fields.value for name in names):
        return None
    numbers = [fields.need(name, int) for name in names]
    try:
        return TokenShape(*numbers)
    except UsageError as error:
        raise _broken(fields.path, str(error)) from error


def _finite(text: str) -> float:
    """The number in a JSON text; ``ValueError`` for NaN and Infinity, which no setting and no table can hold."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it holds {text}: wanted finite numbers")
    return value


def _broken(path: Path, what: str) -> UsageError:
    return UsageError(
        f"{path} is broken: {what}; repair or delete it (checkpoints are then found by folder name)"
    )
