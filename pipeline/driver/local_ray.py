"""A Ray of this run's own, on this machine: it listens on the loopback alone, and ends with its driver.

``ray.init`` by itself would join whatever Ray this machine happens to run, or wait minutes for one that is gone; would
listen on every interface; and, where one of its own processes is killed, would wait for it for minutes or abort the
driver. Each of these is prevented here. What is left behind where the driver itself is killed, ``watchdog`` ends.
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

from pipeline.base.errors import CollapseError
from pipeline.driver import watchdog

LOOK_EVERY_S = 0.5
STUCK_AFTER_S = 20.0
"""Time that the driver has to leave once its Ray is dead; it may be in a call of Ray's that does not return."""
_ESSENTIAL = {"raylet": "raylet", "gcs_server": "head"}
"""Programs without which nothing goes on, and what users call them."""
_KEPT = ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE")
"""Settings that the driver's own connection needs for as long as it lasts."""
_FOLDERS = {"HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "XDG_CACHE_HOME", "TRITON_CACHE_DIR"}
"""Settings that name a folder, perhaps from the driver's working directory."""
PACKAGES = Path(__file__).parents[2]
"""Where this package is imported from."""


class Guard:
    """Sees that one of the essential processes of a local Ray has ended, and when the driver is stuck after that."""

    def __init__(self) -> None:
        self.ended: str | None = None
        """What has ended, by the user's word for it."""
        self._left = threading.Event()
        self._seen: dict[int, str] = {}
        threading.Thread(target=self._watch, name="ray guard", daemon=True).start()

    def leave(self) -> None:
        """Says that the driver is done with its Ray."""
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
            # The main thread is in a call of Ray's that waits for what is gone. Ray itself would end the process after
            # a minute, with a trace of its own; every shard that was written stays, as after any other end.
            sys.stderr.write(f"Error: {self.error()}\n")
            sys.stderr.flush()
            os._exit(1)


_guard: Guard | None = None


def require_alive() -> None:
    """CollapseError where this run's own Ray has lost a process that it cannot do without."""
    if _guard is not None and _guard.ended is not None:
        raise _guard.error()


def is_alive() -> bool:
    """Whether Ray, if it is this run's own, still has its essential processes."""
    return _guard is None or _guard.ended is None


@contextmanager
def local_ray(**options: Any) -> Iterator[None]:
    """Starts a Ray for the length of the block. ``options`` go to ``ray.init``; what that raises passes through.

    An error that came from the death of one of Ray's own processes is a CollapseError that says so.
    """
    global _guard  # noqa: PLW0603 - Ray's connection is one for the process, too
    # Short, because the paths of Ray's sockets lie below it; its own, so that no other Ray's file is found there.
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
    """What Ray's processes find in their environment; the driver's own is as before afterwards."""
    before = dict(os.environ)
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        # A token for this run alone. Ray would write one to the home folder, which need not exist, and which would turn
        # authentication on for every other Ray of this user as well.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # A head on this machine does not come back: its processes need not wait a minute for it.
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "30")
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
    # Ray binds to the loopback alone where its node has that address, and refuses that address where clusters of
    # several nodes are possible, which is told by this constant, read at its import.
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        # Ray puts the working directory before everything else that its workers import from, so that a numpy.py there
        # would be taken for numpy: it gets an empty folder instead.
        with _settings(), chdir(folder):
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
def _watched(folder: str) -> Iterator[Any]:
    """Runs the watchdog; gives a function to call once Ray has been ended in order."""
    command = [sys.executable, "-I", "-S", watchdog.__file__, folder, str(os.getpid())]
    # In a session of its own: what a terminal sends to the driver's must not reach it.
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
        except OSError:  # somebody killed it
            pass
        process.returncode = 0  # not waited for: it ends by itself, and ``Popen`` would warn of that
