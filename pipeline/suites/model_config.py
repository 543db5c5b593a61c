"""Facts about a suite's models, from ``config.json`` alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.base.errors import CheckpointError
from pipeline.base.files import load_json
from pipeline.spec import Checkpoint
from pipeline.suites.checkpoint_files import weight_files
from pipeline.suites.hub.remote import config_file, listed_weight_bytes
from pipeline.suites.suite import HUB, Suite

CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")
"""Settings that limit the number of tokens of a model."""
_TEXT_MODELS = ("text_config", "decoder", "generator")
"""Settings that hold the configuration of a text model inside a larger one."""
TRIED = 5
"""Number of checkpoints whose config is tried: a hub that delivers none of these will not deliver others."""


def model_config(suite: Suite) -> dict[str, Any]:
    """The first readable ``config.json`` of the suite's first checkpoints; empty if none can be read.

    For a larger model around a text model, the settings of the text model are returned. A checkpoint whose config
    is missing or damaged fails by name when it is measured; here the next one is read.
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
    """Longest sequence of the models, tokens; None if unlimited or not stated.

    >>> context_length({"max_seq_len": 2048}), context_length({"max_position_embeddings": -1})
    (2048, None)
    """
    given = (config.get(name) for name in CONTEXT_NAMES)
    return next((value for value in given if type(value) is int and value > 0), None)


def stored_bytes(suite: Suite) -> int | None:
    """Bytes of the weight files of the first checkpoint that has any; None if none of the first ones has."""
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
