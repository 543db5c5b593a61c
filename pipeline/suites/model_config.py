"""What a suite's models look like, from ``config.json`` alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.suites.suite import HUB, Suite


def model_config(suite: Suite) -> dict[str, Any]:
    """The first readable ``config.json`` of the suite's checkpoints as a dict; empty where none can be read.

    Settings of a text model inside a larger one are returned for ``text_config``. A checkpoint whose config
    is missing or damaged fails by name when it is measured; here the others speak for it.
    """
    for checkpoint in suite.checkpoints:
        try:
            if checkpoint.location.startswith(HUB):
                path = _download(checkpoint.location.removeprefix(HUB), checkpoint.revision)
            else:
                path = Path(checkpoint.location) / "config.json"
            config = json.loads(path.read_text())
        except (OSError, ValueError):  # the hub client's errors are OSErrors
            continue
        if isinstance(config, dict):
            inner = config.get("text_config")
            return inner if isinstance(inner, dict) else config
    return {}


def _download(repository: str, revision: str) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repository, "config.json", revision=revision))
