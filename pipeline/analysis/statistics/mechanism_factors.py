"""The factors of one variant's damage at one checkpoint, from its losses and those of its controls, batch by batch.

With f(a) the damage where a times the rounding error D is added to the weights W, and n(s) that of D with random signs:

    error_size = (|D| / |W|)^2              sensitivity = mean n / error_size     alignment = f(1) / mean n
    slope = f(1/2) - f(-1/2)                curvature = 4 (f(1/2) + f(-1/2))      even_damage = (f(1) + f(-1)) / 2
    kappa = f(1) / error_size

so that damage = f(1) = error_size x sensitivity x alignment. ``permuted_ratio`` and ``gaussian_ratio`` are the mean
damage of D shuffled within its groups, and of normal noise of its size there, over mean n: both 1 where only the size
of an error counts.

Standard errors are of the text and the draws. Batches are resampled for all losses together, so that what they share
cancels; draws of two kinds are independent. With y_sb the damage of draw s in batch b, the variance of its mean is that
of the batches' means plus that of the draws' means, less that of what is left, which both count (two crossed random
effects). Of ratios they are by the delta method. One batch, or one draw, shows no spread: NaN.

Legend of shapes: S = draws, B = batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.analysis.statistics.curves import FloatArray
from pipeline.analysis.statistics.intervals import mean_se

NOISE_COLUMNS = {0.02: "noise_2pct_nats", 0.05: "noise_5pct_nats"}
"""Damage of relative noise by its share of each matrix' root mean square."""

Columns = dict[str, float | None]


@dataclass(frozen=True, eq=False)
class ControlledLoss:
    """Losses under controls of one variant of one checkpoint, as differences from fp32 in nats per token."""

    damage: float
    """f(1), from the losses over all tokens."""
    damage_B: FloatArray  # noqa: N815
    line: Mapping[float, FloatArray]
    """f(a), (B,), by a."""
    drawn: Mapping[tuple[str, float], FloatArray]
    """(S, B) by kind of control and amount."""

    @classmethod
    def of(
        cls, row: Mapping[str, Any], fp32: Mapping[str, Any], layer: int | None = None
    ) -> ControlledLoss | None:
        """From the shard's row of a variant and that of fp32; of one layer alone, its own error for the variant's.

        None where there are no controls.
        """
        entries = [entry for entry in row.get("controls") or () if entry["layer"] == layer]
        if not entries:
            return None
        base_B = np.array(fp32["batch_nll_nats"], dtype=np.float64)
        line: dict[float, FloatArray] = {}
        drawn: dict[tuple[str, float], list[FloatArray]] = {}
        for entry in entries:
            difference_B = np.array(entry["batch_nll_nats"], dtype=np.float64) - base_B
            if entry["kind"] == "line":
                line[entry["amount"]] = difference_B
            else:
                drawn.setdefault((entry["kind"], entry["amount"]), []).append(difference_B)
        own_B = np.array(row["batch_nll_nats"], dtype=np.float64) - base_B
        if layer is not None:
            own_B = line[1.0]
        damage = float(own_B.mean()) if layer is not None else row["nll_nats"] - fp32["nll_nats"]
        return cls(damage, own_B, line, {name: np.stack(values) for name, values in drawn.items()})

    def signs(self) -> FloatArray:
        """n(s), (S, B)."""
        return self.drawn["signs", 1.0]


def factor_columns(found: ControlledLoss, error_size: float) -> Columns:
    """The columns of a quantized variant, each followed by its standard error."""
    f, f_B, n_SB = found.damage, found.damage_B, found.signs()
    ahead_B, back_B, opposite_B = found.line[0.5], found.line[-0.5], found.line[-1.0]
    columns = {
        **_factors(found, error_size),
        "slope": _mean(ahead_B - back_B),
        "curvature": _mean(4 * (ahead_B + back_B)),
        "even_damage": _mean((f_B + opposite_B) / 2),
        "kappa": (_over(f, error_size), _over(mean_se(f_B), error_size)),
    }
    for kind in ("permuted", "gaussian"):
        other_SB = found.drawn[kind, 1.0]
        ratio = _over(float(other_SB.mean()), float(n_SB.mean()))
        columns[f"{kind}_ratio"] = ratio, abs(ratio) * _relative_se(other_SB, n_SB)
    return _with_errors(columns)


