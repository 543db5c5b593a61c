"""A dozen rows of a trajectory for the terminal."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
from rich.table import Table

ROWS = 12
"""Most checkpoints shown, evenly spread over the table, the first and the last among them."""
GAPS = 2
"""Most variants shown, int8 and int4 before others: more do not fit a terminal."""


def summary_table(trajectory: pl.DataFrame) -> Table:
    """Step, learning rate, fp32 perplexity, the gaps of the first variants, kurtosis and phase."""
    measured = [name for name in trajectory.columns if name.endswith("_gap")]
    gaps = sorted(measured, key=lambda name: name not in ("int8_gap", "int4_gap"))[:GAPS]
    title = f"{trajectory.height} checkpoints"
    if len(measured) > len(gaps):
        title += f"; {len(gaps)} of {len(measured)} variants, the others are in the tables"
    table = Table(title=title, title_justify="left")
    heads = ["step", "learning rate", "fp32 perplexity", *(f"{gap.removesuffix('_gap')} gap" for gap in gaps)]
    for head in [*heads, "kurtosis", "phase"]:
        table.add_column(head, justify="right")
    chosen = np.unique(
        np.linspace(0, trajectory.height - 1, min(ROWS, trajectory.height)).round().astype(int)
    )
    for row in trajectory[chosen.tolist()].iter_rows(named=True):
        table.add_row(
            f"{row['step']:,}",
            _number(row["learning_rate"], ".3g"),
            _number(row["fp32_perplexity"], ",.2f"),
            *(_number(row[gap], "+.2%") for gap in gaps),
            _number(row["kurtosis"], ".2f"),
            "-" if row["phase"] is None else str(row["phase"]),
        )
    return table


def _number(value: float | None, form: str) -> str:
    if value is None:
        return "-"
    return "diverged" if math.isnan(value) else format(value, form)
