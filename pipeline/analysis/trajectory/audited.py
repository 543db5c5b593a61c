"""Read the trajectory and the curve of a finished audit, for the Python API."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.analysis.trajectory.reduction import read_curve, reduce_run
from pipeline.runs.output import run_folder

if TYPE_CHECKING:
    import polars as pl

    from pipeline.analysis.statistics.curves import Curve


def trajectory_of(out: str | Path, *, allow_missing: bool = False, seed: int = 0) -> pl.DataFrame:
    """The table of the audit in ``out`` (a folder or URL): one row per checkpoint, columns as in trajectory.parquet.

    Made from the shards; writes nothing. Raises as ``finished``.
    """
    return reduce_run(run_folder(out), allow_missing=allow_missing, seed=seed).trajectory


def curve_of(out: str | Path) -> Curve:
    """The losses of the audit in ``out``, per evaluation batch too: what :func:`detect_phases` reads."""
    return read_curve(run_folder(out), name=str(out))