def noise_columns(found: ControlledLoss) -> Columns:
    """The columns of fp32: what noise costs that no quantizer enters."""
    return _with_errors(
        {
            name: (float(draws_SB.mean()), float(np.sqrt(_variance(draws_SB))))
            for share, name in NOISE_COLUMNS.items()
            if (draws_SB := found.drawn.get(("relative", share))) is not None
        }
    )


def layer_columns(found: ControlledLoss, error_size: float) -> Columns:
    """The columns of one layer alone."""
    return _with_errors(_factors(found, error_size))


def additivity(alone: Sequence[ControlledLoss], together: ControlledLoss) -> Columns:
    """The sum of the damages of each layer alone over that of all, which is 1 where they add up."""
    sum_B = np.sum([each.damage_B for each in alone], axis=0)
    ratio = _over(float(sum_B.mean()), together.damage)
    with np.errstate(divide="ignore", invalid="ignore"):
        influence_B = sum_B / sum_B.mean() - together.damage_B / together.damage
    return _with_errors({"additivity": (ratio, abs(ratio) * mean_se(influence_B))})


def _factors(found: ControlledLoss, error_size: float) -> dict[str, tuple[float, float]]:
    """The damage and its three factors, each with its standard error."""
    f, f_B, n_SB = found.damage, found.damage_B, found.signs()
    n = float(n_SB.mean())
    alignment = _over(f, n)
    return {
        "damage": (f, mean_se(f_B)),
        "error_size": (error_size, 0.0 if np.isfinite(error_size) else np.nan),
        "sensitivity": (_over(n, error_size), _over(float(np.sqrt(_variance(n_SB))), error_size)),
        "alignment": (alignment, abs(alignment) * _relative_se(f_B[None], n_SB)),
    }


def _relative_se(above_SB: FloatArray, below_SB: FloatArray) -> float:
    """Standard error of the logarithm of mean above over mean below; one row above is no draw."""
    with np.errstate(divide="ignore", invalid="ignore"):
        above, below = above_SB / above_SB.mean(), below_SB / below_SB.mean()
    text = mean_se(above.mean(axis=0) - below.mean(axis=0)) ** 2
    draws = sum(_draws_alone(each) for each in (above, below) if len(each) > 1)
    return float(np.sqrt(text + max(draws, 0.0)))


def _variance(y_SB: FloatArray) -> float:
    """Variance of the mean over draws and batches."""
    return mean_se(y_SB.mean(axis=0)) ** 2 + max(_draws_alone(y_SB), 0.0)


def _draws_alone(y_SB: FloatArray) -> float:
    """What the draws add to the variance that the batches' means show: theirs, less what is left of both."""
    draws, batches = y_SB.shape
    if draws < 2:
        return float("nan")
    means_S = y_SB.mean(axis=1)
    left_SB = y_SB - means_S[:, None] - y_SB.mean(axis=0) + y_SB.mean()
    left = (left_SB**2).sum() / max((draws - 1) * (batches - 1), 1)
    return float(means_S.var(ddof=1) / draws - left / (draws * batches))


def _mean(values_B: FloatArray) -> tuple[float, float]:
    return float(values_B.mean()), mean_se(values_B)


def _over(above: float, below: float) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.float64(above) / np.float64(below))


def _with_errors(columns: Mapping[str, tuple[float, float]]) -> Columns:
    found: Columns = {}
    for name, (value, error) in columns.items():
        found |= {name: value, f"{name}_se": error}
    return found
