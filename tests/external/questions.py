"""What the 135 pairs answer: the scatter between seeds, and the gap against the length of training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
from scipy import stats

from pipeline.analysis.statistics.permutation import trend_within_seeds
from tests.external.pairs import SAME_TEXT_AND_TOKENS, Recipe, paired, runs_under

LEVEL = 0.95
LEAST_TRAININGS = 3
"""A standard deviation of two values says next to nothing."""
SHORT = ("2026-03-17_NaiveBaseline/", "2026-03-17_LoRA_TTT/")
"""Five trainings of the contest's baseline: equal lengths, losses of 2.059 to 2.061 nats."""
LONG = "2026-03-18_Quasi10Bfrom50B_SP1024_9x512_KV4_4h_pgut3/"
"""The baseline's model and schedule trained 24 times as long."""
BYTES_SHORT, BYTES_LONG = "train_byte260_best_10_min.log", "train_byte260_4h.log"


def findings(table: pl.DataFrame) -> dict[str, Any]:
    """Every number that README.md tells, with its unit in its name."""
    recipes = paired(table)
    return {
        "rows": _rows(table),
        "seed_scatter": _seed_scatter(recipes),
        "length": {
            "within_recipes": _within(recipes),
            "between_recipes": _between(recipes),
            "baseline": _baseline(table),
            "bytes": _two_runs(table),
        },
    }


def _rows(table: pl.DataFrame) -> dict[str, Any]:
    last = table.filter(pl.col("kind") == "last step/roundtrip")
    gap = last["gap_nats"].to_numpy()
    decimals = table["nll_before_nats"].cast(pl.String).str.extract(r"\.(\d+)$").str.len_chars()
    return {
        "all": len(table),
        "paired": len(table) - len(last),
        "paired_recipes": len(paired(table)),
        "last_step_against_roundtrip": len(last),
        "of_these_not_above_zero": int((gap <= 0).sum()),
        "lowest_difference_nats": float(gap.min()),
        "losses_of_four_decimals_or_fewer": int((decimals <= 4).sum()),
    }


def _seed_scatter(recipes: list[Recipe]) -> dict[str, Any]:
    """Standard deviations between the trainings of a recipe; medians over recipes with exact intervals."""
    rows = []
    for each in recipes:
        if len(each.gap_nats) >= LEAST_TRAININGS:
            before, after, gap = (float(np.std(values, ddof=1)) for values in
                                  (each.before_nats, each.after_nats, each.gap_nats))  # fmt: skip
            mean = float(np.mean(each.gap_nats))
            rows.append({
                "recipe": each.name, "trainings": len(each.gap_nats), "gap_nats": mean, "gap_sd_nats": gap,
                "gap_sd_share": gap / mean, "before_sd_nats": before, "after_sd_nats": after,
                "after_sd_over_gap_sd": after / gap,
            })  # fmt: skip
    names = ("gap_sd_nats", "gap_sd_share", "before_sd_nats", "after_sd_nats", "after_sd_over_gap_sd")
    freedom = [row["trainings"] - 1 for row in rows]
    variance = np.average([row["gap_sd_nats"] ** 2 for row in rows], weights=freedom)
    return {
        "recipes": len(rows),
        "trainings": sum(row["trainings"] for row in rows),
        "interval": "95 %, recipes as units, from the order of the values (binomial)",
        **{f"median_{name}": _median([row[name] for row in rows]) for name in names},
        "root_mean_square_gap_sd_nats": math.sqrt(variance),
        "largest_gap_sd_nats": max(row["gap_sd_nats"] for row in rows),
        "per_recipe": rows,
    }


def _median(values: list[float]) -> dict[str, float]:
    interval = stats.quantile_test(values, p=0.5).confidence_interval(LEVEL)
    return {"estimate": float(np.median(values)), "lower": float(interval.low), "upper": float(interval.high)}


