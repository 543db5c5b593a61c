"""Effective rank of the output head: over how many directions its spectrum is spread.

exp(H(p)), p = the singular values over their sum, H = Shannon entropy (Roy and Vetterli 2007, "The effective rank"):
from 1, where one direction is all, to the width of the model. The heads of small models that saturate late in training
degenerate in this sense (Godey et al. 2024, arXiv 2404.07647). Singular values are the roots of the eigenvalues of
W'W, in float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.measurements.measurement import CheckpointMeasurement, Column, Values
from pipeline.measurements.registration import register

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 16_384
"""Rows of the head of which float64 copies are made at a time."""


def of_model(model: Any, _: Tensor) -> Values:
    """NaN of a model without a head, and of a head of zeros."""
    import torch

    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is None:
        return {"head_effective_rank": float("nan"), "head_top_share": float("nan")}
    weight_KD: Tensor = head.weight.detach()
    gram_DD = torch.zeros(
        weight_KD.shape[1], weight_KD.shape[1], dtype=torch.float64, device=weight_KD.device
    )
    for rows_RD in weight_KD.split(ROWS):
        gram_DD += rows_RD.double().T @ rows_RD.double()
    singular = torch.linalg.eigvalsh(gram_DD).clamp(min=0).sqrt()
    share = singular / singular.sum()
    entropy = -torch.special.xlogy(share, share).sum()
    return {"head_effective_rank": float(entropy.exp()), "head_top_share": float(share.max())}


register(CheckpointMeasurement(
    name="head_rank",
    columns=(
        Column(
            "head_effective_rank", "directions", "Effective rank of the output head",
            "exp of the entropy of its singular values; at most the width of the model.", format=",.4~g",
        ),
        Column(
            "head_top_share", "share", "Largest singular value of the head",
            "Its share of the sum of all; padding rows of the vocabulary count too.", format="~%", menu=False,
        ),
    ),
    of_model=of_model,
))  # fmt: skip
