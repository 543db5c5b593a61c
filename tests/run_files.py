"""Files of a run as a test reads them: the events of a folder, the table of a shard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.base.files import parse_checked
from pipeline.runs.folder import RunFolder


def events_in(out: Path) -> list[dict[str, Any]]:
    """The events of all runs in ``out``, as written."""
    return [event.line for event in RunFolder(out).read_events() or ()]


def read_checked(path: Path) -> pa.Table:
    """The table at ``path``, whose checksum is checked."""
    return parse_checked(path.read_bytes(), str(path))
