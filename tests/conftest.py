"""What tests share: no network, no Ray authentication, one Ray cluster and one object store for the session.

``make test`` has a process on each of two cores, so a process computes in one thread, and so does a worker whatever
number it asks torch for: where cores are busy, several threads spend ten times the time spinning for each other.
"""

from __future__ import annotations

import atexit
import gc
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported
os.environ.setdefault("OMP_THREAD_LIMIT", "1")

import pytest
import torch

from tests.store.server import Way

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = (
        "1"  # read when a kernel's module is imported; kernels then run on the CPU
    )
os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # before ray is imported
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray's own 15 would leave a worker next to nothing beside the tests' other processes.
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Content ids that tests remember are of no use to anybody afterwards.
os.environ["XDG_CACHE_HOME"] = _caches = tempfile.mkdtemp(prefix="int4-collapse-tests-")
atexit.register(shutil.rmtree, _caches, ignore_errors=True)

SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"
os.environ |= {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


SESSION_CORES = 2


LONGEST = (
    "jobs/test_submitted.py", "reproduce/test_rehearsal.py", "analysis/trajectory/test_rates.py",
    "jobs/test_nodes.py", "jobs/test_faults.py", "train/test_forking.py", "driver/test_local_ray.py",
    "test_extending.py", "report/test_browser.py", "jobs/test_fork.py", "probe/gpu/test_gpu_engine.py",
    "suites/hub/test_run.py", "test_reference.py", "probe/test_compiling.py", "jobs/test_object_store.py",
    "monitor/test_trainer_callback.py", "train/test_pretrain.py", "suites/hub/test_fetching.py",
    "jobs/test_scheduling.py", "jobs/test_benchmark.py", "analysis/statistics/test_contrasts.py",
    "corpus/test_docstrings.py",
    "report/test_names.py", "probe/gpu/test_gpu_controls.py", "analysis/trajectory/test_phases.py",
    "analysis/trajectory/test_growth.py",
)  # fmt: skip
"""Files that take more than eight seconds, the longest first; between them some that wait for no other process."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files go first: one that is begun last would leave the other process idle."""
    place = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture(scope="session", autouse=True)
def _imports_are_no_garbage() -> Iterator[None]:
    """The collector no longer looks through what was imported, a million objects: a tenth of many tests' time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def _quick_interpreter() -> None:
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET"):  # a test of kernels was collected
        from tests.interpreted import quicken_once

        quicken_once()


@pytest.fixture(scope="session")
def way() -> Iterator[Way]:
    """The way to an S3 server, which starts when a test asks for a bucket; its address is in the environment."""
    way = Way()
    os.environ["AWS_ENDPOINT_URL"] = way.endpoint
    yield way
    way.close()


@pytest.fixture
def bucket(way: Way, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty bucket, and no faults on the way to it."""
    name = "b" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:20]
    way.make_bucket(name)
    way.faults.clear()
    yield f"s3://{name}"
    way.faults.clear()


@pytest.fixture(scope="session")
def ray_cluster(way: Way) -> Iterator[None]:
    """A local Ray cluster of two cores that every audit in this process joins instead of starting its own.

    Its workers have the environment of now, and so know the object store.
    """
    import ray

    from pipeline.driver.local_ray import without_unused_processes

    with without_unused_processes():
        ray.init(num_cpus=SESSION_CORES, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
