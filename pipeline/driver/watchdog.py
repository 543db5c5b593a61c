"""A separate process that ends what a local Ray leaves behind.

Ray ends its own processes when its driver leaves in order. It does not where the driver or the raylet is killed
(SIGKILL, SIGHUP, SIGQUIT): the agents that the raylet started then wait for a head that never answers, on a core
each. Nothing in the driver can prevent that, because a killed process runs no code, so this one waits for the end of
the driver: its standard input is a pipe whose other end only the driver holds, and the pidfd of the driver is a second
sign of the same. It then ends the processes that belong to the run, one by one by their ids. Two facts together
identify them: the program is Ray's or the driver's own Python, and a file is open below the run's temporary folder,
which no other run uses (Ray gives every process a log file there; its environment and command line are overwritten
by the title that Ray sets).

Run as a file, on the standard library alone: ``python -I -S watchdog.py FOLDER DRIVER_PID``.
"""

import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

GRACE_S = 2.0
"""Seconds that Ray's processes have to end by themselves before they are killed."""
INSIST_S = 6.0
"""Longest time, in seconds, of killing processes that still appear, such as a worker that was starting."""
LEFT_IN_ORDER = b"."
"""Message of a driver that has ended Ray in order: the folder is then removed; otherwise Ray's logs are kept."""
PROGRAMS = ("raylet", "gcs_server")
PROC = Path("/proc")


def processes() -> Iterator[int]:
    """Ids of all visible processes."""
    with suppress(OSError):
        yield from [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]


def program(pid: int) -> str:
    """Path of a process's program; empty if it has ended or belongs to another user."""
    with suppress(OSError):
        return str((PROC / str(pid) / "exe").readlink())
    return ""


def children(parent: int) -> list[int]:
    """Ids of the living processes that ``parent`` started."""
    found = []
    for pid in processes():
        with suppress(OSError, ValueError, IndexError):
            state, ppid = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(ppid) == parent and state not in "ZX":
                found.append(pid)
    return found


def holders(folder: str) -> list[int]:
    """Ids of the processes of Ray, or of this Python, that have a file open below ``folder``."""
    here = program(os.getpid())
    ours = [pid for pid in processes() if (path := program(pid)) == here or Path(path).name in PROGRAMS]
    return [pid for pid in ours if pid != os.getpid() and _holds(pid, folder)]


def _holds(pid: int, folder: str) -> bool:
    with suppress(OSError):
        for descriptor in (PROC / str(pid) / "fd").iterdir():
            with suppress(OSError):
                if str(descriptor.readlink()).startswith(f"{folder}/"):
                    return True
    return False


def wait_for_end(driver: int) -> bool:
    """Wait until the driver has ended or has shut Ray down; return whether it shut down in order."""
    signs = [sys.stdin.fileno()]
    with suppress(OSError, AttributeError):  # another system than Linux, or the driver has ended already
        signs.append(os.pidfd_open(driver))
    select.select(signs, [], [])
    ready, _, _ = select.select(signs[:1], [], [], 0)
    return bool(ready) and os.read(signs[0], 1) == LEFT_IN_ORDER


def end(folder: str, driver: int) -> None:
    """End every process of the run except the driver, which may have other work."""
    began = time.monotonic()
    while time.monotonic() - began < GRACE_S + INSIST_S:
        left = [pid for pid in holders(folder) if pid != driver]
        if not left:
            return
        if time.monotonic() - began > GRACE_S:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


def main() -> None:
    """Wait for the driver, end what is left, and remove the folder of a run that ended in order."""
    folder, driver = sys.argv[1], int(sys.argv[2])
    in_order = wait_for_end(driver)
    end(folder, driver)
    if in_order:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