def _within(recipes: list[Recipe]) -> dict[str, Any]:
    """How much the trainings of one recipe differ in length: what there is to see an effect of length by."""
    spreads = [max(each.last_step) / min(each.last_step) - 1 for each in recipes]
    return {"largest_difference_share": max(spreads), "median_difference_share": float(np.median(spreads))}


def _between(recipes: list[Recipe]) -> dict[str, Any]:
    """Rank correlation of mean gap and mean length, recipes as units, all together and within equal text and tokens."""
    steps = np.array([np.mean(each.last_step) for each in recipes])
    gap = np.array([np.mean(each.gap_nats) for each in recipes])
    strata = np.array([each.stratum for each in recipes])
    alone = trend_within_seeds(steps, gap, np.zeros(len(recipes), dtype=np.int64))
    drawn = trend_within_seeds(_ranks_within(steps, strata), _ranks_within(gap, strata), strata)
    return {
        "recipes": len(recipes),
        "all_together": {"spearman_r": alone.spearman_r, "p_value": alone.p_value},
        "within_equal_text_and_tokens": {"spearman_r": drawn.spearman_r, "p_value": drawn.p_value},
        "strata": [
            {
                "loss_nats": list(SAME_TEXT_AND_TOKENS[each]),
                "recipes": int((strata == each).sum()),
                "shortest_steps": float(steps[strata == each].min()),
                "longest_steps": float(steps[strata == each].max()),
                "gap_nats": [float(gap[strata == each].min()), float(gap[strata == each].max())],
            }
            for each in sorted(set(strata.tolist()))
        ],
    }


def _ranks_within(values: Any, strata: Any) -> Any:
    """Ranks within each stratum from -1/2 to 1/2, so that strata do not differ."""
    ranks = np.zeros(len(values))
    for each in np.unique(strata):
        own = strata == each
        ranks[own] = (stats.rankdata(values[own]) - 0.5) / own.sum() - 0.5
    return ranks


def _baseline(table: pl.DataFrame) -> dict[str, Any]:
    """One long training against five short ones of the same recipe.

    The interval is Student's prediction interval: where the gap of one more short training would lie.
    """
    short = pl.concat([runs_under(table, each) for each in SHORT])
    long = runs_under(table, LONG).row(0, named=True)
    gaps = short["gap_nats"].to_numpy()
    half = stats.t.ppf(0.5 + LEVEL / 2, len(gaps) - 1) * gaps.std(ddof=1) * math.sqrt(1 + 1 / len(gaps))
    mean = float(gaps.mean())
    return {
        "short": {
            "trainings": len(gaps), "steps": [int(short["last_step"].min()), int(short["last_step"].max())],
            "gap_nats": mean, "gap_sd_nats": float(gaps.std(ddof=1)),
            "one_more_nats": [mean - half, mean + half],
            "before_nats": float(short["nll_before_nats"].to_numpy().mean()),
            "after_nats": float(short["nll_after_nats"].to_numpy().mean()),
        },
        "long": {
            "trainings": 1, "steps": long["last_step"], "gap_nats": long["gap_nats"],
            "before_nats": long["nll_before_nats"], "after_nats": long["nll_after_nats"],
        },
        "gap_ratio": long["gap_nats"] / mean,
        "after_change_nats": long["nll_after_nats"] - float(short["nll_after_nats"].to_numpy().mean()),
        "grid": "INT8 whose scale is at least 1/127: a fixed step",
    }  # fmt: skip


def _two_runs(table: pl.DataFrame) -> dict[str, Any]:
    """A second pair of lengths, one training each, so without an interval."""
    short, long = (runs_under(table, each).row(0, named=True) for each in (BYTES_SHORT, BYTES_LONG))
    return {
        "steps": [short["last_step"], long["last_step"]],
        "gap_nats": [short["gap_nats"], long["gap_nats"]],
        "gap_ratio": long["gap_nats"] / short["gap_nats"],
        "after_nats": [short["nll_after_nats"], long["nll_after_nats"]],
    }
