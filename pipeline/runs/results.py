"""Check the types of the values that pages and commands read from ``report.json`` and ``schedules.json``.

A shape is the type of a value; a list with the type of its elements; or a dict with the shapes of an object's
fields, or with one shape under ``*`` for all fields. A field may be absent or null unless its name ends in ``!``.
Fields that a shape does not name are left unchanged.
"""

from __future__ import annotations

from typing import Any

from pipeline.base.json_fields import Fields

INTERVAL = [float]

REPORT_SHAPE: dict[str, Any] = {
    "suite!": str,
    "corpus": str,
    "fingerprint": str,
    "config": dict,
    "versions": {"*": str},
    "calibration": {"text": str, "tokens_sha256": str},
    "wall_s": float,
    "n_checkpoints": int,
    "variant": str,
    "level": float,
    "phases": [{"phase!": int, "first_step": int, "last_step": int}],
    "predictors": {
        "follows": str,
        "coincide": [str],
        "events": [
            {
                "event!": str, "step": float, "step_ci": INTERVAL, "onset_minus_event": float,
                "onset_minus_event_ci": INTERVAL, "coincides": bool, "reason": str,
            }
        ],
    },
    "kurtosis_test": {
        "n": int, "n_effective": float, "n_effective_unclipped": float, "pearson_r": float, "pearson_p": float,
        "pearson_ci": INTERVAL, "spearman_r": float, "spearman_ci": INTERVAL, "detrended_pearson_r": float,
        "detrended_pearson_p": float, "related": bool, "reason": str,
    },
    "onset_evidence": {"p_value": float, "growth_ratio": float, "growth_scale": str, "rise": float, "noise_sd": float},
    "square_law": {"sentence": str},
    "calibration_problems": [
        {
            "variant!": str, "problem!": str, "matrices!": int, "cases!": int, "rounded!": int, "first_step!": int,
            "last_step!": int, "examples!": [str],
        }
    ],
    "methods": [{"variant!": str, "method!": str, "rounded!": str, "sentence!": str, "n_known": int}],
    "dose": {"estimate": float},
    "duplicates": {"*": str},
    "failures": {"*": str},
    "notes": {"*": [str]},
    **{key: [str] for key in ("missing", "skipped", "verdict")},
    **dict.fromkeys(("convergence_ci", "onset_ci"), INTERVAL),
    **dict.fromkeys(("convergence_reason", "onset_reason", "growth"), str),
    **dict.fromkeys(
        (
            "convergence_step", "convergence_share", "onset_step", "int4_gap_first", "int4_gap_last", "int4_gap_max",
            "int8_gap_max", "best_checkpoint_for_int4", "n_used", "n_not_finite", "n_duplicates", "fp32_best_step",
            "fp32_late_rise_nats", "idle_share", "p_onset", "p_beyond_learning_rate",
        ),
        float,
    ),
}  # fmt: skip

_ESTIMATE = {"estimate": float, "lower": float, "upper": float, "p_value": float, "text_se": float}
_DIFFERENCES = {"gap_points!": _ESTIMATE, "fp32_nats!": _ESTIMATE, "variant_nats!": _ESTIMATE}

SCHEDULES_SHAPE: dict[str, Any] = {
    "suite!": str,
    "corpus!": str,
    "fingerprint!": str,
    "versions!": {"*": str},
    "from_step!": int,
    "start_rule!": str,
    "baseline!": str,
    "variant": str,
    "n_runs!": int,
    "train_corpus!": str,
    "config!": {
        "precision!": str,
        "rates!": {"base_lr!": float, "peak_lr!": float, "steps!": int, "rewarm_steps": int},
    },
    "arms!": {
        "*": {
            "schedule!": str, "parameters!": {"*": float}, "optimizer!": str, "runs!": int, "final_gap": float,
            "final_fp32_nll_nats": float, "mean_learning_rate": float,
        }
    },
    "comparisons!": [
        {
            "arm!": str, "baseline!": str, "weights!": str, "p_holm": float, "over_run": _DIFFERENCES,
            "at_end": {"step": int, **_DIFFERENCES}, "tests": {"wins": int, "pairs": int},
        }
    ],
    "averages!": [{"arm!": str, "weights!": str, "n_runs!": int, "over_run": _DIFFERENCES}],
    "wins!": [{"arm!": str, "other!": str, "wins": int, "pairs": int}],
    "sweeps": [{"schedule!": str, "parameter!": str, "values": [float], "spearman_r": float, "p_value": float}],
    **{key: [str] for key in ("sentences!", "missing!", "notes!")},
}  # fmt: skip


def checked(fields: Fields, shape: dict[str, Any]) -> dict[str, Any]:
    """Check ``fields`` against ``shape`` and return the object."""
    if "*" in shape:
        shape = dict.fromkeys(fields.value, shape["*"])
    for named, wanted in shape.items():
        name = named.removesuffix("!")
        kind = type(wanted) if isinstance(wanted, dict | list) else wanted
        value = fields.need(name, kind) if named.endswith("!") else fields.get(name, kind)
        if value is None:
            continue
        if isinstance(wanted, dict):
            checked(fields.child(name), wanted)
        elif isinstance(wanted, list):
            _check_elements(fields, name, wanted[0])
    return fields.value


def _check_elements(fields: Fields, name: str, wanted: Any) -> None:
    if isinstance(wanted, dict):
        for each in fields.children(name):
            checked(each, wanted)
        return
    elements = fields.elements(name)
    for index in elements.value:
        elements.get(index, wanted)
