"""Agreement of a variant with fp32: the most likely token, and the correct token's probability."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pipeline.measurements.measurement import Column, TokenBlock, TokenMeasurement, Values
from pipeline.measurements.registration import register

if TYPE_CHECKING:
    from torch import Tensor


def per_token(block: TokenBlock) -> dict[str, Tensor]:
    """1 where the variant's most likely token is fp32's, else 0; change of the correct token's probability."""
    import torch

    logits_VPK = block.logits_VPK
    # One argmax and a vectorised maximum per variant: on a CPU an argmax costs five times a maximum. Of tokens
    # that tie exactly for first place, agreeing on one is agreement.
    top_P1 = logits_VPK[0].argmax(dim=-1, keepdim=True)
    at_top_VP = logits_VPK.gather(-1, top_P1.expand(logits_VPK.shape[0], -1, -1)).squeeze(-1)
    agrees_VP = (at_top_VP == logits_VPK.amax(dim=-1)).to(torch.float32)
    p_VP = block.log_p_VP.exp()
    return {"agrees": agrees_VP.masked_fill_(block.broken_VP, torch.nan), "delta_p": p_VP - p_VP[:1]}


def summarise(values: Mapping[str, np.ndarray], _: int) -> Values:
    """Share of predictions that agree; root mean square change of probability; both accumulated in float64."""
    return {
        "top1_agreement": float(values["agrees"].mean(dtype=np.float64)),
        "delta_p_rms": float(np.sqrt(np.square(values["delta_p"], dtype=np.float64).mean())),
    }


register(TokenMeasurement(
    name="agreement",
    columns=(
        Column(
            "top1_agreement", "share", "Top-1 agreement", "Share of tokens whose most likely successor is FP32's.",
            format="~%", better="higher", heading="top-1", written="share",
        ),
        Column(
            "delta_p_rms", "share", "Change of p (rms)",
            "Root mean square change of the correct token's probability.", axis="log", better="lower",
        ),
    ),
    per_token=per_token,
    values={"agrees": "float32", "delta_p": "float32"},
    summarise=summarise,
))  # fmt: skip
