"""``suite.json``: the description of a folder of checkpoints. Written atomically."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.base.errors import UsageError
from pipeline.base.files import write_atomically
from pipeline.base.json_files import checked, read_json
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

    def __post_init__(self) -> None:
        for name in ("step", "tokens_seen", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise UsageError(f"{name} is {value}, wanted a number of 0 or more")


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
    found = read_json(_File, path, broken)
    numbers = {name: value for name, value in vars(found.evaluation).items() if name != "corpus"}
    stated = any(value is not None for value in numbers.values())
    if stated and (lacking := [name for name, value in numbers.items() if value is None]):
        raise broken(f"evaluation.{lacking[0]} is missing")
    return Manifest(
        name=found.name or folder.name,
        checkpoints=found.checkpoints,
        recipe=found.recipe,
        corpus=found.corpus.spec,
        corpus_sha256=found.corpus.sha256,
        evaluation_corpus=found.evaluation.corpus,
        evaluation_shape=checked(TokenShape, numbers, broken, "evaluation") if stated else None,
    )


@dataclass(frozen=True)
class _TrainingText:
    spec: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class _Evaluation:
    corpus: str | None = None
    batches: int | None = None
    batch_size: int | None = None
    seq_len: int | None = None


@dataclass(frozen=True)
class _File:
    """A suite.json as it is written."""

    name: str | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    corpus: _TrainingText = _TrainingText()
    evaluation: _Evaluation = _Evaluation()
    checkpoints: tuple[Entry, ...] = ()


def _broken(path: Path, what: str) -> UsageError:
    return UsageError(
        f"{path} is broken: {what}; repair or delete it (checkpoints are then found by folder name)"
    )
