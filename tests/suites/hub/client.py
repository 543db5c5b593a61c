"""Commands and snippets run as processes of their own against a hub of the tests.

The hub client reads HF_ENDPOINT when it is imported, so this process, which may have imported it long ago, cannot
be the one that talks to the server.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.suites.hub.server import Hub

ROOT = Path(__file__).parents[3]
COMMAND = """
import sys
from jobs.cli import main
from tests.jobs.here import worker_here
with worker_here():
    main()
"""


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
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, arguments)],
        env=environment(hub, home, **settings),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def python(hub: Hub, home: Path, code: str, **settings: str) -> Any:
    """Runs ``code``, which prints one JSON value as its last line, and returns the value."""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(hub, home, **settings),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])
