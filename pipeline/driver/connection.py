"""Connecting to Ray, and what its nodes offer."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.devices import cuda_memory
from pipeline.driver.resources import Layout, Resources, plan_layout
from pipeline.errors import UsageError
from pipeline.signals import exit_on_sigterm

CONNECT_TIMEOUT_S = 10
"""Longest wait for a cluster to answer at its address."""

_AUTOSCALER_STATUS = b"__autoscaling_status"
"""Where Ray's autoscaler keeps its last report in the cluster's key-value store."""


@contextmanager
def cluster(resources: Resources) -> Iterator[Layout]:
    """Connects to Ray (or starts it on this machine) for the length of the block."""
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ours = not ray.is_initialized()
    if ours:
        local = resources.address is None and "RAY_ADDRESS" not in os.environ
        options: dict[str, Any] = {"include_dashboard": False} if local else {"address": resources.address}
        try:
            _require_listener(resources.address)
            ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
        except (OSError, ValueError, RuntimeError, RayError) as error:
            raise UsageError(
                f"cannot use the Ray cluster at {resources.address or 'this machine'}: {error}"
            ) from error
    try:
        with exit_on_sigterm():  # Ray's own handler would kill the workers before they can save their runs
            yield plan_layout(resources, list(alive_nodes().values()), grows=autoscales())
    finally:
        if ours:
            ray.shutdown()


def _require_listener(address: str | None) -> None:
    """OSError where nothing answers at ``host:port`` (Ray itself would go on trying for minutes)."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()


def resolve_device(resources: Resources) -> str:
    """The device that ``resources`` will give, without starting anything on this machine."""
    if resources.device != "auto":
        return resources.device
    if ray.is_initialized() or resources.address is not None or "RAY_ADDRESS" in os.environ:
        with cluster(resources) as layout:
            return layout.device
    return "cuda" if cuda_memory() else "cpu"


def gpu_memory(resources: Resources, wait_s: float = 30.0) -> int | None:
    """Bytes of the smallest GPU here, or on the cluster's nodes; None where none answers (within ``wait_s``)."""
    if not (ray.is_initialized() or resources.address is not None or "RAY_ADDRESS" in os.environ):
        return min(cuda_memory(), default=None)
    with cluster(resources):
        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
        places = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
        ask = ray.remote(cuda_memory).options
        asked = [ask(num_gpus=0.01, scheduling_strategy=place).remote() for place in places]
        ready = ray.wait(asked, num_returns=len(asked), timeout=wait_s)[0] if asked else []
        return min((size for sizes in ray.get(ready) for size in sizes), default=None)


def alive_nodes() -> dict[str, dict[str, float]]:
    """What each node offers in all, by its id."""
    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def autoscales() -> bool:
    """Whether an autoscaler watches this cluster, so that a worker that fits no node may still get one."""
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
    from ray.experimental.internal_kv import _internal_kv_get

    # Ray has no public way to ask. Its first autoscaler reports to the key-value store (without a configuration the
    # same process runs and reports no more than the load), its second to the control service.
    if b"autoscaler_report" in (_internal_kv_get(_AUTOSCALER_STATUS) or b""):
        return True
    status = ray._private.worker.global_worker.gcs_client.get_cluster_status()
    reply = GetClusterStatusReply.FromString(status)
    return bool(reply.autoscaling_state.autoscaler_state_version > 0)
