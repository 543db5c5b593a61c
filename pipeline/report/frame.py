"""The trajectory table for the report: sorted, with a row for every step.

Two kinds of absence are distinguished. *Missing* (null) was not measured: the line has a gap. *Diverged* (NaN or
infinite) was measured and is not finite: it is drawn as a cross and written as a word.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import polars as pl

from pipeline.analysis.statistics.curves import NLL_SUFFIX
from pipeline.analysis.trajectory.audit_report import AuditReport
from pipeline.analysis.trajectory.mechanism.mechanism_report import Mechanism
from pipeline.analysis.trajectory.method_repair import REMAINING, grid_and_method
from pipeline.spec import ALIASES, variant_label

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
BAND_SE = 1.96
"""Half width of an error band in standard errors: a 95 % interval of a normal mean."""


@dataclass(frozen=True)
class Series:
    """One variant of the trajectory: its column prefix and its labels."""

    key: str
    """Column prefix, such as ``int4``."""
    spec: str
    """Full variant name, such as ``int4-g128-asym``."""
    label: str
    """Its name for readers, the same everywhere."""
    grid: str = ""
    """The variant without its methods; series of one grid stand together in menus."""
    method: str = ""
    """The methods that choose its codes, with their parameters."""


@dataclass(frozen=True)
class Frame:
    """A trajectory that is ready to draw."""

    rows: pl.DataFrame
    """Rows sorted by step; a missing step is a row of nulls, so that no line crosses it."""
    series: tuple[Series, ...]
    """fp32 first, then the default two, then the others by name."""
    missing_steps: tuple[int, ...] = ()
    """Steps whose shard is absent (from ``report.missing``)."""
    mechanism: Mechanism | None = None
    """The mechanism of the damage, if measured; its columns are then among ``rows``."""

    @property
    def quantized(self) -> tuple[Series, ...]:
        return tuple(one for one in self.series if one.key != "fp32")

    @property
    def first_step(self) -> int:
        return int(self.rows["step"][0])

    @property
    def last_step(self) -> int:
        return int(self.rows["step"][-1])

    def has(self, column: str) -> bool:
        """Whether ``column`` holds at least one measured value."""
        return column in self.rows.columns and self.rows[column].null_count() < self.rows.height

    def finite(self, column: str) -> list[tuple[int, float]]:
        """(step, value) of the finite values of ``column``, in step order; empty when there are none."""
        if not self.has(column):
            return []
        pairs = self.rows.select("step", column).iter_rows()
        return [(step, value) for step, value in pairs if value is not None and math.isfinite(value)]

    def diverged(self, column: str) -> list[int]:
        """Steps where ``column`` was measured and is not a finite number."""
        if not self.has(column) or not self.rows[column].dtype.is_float():
            return []
        return self.rows.filter(pl.col(column).is_not_null() & ~pl.col(column).is_finite())["step"].to_list()


def make_frame(trajectory: pl.DataFrame, report: AuditReport) -> Frame:
    """Make the frame of ``trajectory`` (all columns except ``step`` and the nll are optional)."""
    numbers = (re.search(r"\d+$", key) for key in report.missing)  # of keys such as step000001000
    gone = tuple(sorted({int(found[0]) for found in numbers if found} - set(trajectory["step"].to_list())))
    rows = trajectory.with_columns(pl.col("step").cast(pl.Int64))
    if gone:
        rows = pl.concat([rows, pl.DataFrame({"step": gone}, schema={"step": pl.Int64})], how="diagonal")
    rows = _plain(rows.select(pl.exclude(pl.List)).sort("step", maintain_order=True))
    keys = _keys(rows)
    series = named_series(sorted(keys, key=_rank), report.variants)
    return Frame(_derive(rows, keys), series, gone, report.mechanism)


def _keys(rows: pl.DataFrame) -> list[str]:
    """Column prefixes of the variants that have losses."""
    return [name.removesuffix(NLL_SUFFIX) for name in rows.columns if name.endswith(NLL_SUFFIX)]


def _plain(rows: pl.DataFrame) -> pl.DataFrame:
    """The table with a plain name for every variant: letters, digits and underscores.

    Column names become Vega expressions, tokens, CSS variables and JavaScript keys, in which quotes, dots and
    brackets have a meaning. The reduction writes plain names only; an edited table may hold any.
    """
    keys = _keys(rows)
    odd = [key for key in keys if not _PLAIN.fullmatch(key)]
    taken = set(keys)
    for key in odd:
        stem = re.sub(r"[^A-Za-z0-9]+", "_", key).strip("_") or "variant"
        stem = stem if stem[0].isalpha() else f"v_{stem}"
        plain = next(
            name for name in (stem, *(f"{stem}_{n}" for n in range(2, len(keys) + 3))) if name not in taken
        )
        taken.add(plain)
        rows = rows.rename(
            {name: plain + name[len(key) :] for name in rows.columns if name.startswith(f"{key}_")}
        )
    return rows


def _derive(rows: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """Compute perplexity, gap and its band if the table has only the nll."""
    for key in keys:
        nll = pl.col(f"{key}_nll_nats")
        if f"{key}_perplexity" not in rows.columns:
            rows = rows.with_columns(nll.exp().alias(f"{key}_perplexity"))
        if key != "fp32" and "fp32" in keys and f"{key}_gap" not in rows.columns:
            rows = rows.with_columns((nll - pl.col("fp32_nll_nats")).exp().sub(1).alias(f"{key}_gap"))
        if f"{key}_gap_se" in rows.columns:
            gap, half = pl.col(f"{key}_gap"), BAND_SE * pl.col(f"{key}_gap_se")
            rows = rows.with_columns((gap - half).alias(f"{key}_gap_lo"), (gap + half).alias(f"{key}_gap_hi"))
        ends = {"lower": "lo", "upper": "hi"}
        rows = rows.rename(
            {f"{key}_{REMAINING}_{end}": f"{key}_{REMAINING}_{short}" for end, short in ends.items()},
            strict=False,
        )
    return rows


def _rank(key: str) -> tuple[int, str]:
    order = ("fp32", "int8", "int4")
    return (order.index(key) if key in order else len(order), key)


def named_series(keys: Iterable[str], variants: Mapping[str, str] = ALIASES) -> tuple[Series, ...]:
    """The series with these column prefixes, in their order.

    ``variants``: column prefix -> name of the variant; a prefix without one is its own name.
    """
    found = []
    for key in keys:
        spec = variants.get(key, ALIASES.get(key, key))
        label = "FP32" if key == "fp32" else variant_label(spec)
        found.append(Series(key, spec, label, *grid_and_method(spec)))
    return tuple(found)
