"""The kernels as functions of tensors, with allocated outputs and launch parameters.

Legend: M = rows (V equal blocks, one per variant), K = features, P = predictions; operands as in ``product.py``, raw
products as in ``rows.py``. ``three`` has bit v set where variant v's weights need the operand's first block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.probe.gpu.attention import attention_kernel
from pipeline.probe.gpu.bounds import bounds_kernel
from pipeline.probe.gpu.rows import add_norm_kernel, finish_kernel, gelu_kernel, split_kernel
from pipeline.probe.gpu.token_scores import loss_kernel, nll_kernel
from pipeline.quantize.triton.launch import ceil_div, launch, power_of_2

TILE = 8192
"""Most logits that a program of the loss kernel holds at a time: 64 registers per thread."""


@dataclass(frozen=True)
class Raw:
    """A product whose true value is value * scale[variant] + bias."""

    value: Tensor
    """float32 (M, N)"""
    scale: Tensor
    """float32 (V, N)"""
    bias: Tensor | None


@dataclass(frozen=True)
class Norm:
    """A LayerNorm whose result becomes an operand."""

    gain: Tensor
    shift: Tensor
    power: Tensor
    """float32 (1): power of two that multiplies the result."""


def add_norm(
    x: Tensor,
    adds: tuple[Raw, ...],
    norms: tuple[Norm, ...],
    outs: tuple[Tensor, ...],
    *,
    variants: int,
    three: int,
    eps: float,
) -> None:
    """Add up to two raw products to float32 ``x`` (M, K) in place, and write one or two LayerNorms of the sum to
    the operands ``outs``.
    """  # fmt: skip
    rows, width = x.shape
    first, second = (*adds, None, None)[:2]
    norm, norm2 = norms[0], norms[-1]
    launch(
        add_norm_kernel, (rows,), x,
        *_raw(first, x), *_raw(second, x),
        norm.gain, norm.shift, norm.power, outs[0],
        norm2.gain, norm2.shift, norm2.power, outs[-1],
        rows // variants, three, width, eps,
        ADDS=len(adds), NORMS=len(norms), BIAS=first is not None and first.bias is not None,
        BIAS2=second is not None and second.bias is not None,
        BLOCK=power_of_2(width), num_warps=4 if width <= 2048 else 8,
    )  # fmt: skip


def gelu(raw: Raw, power: Tensor, out: Tensor, three: int) -> None:
    """Write the exact GELU of ``raw``, times ``power`` (float32 (V)), to the operand ``out``."""
    rows, width = raw.value.shape
    block = min(1024, power_of_2(width))
    launch(
        gelu_kernel,
        (rows, ceil_div(width, block)),
        *_raw(raw, out),
        power,
        out,
        rows // power.numel(),
        three,
        width,
        BIAS=raw.bias is not None,
        BLOCK=block,
    )


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    """Split float32 (M, K) into an operand (M, 3 K) and float32 (M), the factor for products of each row."""
    rows, width = x.shape
    operand = torch.empty(rows, 3 * width, dtype=torch.float16, device=x.device)
    unit = torch.empty(rows, dtype=torch.float32, device=x.device)
    launch(split_kernel, (rows,), x, operand, unit, width, BLOCK=min(4096, power_of_2(width)))
    return operand, unit


def finish(raw: Tensor, unit: Tensor, scale: Tensor, bias: Tensor | None) -> None:
    """Compute raw * unit[row] * scale[column] + bias, in place."""
    rows, width = raw.shape
    block = min(1024, power_of_2(width))
    launch(
        finish_kernel, (rows, ceil_div(width, block)),
        raw, unit, scale, scale if bias is None else bias, width, BIAS=bias is not None, BLOCK=block,
    )  # fmt: skip


def attention(
    raw: Raw,
    cos: Tensor,
    sin: Tensor,
    power: Tensor,
    heads: int,
    *,
    out: Tensor,
    three: int,
    blocks: tuple[int, int] | None = None,
) -> None:
    """Write the causal attention of ``raw`` (V * S * T, H * 3 * D) to the operand ``out`` (V * S * T, 3 H D).

    ``cos`` and ``sin`` are float32 (T, rotary size); ``power`` float32 (V) brings every query, key and value below
    2^15. ``blocks`` (queries, keys of a program) are for tests.
    """  # fmt: skip
    length, width = cos.shape[0], raw.value.shape[1]
    size = width // (3 * heads)
    sequences = raw.value.shape[0] // length
    # Fastest of six on an H100: 1.31 ms for D = 64 (the others 1.43 to 1.99), 0.90 for D = 128 (1.00 to 1.72).
    block_m, block_n, warps, stages = (128, 32, 4, 2) if size <= 64 else (128, 64, 8, 1)
    if blocks is not None:
        block_m, block_n = blocks
    launch(
        attention_kernel, (sequences * heads, ceil_div(length, block_m)),
        *_raw(raw, out), cos, sin, power, out, length, sequences // power.numel(), three,
        size**-0.5 * math.log2(math.e),
        H=heads, D=size, BLOCK_D=max(16, power_of_2(size)), ROTARY=cos.shape[1], BIAS=raw.bias is not None,
        BLOCK_M=block_m, BLOCK_N=block_n, num_warps=warps, num_stages=stages,
    )  # fmt: skip


def empty_sums(variants: int, predictions: int, device: torch.device) -> Tensor:
    """Allocate the sums that :func:`score` fills and :func:`scores` reads."""
    return torch.empty(6, variants, predictions, dtype=torch.float32, device=device)


def score(logits: Tensor, targets: Tensor, sums: Tensor, first: int = 0, scale: Tensor | None = None) -> None:
    """Reduce ``logits`` (float32 (V, P, vocabulary)) and ``targets`` (int64 (P)) to columns ``first`` to first + P
    of ``sums``. With ``scale`` (float32 (V, vocabulary)) the logits are raw.
    """
    variants, predictions, vocabulary = logits.shape
    others = power_of_2(max(1, variants - 1))
    launch(
        loss_kernel, (predictions,), logits, sums if scale is None else scale, targets, sums,
        vocabulary, predictions, first, sums.shape[2],
        V=variants, OTHERS=others, SCALED=scale is not None,
        BLOCK=min(1024, TILE // others, power_of_2(vocabulary)), num_warps=4,
    )  # fmt: skip


def losses(logits: Tensor, targets: Tensor, out: Tensor, first: int = 0, scale: Tensor | None = None) -> None:
    """Like :func:`score`, to the nll alone: columns ``first`` to first + P of ``out``, float64 (V, predictions)."""
    variants, predictions, vocabulary = logits.shape
    launch(
        nll_kernel, (predictions, variants), logits, logits if scale is None else scale, targets, out,
        vocabulary, predictions, first, out.shape[1],
        SCALED=scale is not None, BLOCK=min(2048, power_of_2(vocabulary)), num_warps=4,
    )  # fmt: skip


def scores(sums: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Nll (float64), KL, top-1 agreement and change of the target's probability (float32), each (V, P).

    Variant 0 is the baseline of the last three. Where logits are not finite, all four are NaN: the definitions of
    ``evaluate.compare``.
    """
    log_sum, at_target, mean_y, mean_h, c, agrees = sums.double()
    log_p = at_target - log_sum
    p = log_p.exp()
    small = mean_h - mean_y
    shift = log_sum - log_sum[:1] + c  # log E_0[exp(-y)], as is log1p(small) unless a y was cut off
    near = (shift.abs() < 0.25) & ((small - torch.expm1(shift)).abs() < 1e-4)
    kl = torch.where(near, mean_h + (torch.log1p(small) - small), mean_y + shift)
    kl[0] = 0.0
    broken = ~(torch.isfinite(log_p) & torch.isfinite(log_p[:1]))
    kl.masked_fill_(broken, torch.nan)
    agrees.masked_fill_(broken, torch.nan)
    return -log_p, kl.float(), agrees.float(), (p - p[:1]).float()


