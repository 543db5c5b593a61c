"""Runs of other people: the loss of a model before and after quantization, one pair a run, as their logs tell it.

Source: ``records/**/train*.log`` of openai/parameter-golf, a contest of small language models that are quantized once,
at the end of training. Rows of kind ``paired *`` compare one model with itself. Rows of kind ``last step/roundtrip``
compare the last evaluation during training with one of the file that was submitted, which in many entries has
averaged weights or is evaluated on a sliding window: their difference is no gap unless the entry says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

FOLDER = Path(__file__).parents[2] / "outputs" / "reference" / "external"
SOURCE = "https://github.com/openai/parameter-golf"
TABLE = "parameter_golf_pairs.csv"
ROUNDING_NATS = 5.1e-7
"""The losses have at most eight decimals and their difference at most six."""

SAME_TEXT_AND_TOKENS = ((1.8, 2.0), (2.25, 2.4), (2.5, 2.6), (2.7, 2.9))
"""Losses of the recipes whose nats may be compared, nats per token: vocabularies of 1024, of 8192 with a text whose
letters are all small, of 4096 and of 8192. Read off the names and losses of the entries, not stated in the table."""


@dataclass(frozen=True)
class Recipe:
    """The trainings of one entry, which differ in their seeds or are repeated."""

    name: str
    stratum: int
    """Index into SAME_TEXT_AND_TOKENS."""
    last_step: list[int]
    before_nats: list[float]
    after_nats: list[float]
    gap_nats: list[float]


def read_pairs(path: Path = FOLDER / TABLE) -> pl.DataFrame:
    """The table with a column ``recipe``. Raises ValueError for a row whose gap is not the difference of its losses."""
    table = pl.read_csv(path).with_columns(recipe=pl.col("path").str.extract(r"^records/[^/]+/([^/]+)/"))
    off = (pl.col("nll_after_nats") - pl.col("nll_before_nats") - pl.col("gap_nats")).abs() > ROUNDING_NATS
    wrong = table.filter(off | pl.col("recipe").is_null())
    if len(wrong):
        raise ValueError(f"{path}: wanted a gap that is the difference of the losses in {wrong['path'][0]}")
    return table


def paired(table: pl.DataFrame) -> list[Recipe]:
    """The recipes of the rows that compare one model with itself, in the table's order."""
    rows = table.filter(pl.col("kind").str.starts_with("paired"))
    return [
        Recipe(
            name=str(key[0]),
            stratum=_stratum(float(own["nll_before_nats"].to_numpy().mean())),
            last_step=own["last_step"].to_list(),
            before_nats=own["nll_before_nats"].to_list(),
            after_nats=own["nll_after_nats"].to_list(),
            gap_nats=own["gap_nats"].to_list(),
        )
        for key, own in rows.group_by("recipe", maintain_order=True)
    ]


def runs_under(table: pl.DataFrame, part: str) -> pl.DataFrame:
    """The rows whose path contains ``part``; raises ValueError if there are none."""
    found = table.filter(pl.col("path").str.contains(part, literal=True))
    if found.is_empty():
        raise ValueError(f"no run of the table is under {part}")
    return found


def _stratum(nll_nats: float) -> int:
    for index, (low, high) in enumerate(SAME_TEXT_AND_TOKENS):
        if low <= nll_nats < high:
            return index
    raise ValueError(f"a loss of {nll_nats} nats belongs to none of the known texts and vocabularies")
