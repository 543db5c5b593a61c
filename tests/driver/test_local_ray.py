"""A Ray of a run's own: what listens, what it takes for a cluster, and what is left of it after any end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]
PROC = Path("/proc")
DRIVER = """
import signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever the tests were started by
from pipeline.driver import Layout, Resources, cluster
from pipeline.base.errors import CollapseError
from tests.workers import SleepingWorker, drive, simulated_tasks
try:
    with cluster(Resources(device="cpu")):
        drive(simulated_tasks(3), Layout("cpu", 1, 1, 0), print, SleepingWorker)
except CollapseError as error:
    sys.exit(str(error))
"""


class Driver:
    """A process with a Ray of its own and a worker that is at a task for ever."""

    def __init__(self, temporary: str) -> None:
        self.temporary = temporary
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER], start_new_session=True, text=True, cwd=ROOT,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={
                **{name: value for name, value in os.environ.items() if name != "RAY_worker_niceness"},
                "PYTHONPATH": str(ROOT), "RAY_TMPDIR": temporary, "RAY_AUTH_MODE": "token",
            },
        )  # fmt: skip

    def works(self) -> bool:
        return any(title.startswith("ray::step") for title in self.alive().values())

    def pid(self, program: str) -> int:
        return next(pid for pid, title in self.alive().items() if f"/{program} " in title)

    def alive(self) -> dict[int, str]:
        """The command line of each process of the driver's session, or that names its temporary folder."""
        found = {}
        for pid in [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]:
            try:
                title = (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                session = os.getsid(pid)
            except OSError:
                continue
            if title and (session == self.process.pid or self.temporary in title):
                found[pid] = title
        return found

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()
        for pid in self.alive():
            os.kill(pid, signal.SIGKILL)


pytestmark = pytest.mark.slow


@pytest.fixture
def driver() -> Iterator[Driver]:
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as temporary:
        _leave_a_dead_cluster(Path(temporary))
        running = Driver(temporary)
        try:
            wait_for(running.works, running.process)
            yield running
        finally:
            running.end()


def _leave_a_dead_cluster(temporary: Path) -> None:
    """What a Ray that was killed leaves, which no command without an address may follow."""
    (temporary / "ray").mkdir()
    (temporary / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")


def listening(pid: int) -> set[str]:
    """The addresses that a process accepts TCP connections at, as the kernel writes them."""
    sockets = set()
    for descriptor in (PROC / str(pid) / "fd").iterdir():
        with suppress(OSError):
            sockets.add(str(descriptor.readlink())[len("socket:[") : -1])
    tables = [(PROC / "net" / name).read_text().splitlines() for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and row[9] in sockets}


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def test_it_listens_on_the_loopback_alone_asks_for_a_token_and_ends_with_a_killed_driver(
    driver: Driver,
) -> None:
    where = {title: listening(pid) for pid, title in driver.alive().items()}
    assert len([title for title, addresses in where.items() if addresses]) >= 4, (
        "head, raylet, agents, driver"
    )
    assert set().union(*where.values()) <= LOOPBACK, where
    unused = ("/dashboard.py", "/monitor.py", "/log_monitor.py")
    assert not [title for title in where if any(name in title for name in unused)], "no run uses them"
    settings = (PROC / str(driver.pid("gcs_server")) / "environ").read_text()
    assert "RAY_AUTH_MODE=token" in settings
    assert re.search(r"RAY_AUTH_TOKEN=\w{32,}", settings)
    driver.process.kill()
    wait_for(lambda: not driver.alive())


def test_a_worker_has_the_priority_of_its_command(driver: Driver) -> None:
    """Ray's own default left it a thirtieth of a core that another process keeps busy."""
    workers = [pid for pid, title in driver.alive().items() if title.startswith("ray::step")]
    urgencies = {os.getpriority(os.PRIO_PROCESS, pid) for pid in workers}
    assert urgencies == {os.getpriority(os.PRIO_PROCESS, driver.process.pid)}


def test_nothing_outlives_a_driver_whose_terminal_is_closed(driver: Driver) -> None:
    driver.process.send_signal(signal.SIGHUP)
    driver.process.wait(timeout=120)
    wait_for(lambda: not driver.alive())


@pytest.mark.parametrize(("program", "word"), [("raylet", "raylet"), ("gcs_server", "head")])
def test_a_run_whose_ray_is_killed_ends_soon_and_says_so(driver: Driver, program: str, word: str) -> None:
    os.kill(driver.pid(program), signal.SIGKILL)
    _, said = driver.process.communicate(timeout=120)
    assert driver.process.returncode == 1
    assert f"the {word} of this run's own Ray has ended" in said
    wait_for(lambda: not driver.alive())


@pytest.mark.parametrize(
    ("resources", "environment", "named"),
    [
        ("Resources(device='cpu')", {"RAY_ADDRESS": "127.0.0.1:1"}, "127.0.0.1:1 (from RAY_ADDRESS)"),
        ("Resources(address='auto')", {"RAY_ADDRESS": "127.0.0.1:1"}, "127.0.0.1:1 (from RAY_ADDRESS)"),
        ("Resources(address='127.0.0.1:1')", {}, "127.0.0.1:1"),
    ],
)
def test_a_cluster_that_is_gone_is_refused_at_once(
    resources: str, environment: dict[str, str], named: str
) -> None:
    program = (
        "from pipeline.driver import *\nfrom pipeline.base.errors import UsageError\n"
        f"try:\n    with cluster({resources}): pass\nexcept UsageError as error: print(error)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment}, cwd=ROOT, capture_output=True,
        text=True, check=True, timeout=120,
    )  # fmt: skip
    assert f"cannot use the Ray cluster at {named}:" in ended.stdout
