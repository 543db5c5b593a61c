"""Files of a run as a test reads them: the events of a folder, the table of a shard."""

from __future__ import annotations

import functools
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.base.files import parse_checked
from pipeline.runs.folder import RunFolder

GRIDS = Path(__file__).parents[1] / "outputs" / "reference" / "grids"


def events_in(out: Path) -> list[dict[str, Any]]:
    """The events of all runs in ``out``, as written."""
    return [event.line for event in RunFolder(out).read_events() or ()]


def read_checked(path: Path) -> pa.Table:
    """The table at ``path``, whose checksum is checked."""
    return parse_checked(path.read_bytes(), str(path))


@functools.cache
def _grids_archive() -> dict[str, bytes]:
    with tarfile.open(GRIDS / "shards.tar.xz") as packed:
        return {Path(each.name).stem: packed.extractfile(each).read() for each in packed}  # type: ignore[union-attr]


def grids_shard(key: str) -> bytes:
    """The shard ``key`` of the reference's audit of many grids, which an earlier release wrote."""
    return _grids_archive()[key]
