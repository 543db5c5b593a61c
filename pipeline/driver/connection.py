"""Connect to Ray and ask what its nodes offer."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import ray
from ray._private import services
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.base.devices import cuda_memory
from pipeline.base.errors import CollapseError, UsageError
from pipeline.base.signals import exit_on_termination
from pipeline.driver.local_ray import PACKAGES, local_ray
from pipeline.driver.resources import Layout, Resources, plan_layout

CONNECT_TIMEOUT_S = 10
"""Longest wait for a cluster to answer at its address."""


def address_of(resources: Resources) -> str | None:
    """The address of the cluster to join; None to start a Ray on this machine.

    Without an address ``RAY_ADDRESS`` counts, which Ray sets in a submitted job. What another program left in Ray's
    temporary folder (``ray_current_cluster``) counts only for the address ``auto``.
    """
    given = resources.address or None
    address = os.environ.get("RAY_ADDRESS") or given if given in (None, "auto") else given
    return None if address == "local" else address


@contextmanager
def cluster(resources: Resources) -> Iterator[Layout]:
    """Context manager: connected to a Ray cluster, or to one started on this machine."""
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's handler of a termination would kill the workers before they can save their runs.
    with _connected(resources), exit_on_termination():
        yield plan_layout(resources, list(alive_nodes().values()), grows=grows(resources))


@contextmanager
def _connected(resources: Resources) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    address = address_of(resources)
    with ExitStack() as stack:
        try:
            if address is None:
                stack.enter_context(local_ray())
            else:
                _join(address)
                stack.callback(ray.shutdown)
        except CollapseError:
            raise
        except Exception as error:  # Ray raises nearly everything here, AssertionError and RpcError among it
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            if address is None:
                raise UsageError(f"cannot start Ray on this machine: {reason}") from error
            raise UsageError(
                f"cannot use the Ray cluster at {_named(address, resources)}: {reason}"
            ) from error
        yield


def _named(address: str, resources: Resources) -> str:
    """The address, with RAY_ADDRESS as its origin if it was not an option."""
    return address if address == resources.address else f"{address} (from RAY_ADDRESS)"


def _join(address: str) -> None:
    host_port = services.canonicalize_bootstrap_address("auto") if address == "auto" else address
    _require_listener(host_port)
    with _among_packages():  # Ray has the cluster's workers import from the working directory first
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)


@contextmanager
def _among_packages() -> Iterator[None]:
    """Context manager: work in the folder that contains this package, then return to the former one.

    The former folder may be gone: Ray deletes and recreates the working directory of a submitted job.
    """
    before = None
    with suppress(FileNotFoundError):
        before = os.getcwd()  # noqa: PTH109 - only to return to
    os.chdir(PACKAGES)
    try:
        yield
    finally:
        if before is not None:
            with suppress(FileNotFoundError):
                os.chdir(before)


def _require_listener(address: str | None) -> None:
    """Raise OSError if nothing answers at ``host:port`` (Ray itself would retry for minutes)."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()


def require_device(resources: Resources) -> None:
    """Raise UsageError for ``cuda`` where the work is this machine's and it has no GPU; starts nothing."""
    here = not ray.is_initialized() and address_of(resources) is None
    if here and resources.device == "cuda" and not cuda_memory():
        raise UsageError(
            "--device cuda: this machine has no GPU that torch can use; give --device cpu, or --address of a cluster "
            "with GPUs"
        )


def resolve_device(resources: Resources) -> str:
    """The device that ``resources`` stand for; starts nothing on this machine."""
    if resources.device != "auto":
        return resources.device
    if ray.is_initialized() or address_of(resources) is not None:
        with cluster(resources) as layout:
            return layout.device
    return "cuda" if cuda_memory() else "cpu"


def gpu_memory(resources: Resources, wait_s: float = 30.0) -> int | None:
    """Bytes of the smallest GPU here, or of the cluster's nodes; None if none answers within ``wait_s`` seconds."""
    if not ray.is_initialized() and address_of(resources) is None:
        return min(cuda_memory(), default=None)
    with cluster(resources):
        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
        places = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
        ask = ray.remote(cuda_memory).options
        asked = [ask(num_gpus=0.01, scheduling_strategy=place).remote() for place in places]
        ready = ray.wait(asked, num_returns=len(asked), timeout=wait_s)[0] if asked else []
        return min((size for sizes in ray.get(ready) for size in sizes), default=None)


def alive_nodes() -> dict[str, dict[str, float]]:
    """Total resources of each live node, by node id."""
    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def grows(resources: Resources) -> bool:
    """Whether to request more workers than fit now, so that an autoscaler adds nodes.

    Only the user knows whether there is an autoscaler: a number of workers for a cluster says so.
    """
    return resources.workers is not None and address_of(resources) is not None
