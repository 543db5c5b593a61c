"""``suite.json``: the description of a folder of checkpoints. Written atomically."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.base.errors import UsageError
from pipeline.base.files import write_atomically
from pipeline.base.json_fields import Fields, read_object
from pipeline.spec import TokenShape

MANIFEST = "suite.json"


@dataclass(frozen=True)
class Entry:
    """One checkpoint of a manifest."""

    step: int
    revision: str
    """Folder name beside suite.json."""
    tokens_seen: int | None = None
    learning_rate: float | None = None
    """Learning rate of the optimizer step that led here."""
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
    """Default evaluation corpus; a relative ``tokens:`` or ``file:`` path is relative to the suite's folder."""
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
    """Read ``folder/suite.json``; None if there is none. A broken one raises UsageError with file and field."""
    path = folder / MANIFEST
    if not path.exists():
        return None
    broken = functools.partial(_broken, path)
    top = read_object(path, broken)
    corpus, evaluation = top.child("corpus"), top.child("evaluation")
    return Manifest(
        name=top.get("name", str) or folder.name,
        checkpoints=tuple(map(_entry, top.children("checkpoints"))),
        recipe=top.get("recipe", dict) or {},
        corpus=corpus.get("spec", str),
        corpus_sha256=corpus.get("sha256", str),
        evaluation_corpus=evaluation.get("corpus", str),
        evaluation_shape=_shape(evaluation, broken),
    )


def _entry(fields: Fields) -> Entry:
    return Entry(
        step=fields.need("step", int),
        revision=fields.need("revision", str),
        tokens_seen=fields.get("tokens_seen", int),
        learning_rate=fields.get("learning_rate", float),
        sha256=fields.get("sha256", str),
    )


def _shape(fields: Fields, broken: Callable[[str], UsageError]) -> TokenShape | None:
    names = ("batches", "batch_size", "seq_len")
    if not any(name in fields.value for name in names):
        return None
    numbers = [fields.need(name, int) for name in names]
    try:
        return TokenShape(*numbers)
    except UsageError as error:
        raise broken(str(error)) from error


def _broken(path: Path, what: str) -> UsageError:
    return UsageError(
        f"{path} is broken: {what}; repair or delete it (checkpoints are then found by folder name)"
    )
