"""A private Ray on this machine: it listens on the loopback only and ends with its driver.

Plain ``ray.init`` joins any Ray that runs on the machine, or waits minutes for one that is gone; it listens on
every interface; and if one of its processes is killed, it waits minutes or aborts the driver. This module prevents
each of these. ``watchdog`` ends what a killed driver leaves behind.
"""

from __future__ import annotations

import logging
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray._private.node import Node

from pipeline.base.errors import CollapseError
from pipeline.driver import watchdog

LOOK_EVERY_S = 0.5
STUCK_AFTER_S = 20.0
"""Seconds that the driver has to end once its Ray is dead; it may be in a Ray call that never returns."""
_ESSENTIAL = {"raylet": "raylet", "gcs_server": "head"}
"""Processes that Ray cannot run without, with the names that users know."""
_UNUSED = ("start_api_server", "start_monitor", "start_log_monitor")
"""Methods of Ray's ``Node`` that start a server without a web page, an autoscaler without nodes to add, and a reader of
logs that nobody is sent: half of the time that a Ray takes to start. No option of ``ray.init`` leaves them out."""
_KEPT = ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE")
"""Environment variables that the driver's own connection needs while it lasts."""
_FOLDERS = {"HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "XDG_CACHE_HOME", "TRITON_CACHE_DIR"}
"""Environment variables that name a folder, perhaps relative to the driver's working directory."""
PACKAGES = Path(__file__).parents[2]
"""Folder that this package is imported from."""


class Guard:
    """Watches the essential processes of a local Ray, and ends a driver that is stuck after one of them died."""

    def __init__(self) -> None:
        self.ended: str | None = None
        """User's name of the process that has ended."""
        self._left = threading.Event()
        self._seen: dict[int, str] = {}
        threading.Thread(target=self._watch, name="ray guard", daemon=True).start()

    def leave(self) -> None:
        """Stop watching: the driver no longer needs its Ray."""
        self._left.set()

    def error(self) -> CollapseError:
        return CollapseError(
            f"the {self.ended} of this run's own Ray has ended: it was killed, or the machine ran out of memory; "
            "run the same command again to resume"
        )

    def _watch(self) -> None:
        while self.ended is None:
            if self._left.wait(LOOK_EVERY_S):
                return
            alive = set(watchdog.children(os.getpid()))
            gone = [name for pid, name in self._seen.items() if pid not in alive]
            for pid in alive - self._seen.keys():
                name = Path(watchdog.program(pid)).name
                if name in _ESSENTIAL:
                    self._seen[pid] = name
            if gone and not self._left.is_set():
                self.ended = _ESSENTIAL[gone[0]]
        if not self._left.wait(STUCK_AFTER_S):
            # The main thread is in a Ray call that waits for a dead process. Ray would end the driver after a
            # minute with a trace of its own. Every shard written so far stays.
            sys.stderr.write(f"Error: {self.error()}\n")
            sys.stderr.flush()
            os._exit(1)


_guard: Guard | None = None


def require_alive() -> None:
    """Raise CollapseError if this run's own Ray has lost an essential process."""
    if _guard is not None and _guard.ended is not None:
        raise _guard.error()


def is_alive() -> bool:
    """Whether this run's own Ray, if there is one, still has its essential processes."""
    return _guard is None or _guard.ended is None


@contextmanager
def local_ray(**options: Any) -> Iterator[None]:
    """Context manager: a private Ray. ``options`` go to ``ray.init``, whose exceptions pass through.

    If one of Ray's own processes has died, any error becomes a CollapseError that says so.
    """
    global _guard  # noqa: PLW0603 - Ray's connection is one for the process, too
    # Short, because Ray's socket paths lie below it; private, so that no other Ray's files are in it.
    folder = tempfile.mkdtemp(prefix="int4-", dir=os.environ.get("RAY_TMPDIR") or "/tmp")  # noqa: S108
    with _watched(folder) as left_in_order:
        _guard = guard = Guard()
        try:
            _start(folder, options)
            yield
        except Exception as error:
            if guard.ended is None or isinstance(error, CollapseError):
                raise
            raise guard.error() from error
        finally:
            if guard.ended is None:
                guard.leave()
            ray.shutdown()  # seconds where the head is dead
            if guard.ended is None:
                left_in_order()
            guard.leave()
            _guard = None


@contextmanager
def _settings() -> Iterator[None]:
    """Context manager: the environment that Ray's processes inherit. The driver's own is restored afterwards."""
    before = dict(os.environ)
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        # A token for this run only. Ray would write one to the home folder, which may not exist, and that would
        # turn authentication on for every other Ray of this user.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # A head on this machine never comes back, so its processes need not wait a minute for it.
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "30")
    # Ray's own 15 is for nodes that do nothing else: where another process keeps each core of this machine busy, a
    # worker then gets a thirtieth of a core, and an audit of 13 s takes 170.
    os.environ.setdefault("RAY_worker_niceness", "0")
    for name in _FOLDERS & os.environ.keys():  # the workers have another working directory
        os.environ[name] = str(Path(os.environ[name]).expanduser().absolute())
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = [str(PACKAGES), *(str(Path(each).absolute()) for each in given if each)]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            if name not in _KEPT:
                del os.environ[name]
        os.environ.update(before)


def _start(folder: str, options: dict[str, Any]) -> None:
    # Ray binds to the loopback only if the node has that address, and refuses it if clusters of several nodes are
    # possible, which this constant, read at import, decides.
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        # Ray puts the working directory before everything else that its workers import from, so that a numpy.py there
        # would shadow numpy: give it an empty folder instead.
        with _settings(), without_unused_processes(), chdir(folder):
            ray.init(
                address="local",
                include_dashboard=False,
                logging_level=logging.CRITICAL,  # it would print a killed raylet's log
                log_to_driver=False,
                _temp_dir=folder,
                _node_ip_address="127.0.0.1",
                **options,
            )
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def without_unused_processes() -> Iterator[None]:
    """Context manager: ``ray.init`` starts only what a run uses."""
    before = {name: getattr(Node, name) for name in _UNUSED if hasattr(Node, name)}
    for name in before:
        setattr(Node, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(Node, name, method)


@contextmanager
def _watched(folder: str) -> Iterator[Any]:
    """Context manager: run the watchdog; gives a function to call once Ray has ended in order."""
    command = [sys.executable, "-I", "-S", watchdog.__file__, folder, str(os.getpid())]
    # In its own session, so that signals from the driver's terminal do not reach it.
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True, cwd="/",
    )  # fmt: skip
    assert process.stdin is not None
    said = bytearray()
    try:
        yield lambda: said.extend(watchdog.LEFT_IN_ORDER)
    finally:
        try:
            process.stdin.write(said)
            process.stdin.close()
        except OSError:  # the watchdog was killed
            pass
        process.returncode = 0  # not waited for: it ends by itself, and ``Popen`` would warn of that
