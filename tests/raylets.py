"""A Ray cluster of several raylets on this machine, whose parts can be killed.

It lives in a process of its own, because ``ray.cluster_utils`` disturbs a connection that its process has already:
``python -m tests.raylets`` reads ``add CPUS`` from its input, starts a node for each and says which processes it has.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NOTICE_DEATHS_SOON = {
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "4",
}
"""Ray takes a node for dead after a dozen seconds otherwise."""
MARKS = "INT4_COLLAPSE_TEST_MARKS"
"""The variable that names a cluster's folder of marks to its workers."""
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class RayNode:
    """A node's id and its processes, by kind (``raylet``, ``gcs_server``, ...)."""

    node_id: str
    pids: dict[str, list[int]]
    orphans: list[int] = field(default_factory=list)
    """What its raylet had started when it was killed: workers and agents."""

    def kill(self, *kinds: str) -> None:
        """``kill -9`` of its processes of these kinds, else of all of them."""
        self.orphans.extend(children(self.pids["raylet"]))
        for kind in kinds or self.pids:
            for pid in self.pids[kind]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def children(parents: list[int]) -> list[int]:
    """Processes that were started by one of ``parents``."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if (
                entry.name.isdigit()
                and int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) in parents
            ):
                found.append(int(entry.name))
    return found


def is_ray(pid: int) -> bool:
    """Whether that process is a worker or an agent of Ray still."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::")
    except OSError:
        return False


class Raylets:
    """A head without cores, which drivers connect to, and nodes that come and go.

    Workers read and leave marks in the folder ``marks``.
    """

    def __init__(self, process: subprocess.Popen[str], marks: Path) -> None:
        self._process, self.marks = process, marks
        self._nodes: list[RayNode] = []
        self.address: str = self._answer()["address"]
        self.head = self._node()

    def add(self, cpus: int = 1) -> RayNode:
        """Starts a node with ``cpus`` cores."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"add {cpus}\n")
        self._process.stdin.flush()
        return self._node()

    def reap(self) -> None:
        """Ends what killed nodes left: a stopped worker, for one, does not see that its raylet is gone."""
        for node in self._nodes:
            for pid in filter(is_ray, node.orphans):
                os.kill(pid, signal.SIGKILL)

    def _node(self) -> RayNode:
        node = RayNode(**self._answer())
        self._nodes.append(node)
        return node

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise AssertionError("the cluster did not start")


@contextmanager
def raylets() -> Iterator[Raylets]:
    """A cluster for the length of the block. Its address is kept from processes that look for one."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # the paths of its sockets must be short
    environment = {
        **os.environ, **NOTICE_DEATHS_SOON, "RAY_TMPDIR": folder, "PYTHONPATH": str(ROOT), MARKS: folder,
    }  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "tests.raylets"], env=environment, cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            cluster = Raylets(process, Path(folder))
            yield cluster
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=120)
            cluster.reap()
            shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Serves :class:`Raylets`."""
    from ray.cluster_utils import Cluster

    from pipeline.driver.local_ray import without_unused_processes

    def say(**answer: object) -> None:
        print(json.dumps(answer), flush=True)

    def describe(node: Any) -> None:
        pids = {k: [each.process.pid for each in processes] for k, processes in node.all_processes.items()}
        say(node_id=node.node_id, pids=pids)

    with without_unused_processes():
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        say(address=cluster.address)
        describe(cluster.head_node)
        for line in sys.stdin:
            describe(cluster.add_node(num_cpus=int(line.split()[1])))
        cluster.shutdown()


if __name__ == "__main__":
    main()
