"""A made-up trajectory with every column, whose onset, duplicate and diverged checkpoint are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl

from pipeline.analysis.trajectory.audit_report import AuditReport
from pipeline.base.typed_json import from_json

ONSET, CONVERGED = 900, 780


def steps(last: int = 1430) -> list[int]:
    """Pythia's spacing at 1/100: 154 steps up to 1430."""
    return (
        [0, *(2**power for power in range(10)), *range(520, last + 1, 10)]
        if last > 520
        else list(range(0, last, 10))
    )


def trajectory(at: list[int] | None = None, variants: tuple[str, ...] = ("int8", "int4")) -> pl.DataFrame:
    """One row per step, with the columns of a reduction."""
    rng = np.random.default_rng(0)
    at = steps() if at is None else at
    rows = []
    for step in at:
        nll = 1.9 + 7.2 * math.exp(-((step / 40) ** 0.5)) + 0.004 * rng.standard_normal()
        row: dict[str, Any] = {
            "step": step,
            "revision": f"step{step}",
            "tokens_seen": step * 65536,
            "learning_rate": 2e-3
            * min(1.0, (step + 1) / 15)
            * max(0.1, 0.5 + 0.5 * math.cos(step / 1150 * math.pi)),
            "phase": 1 if step < CONVERGED else 2 if step < ONSET else 3,
            "weights_sha256": f"{step:064x}",
            "duplicate_of": None,
            "fp32_nll_nats": nll,
            "fp32_perplexity": math.exp(nll),
            "kurtosis": 0.1 + step / 600 + 0.02 * rng.standard_normal(),
        }
        for key in variants:
            bits = int(key[3])
            base = {8: 0.0002, 4: 0.03, 3: 0.15}.get(bits, 0.02)
            grown = base * (1 + step / 1500 + max(0, step - ONSET) / 40 * (bits < 8))
            gap = grown * (1 + 0.04 * rng.standard_normal()) if bits < 8 else base * rng.standard_normal()
            row |= {
                f"{key}_nll_nats": nll + math.log1p(gap),
                f"{key}_perplexity": math.exp(nll) * (1 + gap),
                f"{key}_gap": gap,
                f"{key}_gap_se": 0.05 * abs(grown) + 1e-4,
                f"{key}_kl_nats_mean": abs(gap) * 0.8 + 1e-5,
                f"{key}_kl_nats_p50": abs(gap) * 0.3 + 1e-6,
                f"{key}_kl_nats_p99": abs(gap) * 6 + 1e-4,
                f"{key}_top1_agreement": 1 - min(0.9, abs(gap)),
                f"{key}_delta_p_rms": abs(gap) * 0.2,
                f"{key}_relative_error": base * 3,
                f"{key}_boundary_fraction": 0.2,
            }
        rows.append(row)
    return pl.DataFrame(rows)


def tensors(
    at: list[int], layers: int = 4, variants: tuple[str, ...] = ("int8-channel-sym", "int4-g128-asym")
) -> pl.DataFrame:
    """One row per step, variant and quantized tensor."""
    modules = ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
    return pl.DataFrame(
        [
            {
                "step": step,
                "variant": variant,
                "name": f"gpt_neox.layers.{layer}.{module}",
                "n": 4096,
                "mean": 0.0,
                "std": 0.02,
                "absmax": 0.1,
                "kurtosis": 0.3,
                "relative_error": (0.1 if "int4" in variant else 0.009)
                * (1 + 0.1 * layer / layers + 0.05 * place + 0.2 * max(0, step - ONSET) / 500),
                "boundary_fraction": 0.2,
            }
            for step in at
            for variant in variants
            for layer in range(layers)
            for place, module in enumerate(modules)
        ]
    )


def report(**changes: Any) -> AuditReport:
    """The report of :func:`trajectory`, with other fields of report.json where ``changes`` gives some."""
    return read(fields(**changes))


def read(written: dict[str, Any]) -> AuditReport:
    """The report of these fields of report.json; where its numbers come from is made up unless they say so."""
    found: AuditReport = from_json(AuditReport, provenance() | written)
    return found


def fields(**changes: Any) -> dict[str, Any]:
    """``report.json`` of :func:`trajectory`."""
    return {
        "suite": "synthetic",
        "n_checkpoints": 154,
        "convergence_step": CONVERGED,
        "convergence_ci": [700, 850],
        "onset_step": ONSET,
        "onset_ci": [880, 925],
        "phases": [
            {"phase": 1, "first_step": 0, "last_step": 770},
            {"phase": 2, "first_step": 780, "last_step": 890},
            {"phase": 3, "first_step": 900, "last_step": 1430},
        ],
        "growth": "onset",
        "p_onset": 0.005,
        "onset_evidence": {
            "growth_ratio": 12.0,
            "growth_scale": "gap",
            "rise": 0.41,
            "noise_sd": 0.01,
            "noise_memory": 0.2,
        },
        "onset_reason": None,
        "convergence_reason": None,
        "verdict": ["Full precision converges at step 780.", "INT4 damage takes off at step 900."],
        "variant": "int4",
        "level": 0.95,
        "n_used": 96,
        "n_not_finite": 0,
        "predictors": {
            "follows": "fp32_plateau",
            "events": [
                {
                    "event": "warmup_end",
                    "step": 14,
                    "step_ci": None,
                    "onset_minus_event": 886,
                    "onset_minus_event_ci": [866, 911],
                },
                {
                    "event": "half_peak_learning_rate",
                    "step": 575,
                    "step_ci": None,
                    "onset_minus_event": 325,
                    "onset_minus_event_ci": [305, 350],
                },
                {
                    "event": "fp32_plateau",
                    "step": CONVERGED,
                    "step_ci": [700, 850],
                    "onset_minus_event": 120,
                    "onset_minus_event_ci": [40, 190],
                },
                {
                    "event": "min_learning_rate",
                    "step": 1150,
                    "step_ci": None,
                    "onset_minus_event": -250,
                    "onset_minus_event_ci": [-270, -225],
                },
            ],
        },
        "int4_gap_first": 0.03,
        "int4_gap_last": 0.46,
        "int4_gap_max": 0.47,
        "int8_gap_max": 0.0005,
        "kurtosis_test": {
            "pearson_r": 0.93,
            "pearson_p": 1e-9,
            "pearson_ci": [0.88, 0.96],
            "spearman_r": 0.94,
            "spearman_p": 1e-9,
            "n": 54,
            "n_effective": 22.0,
            "n_effective_unclipped": 22.0,
            "detrended_pearson_r": 0.61,
            "detrended_pearson_p": 0.001,
            "related": True,
        },
        "duplicates": {},
        "failures": {},
        "missing": [],
        "best_checkpoint_for_int4": 890,
        "wall_s": 83.2,
        "versions": {"pipeline": "0.1.0", "torch": "2.13.0", "polars": "2.1.0"},
        **changes,
    }


def provenance() -> dict[str, Any]:
    """What the page says about where its numbers come from."""
    return {
        "suite": "synthetic",
        "corpus": "docstrings",
        "wall_s": 83.2,
        "versions": {},
        "fingerprint": "c0ffee" * 10,
        "config": {
            "shape": {"batches": 32, "batch_size": 4, "seq_len": 512},
            "variants": ["fp32", "int4-g128-asym"],
        },
    }
