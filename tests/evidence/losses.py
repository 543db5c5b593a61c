"""Losses of the checkpoints of an audit, straight from its shards."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.analysis.statistics.curves import Curve
from pipeline.runs.folder import RunFolder

FloatArray = NDArray[np.float64]
FP32, INT4, GPTQ = "fp32", "int4-g128-asym", "int4-g128-asym@gptq"


@dataclass(frozen=True)
class Losses:
    """Losses of one suite."""

    step: NDArray[np.int64]
    """Steps in rising order, shape (n,)."""
    batches: Mapping[str, FloatArray]
    """Variant -> nats per token, shape (n, batches)."""
    rate: FloatArray | None = None
    """Learning rate at every step, shape (n,)."""

    def mean(self, variant: str) -> FloatArray:
        """Mean loss in nats per token, shape (n,)."""
        means: FloatArray = self.batches[variant].mean(axis=1)
        return means

    def damage_batches(self, variant: str, first: int, last: int) -> FloatArray:
        """Loss over that of fp32 in the window of steps, nats, shape (checkpoints, batches)."""
        within = (self.step >= first) & (self.step <= last)
        return (self.batches[variant] - self.batches[FP32])[within]

    def damage(self, variant: str, first: int, last: int) -> float:
        """Mean loss over that of fp32 in the window of steps, nats."""
        return float(self.damage_batches(variant, first, last).mean())

    def after(self, earlier: Losses) -> Losses:
        """This suite with the checkpoints that it shares with ``earlier`` before its first."""
        before = earlier.step < self.step[0]
        batches = {
            name: np.concatenate([earlier.batches[name][before], own]) for name, own in self.batches.items()
        }
        rates = None
        if self.rate is not None and earlier.rate is not None:
            rates = np.concatenate([earlier.rate[before], self.rate])
        return Losses(np.concatenate([earlier.step[before], self.step]), batches, rates)

    def curve(self, last: int | None = None) -> Curve:
        """The curve of fp32 and INT4 up to the step ``last``."""
        until = self.step <= (self.step[-1] if last is None else last)
        return Curve(
            step=self.step[until],
            fp32_nll_nats=self.mean(FP32)[until],
            variant_nll_nats={"int4": self.mean(INT4)[until]},
            learning_rate=None if self.rate is None else self.rate[until],
            fp32_batch_nll_nats=self.batches[FP32][until],
            variant_batch_nll_nats={"int4": self.batches[INT4][until]},
        )


@functools.cache
def read_losses(folder: Path) -> Losses:
    """The losses of the audit in ``folder``; needs no reduction."""
    run = RunFolder(folder)
    checkpoints = sorted(run.read_plan().checkpoints, key=lambda each: each.step)
    rows = [run.shards.read(each.key).table.to_pylist() for each in checkpoints]
    by_variant = [{row["variant"]: row["batch_nll_nats"] for row in each} for each in rows]
    names = sorted(set.intersection(*(set(each) for each in by_variant)))
    return Losses(
        np.array([each.step for each in checkpoints]),
        {name: np.array([each[name] for each in by_variant]) for name in names},
        np.array([np.nan if each.learning_rate is None else each.learning_rate for each in checkpoints]),
    )
