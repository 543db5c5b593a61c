"""A measurement as a plug-in: how often the correct token is among a variant's five most likely ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pipeline.measurements import Column, TokenBlock, TokenMeasurement, register

if TYPE_CHECKING:
    from torch import Tensor


def per_token(block: TokenBlock) -> dict[str, Tensor]:
    import torch  # only where something is measured

    correct_VP1 = block.log_p_VPK.gather(
        -1, block.targets_P.expand(block.log_p_VP.shape[0], -1).unsqueeze(-1)
    )
    ahead_VP = (block.log_p_VPK > correct_VP1).sum(dim=-1)
    return {"in_top5": (ahead_VP < 5).to(torch.float32).masked_fill_(block.broken_VP, torch.nan)}


def summarise(values: Mapping[str, np.ndarray], batches: int) -> dict[str, float]:
    return {"top5_share": float(values["in_top5"].mean(dtype=np.float64))}


register(
    TokenMeasurement(
        name="top5",
        columns=(
            Column(
                "top5_share",
                unit="share",
                label="Correct token among the top 5",
                note="Share of tokens that are among the five most likely ones.",
                format="~%",
                better="higher",
                heading="top-5",
                written="share",
            ),
        ),
        per_token=per_token,
        values={"in_top5": "float32"},
        summarise=summarise,
    )
)
