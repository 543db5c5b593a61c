"""Damage and relative weight error of every variant at every checkpoint, and the square law fitted through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.analysis.statistics.bootstrap import jackknife_se, without_each_block
from pipeline.analysis.statistics.curves import BoolArray, FloatArray
from pipeline.analysis.statistics.intervals import student_half_width
from pipeline.measurements import squared_error
from pipeline.runs.shard import Shard
from pipeline.spec import column_of

TYPICAL_SCATTER = 0.17
"""Standard deviation of log(damage / predicted) over grids that the law allows for at least."""


@dataclass(frozen=True, eq=False)
class RoundedCheckpoints:
    """Data of the fit: (variants, checkpoints) and (variants, checkpoints, blocks of batches)."""

    columns: tuple[str, ...]
    errors: FloatArray
    """Squared relative weight error; NaN where a variant was not measured."""
    damage: FloatArray
    """Excess loss in nats."""
    without: FloatArray
    """The same without each block of batches."""

    @property
    def n_blocks(self) -> int:
        return self.without.shape[-1]

    def text_se(self) -> FloatArray:
        """Standard error of ``damage`` over the text; 0 where there is one batch."""
        return jackknife_se(self.without) if self.n_blocks > 1 else np.zeros_like(self.damage)

    def only(self, chosen: BoolArray) -> RoundedCheckpoints:
        names = tuple(np.array(self.columns)[chosen])
        return RoundedCheckpoints(names, self.errors[chosen], self.damage[chosen], self.without[chosen])


def read_damages(shards: Sequence[Shard]) -> RoundedCheckpoints:
    rows = [shard.rows("batch_nll_nats", "tensors") for shard in shards]
    variants = list(dict.fromkeys(name for found in rows for name in found if name != "fp32"))
    n_batches = len(rows[0]["fp32"]["batch_nll_nats"])
    errors = np.full((len(variants), len(rows)), np.nan)
    batches = np.full((*errors.shape, n_batches), np.nan)
    for column, found in enumerate(rows):
        for index, name in enumerate(variants):
            if name in found:
                errors[index, column] = squared_error(found[name]["tensors"])
                batches[index, column] = np.subtract(
                    found[name]["batch_nll_nats"], found["fp32"]["batch_nll_nats"]
                )
    without = without_each_block(batches) if n_batches > 1 else batches
    names = tuple(column_of(name) for name in variants)
    return RoundedCheckpoints(names, errors, batches.mean(axis=-1), without)


def fit_square_law(points: RoundedCheckpoints) -> tuple[FloatArray, FloatArray]:
    """Kappa (checkpoints,), and without each block of text (checkpoints, blocks); NaN where nothing is finite."""
    known = np.isfinite(points.damage) & (points.errors > 0)
    errors = np.where(known, points.errors, 0.0)
    largest = np.argmax(errors, axis=0)
    at = np.arange(errors.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        guess = np.maximum(points.damage[largest, at] / errors[largest, at], 0.0)
        variance = points.text_se() ** 2 + (TYPICAL_SCATTER * guess * errors) ** 2
        weights = np.where(known & (variance > 0), errors / variance, 0.0)
        weights = weights / (weights * errors).sum(axis=0)
    damage, without = (
        np.where(known if each.ndim == 2 else known[..., None], each, 0.0)
        for each in (points.damage, points.without)
    )
    return (weights * damage).sum(axis=0), (weights[..., None] * without).sum(axis=0)


def half_width(without: FloatArray) -> float | None:
    n = len(without)
    if n < 2 or not np.isfinite(without).all():
        return None
    return student_half_width(float(jackknife_se(without)), n - 1)
