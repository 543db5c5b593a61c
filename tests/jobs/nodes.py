"""A Ray cluster of several raylets on this machine, as `ray start` makes it, and jobs submitted to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Nodes:
    """A head with its dashboard on the loopback, and nodes that join it; ends them all."""

    def __init__(self, cpus: int) -> None:
        self._temporary: list[str] = []
        self._environment = {
            **os.environ,
            # A job's `python` is the first in the PATH of the shell that started its node.
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "disabled",
            "RAY_scheduler_spread_threshold": "0",
            "RAY_JOB_STOP_WAIT_TIME_S": "30",  # Ray's 3 s are too few where other tests run
        }
        self._environment.pop("PYTHONPATH", None)  # the code that runs is what was uploaded
        self._nodes: list[subprocess.Popen[bytes]] = []
        self.head = self._start_head(cpus)
        for _ in range(2):  # another process may take a port that was free before the head does
            wait_for(lambda: self._answers() or self.head.poll() is not None)
            if self.head.poll() is not None:
                self.head = self._start_head(cpus)
        wait_for(self._answers)

    def _start_head(self, cpus: int) -> subprocess.Popen[bytes]:
        self._port, self._dashboard = free_port(), free_port()
        return self.add(
            cpus, "--head", f"--port={self._port}", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={self._dashboard}", f"--ray-client-server-port={free_port()}",
        )  # fmt: skip

    def add(self, cpus: int, *options: str) -> subprocess.Popen[bytes]:
        """Starts one more node (or, with these options, the head)."""
        where = options or (f"--address=127.0.0.1:{self._port}",)
        # One for each, as on machines of their own: a node that joins deletes and downloads a job's working directory
        # again below its temporary folder, and another node's driver may be importing from there.
        self._temporary.append(tempfile.mkdtemp(prefix="r", dir="/tmp"))  # short: sockets lie below it
        node = subprocess.Popen(
            [
                RAY, "start", *where, f"--temp-dir={self._temporary[-1]}", "--block", "--disable-usage-stats",
                f"--num-cpus={cpus}", "--num-gpus=0", f"--dashboard-agent-listen-port={free_port()}",
                f"--metrics-export-port={free_port()}",
            ],
            env=self._environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._nodes.append(node)
        return node

    def submit(self, job: str, *command: object) -> None:
        """`ray job submit --no-wait --working-dir . -- COMMAND` in the repository, as from another machine."""
        options = ("--submission-id", job, "--working-dir", ".", "--no-wait")
        subprocess.run(
            [RAY, "job", "submit", *options, "--", *map(str, command)], cwd=ROOT, check=True, timeout=280,
            env={**self._environment, "RAY_ADDRESS": f"http://127.0.0.1:{self._dashboard}"},
        )  # fmt: skip

    def status(self, job: str) -> str:
        """RUNNING, STOPPED, SUCCEEDED, FAILED, ...: what ``ray job status`` asks, without seconds of its imports."""
        return str(self._asked(f"jobs/{job}")["status"])

    def logs(self, job: str) -> str:
        return str(self._asked(f"jobs/{job}/logs")["logs"])

    def stop(self, job: str) -> None:
        """What ``ray job stop --no-wait`` asks."""
        url = f"http://127.0.0.1:{self._dashboard}/api/jobs/{job}/stop"
        urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=60).close()

    def alive(self) -> int:
        """How many nodes have joined and are there."""
        nodes = self._asked("v0/nodes")["data"]["result"]["result"]
        return sum(node["state"] == "ALIVE" for node in nodes)

    def _asked(self, what: str) -> Any:
        """The dashboard's answer."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._dashboard}/api/{what}", timeout=30) as answer:
            return json.load(answer)

    def _answers(self) -> bool:
        try:
            return self._asked("jobs/") is not None
        except OSError:
            return False

    def close(self) -> None:
        for node in reversed(self._nodes):
            node.terminate()
        for node in self._nodes:
            try:
                node.wait(timeout=60)
            except subprocess.TimeoutExpired:
                node.kill()
        for temporary in self._temporary:
            for pid in processes(temporary):
                os.kill(pid, signal.SIGKILL)
            shutil.rmtree(temporary, ignore_errors=True)


def raylet(node: subprocess.Popen[bytes]) -> int | None:
    """Process id of the raylet of ``node``, once it has one."""
    return next((pid for pid in children(node.pid) if "raylet/raylet" in title(pid)), None)


def busy_workers(parent: int) -> list[int]:
    """Process ids of the workers of a raylet that are on a checkpoint (Ray titles them by it)."""
    return [pid for pid in children(parent) if title(pid).startswith("ray::step")]


def processes(part: str) -> list[int]:
    return [pid for pid in _pids() if part in title(pid) and pid != os.getpid()]


def children(parent: int) -> list[int]:
    return [pid for pid in _pids() if _parent(pid) == parent]


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