def norm_power(gain: Tensor, shift: Tensor) -> Tensor:
    """float32 (1): the power for the results of a LayerNorm with ``gain`` and ``shift`` (float32 (K))."""
    power = torch.empty(1, dtype=torch.float32, device=gain.device)
    launch(
        bounds_kernel, (1,), gain, shift, gain, gain, gain, power, power, gain.numel(), 0, 0, 0,
        PRODUCT=False, BIAS=False, BLOCK=1024,
    )  # fmt: skip
    return power


def powers(
    gain: Tensor, shift: Tensor, squares_SO: Tensor, bias: Tensor | None, factor: Tensor
) -> tuple[Tensor, Tensor]:
    """:func:`norm_power`, and float32 (S): those for ``factor`` (float32 (1)) times the outputs of the packed weights
    whose rows have sums of squares ``squares_SO`` (float64).
    """
    slots, outs = squares_SO.shape
    power = torch.empty(1, dtype=torch.float32, device=gain.device)
    out_power_S = torch.empty(slots, dtype=torch.float32, device=gain.device)
    launch(
        bounds_kernel, (slots,), gain, shift, squares_SO, gain if bias is None else bias, factor, power, out_power_S,
        gain.numel(), outs, *squares_SO.stride(), PRODUCT=True, BIAS=bias is not None, BLOCK=1024,
    )  # fmt: skip
    return power, out_power_S


def _raw(raw: Raw | None, unused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three pointers of a raw product; placeholders if there is none."""
    if raw is None:
        return unused, unused, unused
    return raw.value, raw.scale, raw.scale if raw.bias is None else raw.bias
