"""Reading back what a reduction wrote."""

from __future__ import annotations

from pipeline.errors import UsageError
from pipeline.shards import RunFolder


def required_results(folder: RunFolder, *names: str) -> list[bytes]:
    """The contents of ``names`` in ``folder``; UsageError naming those that are not there."""
    files = {name: folder.read_result(name) for name in names}
    missing = [folder.place(name) for name, data in files.items() if data is None]
    if missing:
        raise UsageError(
            f"nothing to report: {', '.join(missing)} not there; run `int4-collapse reduce {folder}`"
        )
    return [data for data in files.values() if data is not None]
