"""One forward of all variants over the evaluation tokens, compared token by token while the logits are there.

The variants are folded into the batch: the same N sequences appear V times, variants outermost, so that every
weight is read once per chunk and every comparison is paired. A chunk is a number of sequences, chosen by memory
alone; results are kept per token and summed afterwards, so they depend neither on the chunk nor on how the
sequences are grouped into batches.

Legend of shapes: V = variants, N = sequences, T = tokens per sequence, P = T - 1 predictions, K = vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import CheckpointError

ROWS_PER_BLOCK = 256
"""Predictions compared at a time: bounds the float32 temporaries of the softmax to a cache-friendly size."""


@dataclass
class TokenResults:
    """Per variant, sequence and prediction; NaN where the model's logits are not finite."""

    nll_nats: np.ndarray
    """float64 (V, N, P): -log p(next token)."""
    kl_nats: np.ndarray
    """float32 (V, N, P): KL(p_fp32 || p_variant) over the whole vocabulary."""
    agrees: np.ndarray
    """float32 (V, N, P): 1 where the variant's most likely token is fp32's, else 0."""
    delta_p: np.ndarray
    """float32 (V, N, P): change of the correct token's probability against fp32."""
    notes: list[str] = field(default_factory=list)
    """What happened on the way that a reader of the numbers should know (chunks halved for memory)."""


@torch.inference_mode()
def evaluate(
    model: Any, n_variants: int, tokens: np.ndarray, chunk: int, device: torch.device
) -> TokenResults:
    """Runs ``tokens`` (int64 (N, T)) through all ``n_variants`` of ``model``, ``chunk`` sequences at a time.

    On a GPU that runs out of memory the chunk is halved and the same sequences are tried again; CheckpointError
    when one sequence does not fit.
    """
    n_sequences, n_predictions = tokens.shape[0], tokens.shape[1] - 1
    shape = (n_variants, n_sequences, n_predictions)
    single = np.empty((3, *shape), dtype=np.float32)
    results = TokenResults(nll_nats=np.empty(shape), kl_nats=single[0], agrees=single[1], delta_p=single[2])
    start = 0
    while start < n_sequences:
        stop = min(start + chunk, n_sequences)
        ids = torch.from_numpy(tokens[start:stop]).to(device)
        try:
            nll, kl, agrees, delta_p = forward_chunk(model, n_variants, ids)
        except torch.OutOfMemoryError:
            if stop - start == 1:
                raise CheckpointError(
                    f"one sequence of {tokens.shape[1]} tokens in {n_variants} variants does not fit the GPU: "
                    "use a shorter --seq-len or fewer variants"
                ) from None
            chunk = (stop - start) // 2
            results.notes.append(f"GPU out of memory: chunk reduced to {chunk} sequences")
            torch.cuda.empty_cache()
            continue
        results.nll_nats[:, start:stop] = nll
        results.kl_nats[:, start:stop] = kl
        results.agrees[:, start:stop] = agrees
        results.delta_p[:, start:stop] = delta_p
        start = stop
    return results


def forward_chunk(model: Any, n_variants: int, ids_NT: Tensor) -> tuple[np.ndarray, ...]:
    """nll, KL, agreement and change of probability of one chunk, each (V, N, P)."""
    folded = ids_NT.repeat(n_variants, 1)
    logits = model(input_ids=folded, use_cache=False, return_dict=True).logits
    logits_VNTK = logits.view(n_variants, *ids_NT.shape, -1)
    compared = [
        compare(logits_VNTK[:, sequence, :-1], ids_NT[sequence, 1:]) for sequence in range(ids_NT.shape[0])
    ]
    return tuple(torch.stack(parts, dim=1).cpu().numpy() for parts in zip(*compared, strict=True))


def compare(logits_VPK: Tensor, targets_P: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """nll, KL, top-1 agreement and change of the correct token's probability, each (V, P), float32.

    Variant 0 is the baseline of the last three. Where logits are not finite, all four are NaN.
    """
    blocks = [
        _compare_block(
            logits_VPK[:, start : start + ROWS_PER_BLOCK], targets_P[start : start + ROWS_PER_BLOCK]
        )
        for start in range(0, targets_P.shape[0], ROWS_PER_BLOCK)
    ]
    nll, kl, agrees, delta_p = (torch.cat(parts, dim=1) for parts in zip(*blocks, strict=True))
    return nll, kl, agrees, delta_p


def _compare_block(logits_VPK: Tensor, targets_P: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    log_p_VPK = torch.log_softmax(logits_VPK, dim=-1)
    index = targets_P.expand(log_p_VPK.shape[0], -1).unsqueeze(-1)
    log_p_VP = log_p_VPK.gather(-1, index).squeeze(-1)
    p_VP = log_p_VP.exp()
    p_fp32_PK = log_p_VPK[0].exp()
    # The difference is taken before the sum: INT8 divergences are far smaller than the entropies themselves.
    kl_VP = torch.einsum("pk,vpk->vp", p_fp32_PK, log_p_VPK[:1] - log_p_VPK)
    # One argmax and a vectorised maximum per variant: on a CPU an argmax costs five times a maximum. Of tokens
    # that tie exactly for first place, agreeing on one is agreement.
    top_P1 = logits_VPK[0].argmax(dim=-1, keepdim=True)
    at_top_VP = logits_VPK.gather(-1, top_P1.expand(log_p_VPK.shape[0], -1, -1)).squeeze(-1)
    agrees_VP = (at_top_VP == logits_VPK.amax(dim=-1)).to(torch.float32)
    broken_VP = ~(torch.isfinite(log_p_VP) & torch.isfinite(log_p_VP[:1]))
    agrees_VP.masked_fill_(broken_VP, torch.nan)
    kl_VP.masked_fill_(broken_VP, torch.nan)
    return -log_p_VP, kl_VP, agrees_VP, p_VP - p_VP[:1]
