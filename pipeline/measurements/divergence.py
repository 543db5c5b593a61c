"""Kullback-Leibler divergence of a variant's predictions from fp32's, over the whole vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pipeline.measurements.measurement import Column, TokenBlock, TokenMeasurement, Values
from pipeline.measurements.registration import register

if TYPE_CHECKING:
    from torch import Tensor


def per_token(block: TokenBlock) -> dict[str, Tensor]:
    """KL(p_fp32 || p_variant)."""
    import torch

    log_p_VPK = block.log_p_VPK
    # The difference is taken before the sum: INT8 divergences are far smaller than the entropies themselves.
    kl_VP = torch.einsum("pk,vpk->vp", log_p_VPK[0].exp(), log_p_VPK[:1] - log_p_VPK)
    return {"kl_nats": kl_VP.masked_fill_(block.broken_VP, torch.nan)}


def summarise(values: Mapping[str, np.ndarray], _: int) -> Values:
    """Mean and two quantiles over all tokens, in float64."""
    kl = values["kl_nats"].astype(np.float64)
    median, p99 = np.quantile(kl, (0.5, 0.99))
    return {"kl_nats_mean": float(kl.mean()), "kl_nats_p50": float(median), "kl_nats_p99": float(p99)}


register(TokenMeasurement(
    name="divergence",
    columns=(
        Column(
            "kl_nats_mean", "nats", "Mean KL (nats)", "Kullback-Leibler divergence from FP32, mean over tokens.",
            axis="log", better="lower", heading="KL, nats",
        ),
        Column("kl_nats_p50", "nats", "Median KL (nats)", axis="log", better="lower", menu=False),
        Column(
            "kl_nats_p99", "nats", "99th percentile KL (nats)",
            "Divergence from FP32 of the worst hundredth of the tokens.", axis="log", better="lower",
        ),
    ),
    per_token=per_token,
    values={"kl_nats": "float32"},
    summarise=summarise,
))  # fmt: skip
