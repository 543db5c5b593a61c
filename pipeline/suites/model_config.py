"""What a suite's models look like, from ``config.json`` alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.base.errors import CheckpointError
from pipeline.base.files import load_json
from pipeline.spec import Checkpoint
from pipeline.suites.checkpoint_files import weight_files
from pipeline.suites.hub.small_files import config_file, listed_weight_bytes
from pipeline.suites.suite import HUB, Suite

CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")
"""Settings that say how many tokens a model takes at most."""
_TEXT_MODELS = ("text_config", "decoder", "generator")
"""Settings that hold those of a text model inside a larger one."""
TRIED = 5
"""Checkpoints whose config is tried: a hub that gives none of them is not asked for a hundred more."""


def model_config(suite: Suite) -> dict[str, Any]:
    """The first readable ``config.json`` of the suite's first checkpoints as a dict; empty where none can be read.

    Of a larger model around a text model, the settings of that are returned. A checkpoint whose config
    is missing or damaged fails by name when it is measured; here the others speak for it.
    """
    for checkpoint in suite.checkpoints[:TRIED]:
        try:
            if checkpoint.location.startswith(HUB):
                path = config_file(checkpoint)
            else:
                path = Path(checkpoint.location) / "config.json"
            config = load_json(path)
        except (CheckpointError, OSError, ValueError):
            continue
        if isinstance(config, dict):
            inner = (config[name] for name in _TEXT_MODELS if isinstance(config.get(name), dict))
            return next(inner, config)
    return {}


def context_length(config: Mapping[str, Any]) -> int | None:
    """How many tokens the models of a config.json take at most; None where that is not limited or not said.

    >>> context_length({"max_seq_len": 2048}), context_length({"max_position_embeddings": -1})
    (2048, None)
    """
    given = (config.get(name) for name in CONTEXT_NAMES)
    return next((value for value in given if type(value) is int and value > 0), None)


def stored_bytes(suite: Suite) -> int | None:
    """Size of the weight files of the first of the suite's first checkpoints that has any; None where none has."""
    for checkpoint in suite.checkpoints[:TRIED]:
        try:
            return _weight_bytes(checkpoint)
        except (CheckpointError, OSError):
            continue
    return None


def _weight_bytes(checkpoint: Checkpoint) -> int:
    if checkpoint.location.startswith(HUB):
        return listed_weight_bytes(checkpoint)
    return sum(file.stat().st_size for file in weight_files(Path(checkpoint.location)))
