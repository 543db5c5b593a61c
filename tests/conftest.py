"""What tests share: no network, no Ray authentication, one Ray cluster for the session."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = (
        "1"  # read when a kernel's module is imported; kernels then run on the CPU
    )
os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # before ray is imported
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


SESSION_CORES = 2


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray cluster of two cores that every audit in this process joins instead of starting its own."""
    import ray

    ray.init(num_cpus=SESSION_CORES, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
