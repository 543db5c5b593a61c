"""Commands and snippets run as processes of their own against a hub of the tests.

The hub client reads HF_ENDPOINT once, so this process, which may have done so long ago, cannot be the one that talks to
the server.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.forked import ROOT, ended, run_code
from tests.suites.hub.server import Hub


def environment(hub: Hub, home: Path, **settings: str) -> dict[str, str]:
    """The environment of a process whose hub is ``hub`` and whose HF_HOME is ``home``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "RAY_AUTH_MODE": "disabled",
        **settings,
    }


def command(hub: Hub, home: Path, *arguments: object, **settings: str) -> subprocess.CompletedProcess[str]:
    """Runs ``int4-collapse`` with ``arguments`` in a process that is its own worker."""
    return ended(_command, [str(each) for each in arguments], env=environment(hub, home, **settings))


def python(hub: Hub, home: Path, code: str, **settings: str) -> Any:
    """Runs ``code``, which prints one JSON value as its last line, and returns the value."""
    ran = ended(run_code, code, env=environment(hub, home, **settings))
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def _command(arguments: list[str]) -> None:
    from jobs.cli import main
    from tests.jobs.here import worker_here

    with worker_here():
        main(arguments)
