"""The element-wise, attention and loss kernels of the GPU path against float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

pytest.importorskip("triton")

from pipeline.measurements import TokenMeasurement, selected
from pipeline.measurements.hooks import token_values
from pipeline.probe.gpu import ops
from pipeline.probe.gpu.product import multiply
from pipeline.spec import MEASUREMENTS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ALL = 7  # every variant's weights need the operand's first block


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def error(found: Tensor, exact: Tensor) -> float:
    return ((found.double() - exact).norm() / exact.norm()).item()


def value(operand: Tensor, power: float | Tensor = 1.0) -> Tensor:
    """What an operand [hi | lo | hi] stands for, in float64; its two copies of hi must be equal."""
    hi, lo, again = operand.double().chunk(3, dim=1)
    assert torch.equal(hi, again)
    return (hi + lo) / power


@pytest.mark.parametrize("width", [1, 31, 768, 5000])
def test_a_split_row_keeps_22_bits_whatever_its_magnitude(width: int) -> None:
    x = normal(6, width) * torch.tensor([1e-30, 1e-6, 1.0, 1e4, 1e9, 1e37], device=DEVICE)[:, None]
    operand, unit = ops.split(x)
    back = value(operand) * unit.double()[:, None]
    assert ((back - x.double()).norm(dim=1) / x.double().norm(dim=1)).max() < 2**-22


def test_outliers_zeros_and_denormals_split_without_overflow() -> None:
    x = normal(4, 64)
    x[0, 3] = 1e6  # beyond float16, 2^20 above the rest of its row
    x[1] = 0.0
    x[2] = 1e-41
    x[3, 0] = 3.4e38
    operand, unit = ops.split(x)
    assert torch.isfinite(operand).all()
    back = value(operand) * unit.double()[:, None]
    assert (back - x.double()).abs().max(dim=1).values.le(x.abs().amax(dim=1).double() * 2**-22 + 1e-38).all()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy, in the interpreter
def test_values_that_are_not_finite_stay_so_after_a_product() -> None:
    x = normal(2, 32)
    x[0, 5] = torch.inf
    operand, unit = ops.split(x)
    weight, _ = ops.split(normal(8, 32, seed=1))
    raw = multiply(operand, weight, True, torch.empty(2, 8, device=DEVICE))
    assert not torch.isfinite(raw[0] * unit[0]).any()
    assert torch.isfinite(raw[1] * unit[1]).all()


@pytest.mark.parametrize(("rows", "features", "outs"), [(1, 1, 1), (5, 33, 7), (64, 768, 50)])
def test_a_product_of_two_split_matrices_has_float32_accuracy(rows: int, features: int, outs: int) -> None:
    x, w = normal(rows, features), normal(outs, features, seed=1)
    operand, unit = ops.split(x)
    weight, scale = ops.split(w)
    weight = torch.cat(
        [weight[:, features : 2 * features], weight[:, :features], weight[:, :features]], dim=1
    )
    bias = normal(outs, seed=2)
    out = multiply(operand, weight, True, torch.empty(rows, outs, device=DEVICE))
    ops.finish(out, unit, scale, bias)
    assert error(out, x.double() @ w.double().T + bias.double()) < 3e-6


@pytest.mark.parametrize("adds", [0, 1, 2])
@pytest.mark.parametrize("width", [8, 200])
def test_add_and_norm(adds: int, width: int) -> None:
    variants, rows = 3, 6
    x = normal(rows, width) * 3 + 1
    raws = tuple(
        ops.Raw(normal(rows, width, seed=i), normal(variants, width, seed=i + 5), normal(width, seed=i + 9))
        for i in range(adds)
    )
    exact = x.double()
    for raw in raws:
        exact = (
            exact + raw.value.double() * raw.scale.double().repeat_interleave(2, dim=0) + raw.bias.double()
        )
    power = torch.tensor([256.0], device=DEVICE)
    norms = tuple(ops.Norm(normal(width, seed=20 + i), normal(width, seed=30 + i), power) for i in (0, 1))
    outs = tuple(torch.zeros(rows, 3 * width, dtype=torch.float16, device=DEVICE) for _ in norms)
    ops.add_norm(x, raws, norms, outs, variants=variants, three=ALL, eps=1e-5)
    assert error(x, exact) < 1e-6
    for norm, out in zip(norms, outs, strict=True):
        normed = functional.layer_norm(exact, (width,), norm.gain.double(), norm.shift.double(), 1e-5)
        assert error(value(out, 256.0), normed) < 2e-6


def test_the_third_block_is_written_for_the_variants_that_need_it_alone() -> None:
    raw = ops.Raw(normal(4, 16), torch.ones(2, 16, device=DEVICE), None)
    out = torch.full((4, 48), -7.0, dtype=torch.float16, device=DEVICE)
    ops.gelu(raw, torch.ones(2, device=DEVICE), out, three=0b10)
    assert out[:2, :16].eq(-7.0).all()
    assert torch.equal(out[2:, :16], out[2:, 32:])


def test_gelu() -> None:
    raw = ops.Raw(normal(4, 300) * 3, normal(2, 300, seed=1), normal(300, seed=2))
    out = torch.empty(4, 900, dtype=torch.float16, device=DEVICE)
    power = torch.tensor([64.0, 128.0], device=DEVICE)
    ops.gelu(raw, power, out, ALL)
    x = raw.value.double() * raw.scale.double().repeat_interleave(2, dim=0) + raw.bias.double()
    assert error(value(out, power.double().repeat_interleave(2)[:, None]), functional.gelu(x)) < 1e-6


@pytest.mark.parametrize(
    ("length", "heads", "size", "rotary"), [(1, 1, 8, 4), (40, 2, 16, 4), (33, 1, 24, 0)]
)
def test_attention(length: int, heads: int, size: int, rotary: int) -> None:
    variants, sequences = 2, 1
    width = heads * size
    raw = ops.Raw(normal(variants * sequences * length, 3 * width), normal(variants, 3 * width, seed=1), None)
    raw = ops.Raw(raw.value, raw.scale, normal(3 * width, seed=2))
    angle = torch.arange(length)[:, None] * torch.linspace(0.1, 1.0, max(1, rotary // 2))[None, : rotary // 2]
    cos, sin = (f(torch.cat([angle, angle], dim=1)).to(DEVICE).contiguous() for f in (torch.cos, torch.sin))
    power = torch.tensor([2.0**10, 2.0**11], device=DEVICE)
    out = torch.empty(variants * sequences * length, 3 * width, dtype=torch.float16, device=DEVICE)
    ops.attention(raw, cos, sin, power, heads, out=out, three=ALL, blocks=(16, 16))

    x = raw.value.double().view(variants, -1, 3 * width) * raw.scale.double()[:, None] + raw.bias.double()
    q, k, v = x.view(variants * sequences, length, heads, 3 * size).transpose(1, 2).chunk(3, dim=-1)

    def turned(z: Tensor) -> Tensor:
        first, second = z[..., : rotary // 2], z[..., rotary // 2 : rotary]
        half = torch.cat([-second, first], dim=-1)
        return torch.cat([z[..., :rotary] * cos.double() + half * sin.double(), z[..., rotary:]], dim=-1)

    exact = functional.scaled_dot_product_attention(turned(q), turned(k), v, is_causal=True)
    exact = exact.transpose(1, 2).reshape(-1, width)
    assert error(value(out, power.double().repeat_interleave(sequences * length)[:, None]), exact) < 2e-6


def scored(logits: Tensor, targets: Tensor, scale: Tensor | None = None) -> tuple[Tensor, ...]:
    """Scores in two blocks."""
    sums = ops.empty_sums(logits.shape[0], logits.shape[1], logits.device)
    for part in (slice(0, 2), slice(2, None)):
        ops.score(logits[:, part].contiguous(), targets[part], sums, part.start, scale)
    return ops.scores(sums)


@pytest.mark.parametrize("noise", [1e-3, 0.1, 2.0, 30.0])
@pytest.mark.parametrize("variants", [1, 2, 3, 4])
def test_score_has_the_definitions_of_the_measurements(noise: float, variants: int) -> None:
    vocabulary, predictions = 1500, 5
    base = normal(1, predictions, vocabulary) * 4
    others = (
        base + noise * normal(variants - 1, predictions, vocabulary, seed=1) + 3.0
    )  # a shift changes nothing
    logits = torch.cat([base, others])
    targets = torch.randint(0, vocabulary, (predictions,), generator=torch.Generator().manual_seed(2)).to(
        DEVICE
    )
    nll, kl, agrees, delta_p = scored(logits, targets)
    exact = token_values(selected(MEASUREMENTS, TokenMeasurement), logits.double(), targets)
    exact_nll, exact_kl, exact_agrees, exact_delta_p = exact.values()
    assert (nll - exact_nll).abs().max() < 1e-5
    assert ((kl - exact_kl).abs() <= 2e-4 * exact_kl.abs() + 1e-9).all()
    assert torch.equal(agrees, exact_agrees)
    assert (delta_p - exact_delta_p).abs().max() < 1e-5


def test_score_of_raw_products_is_that_of_the_scaled_ones() -> None:
    logits, scale = normal(2, 3, 700), normal(2, 700, seed=1)
    targets = torch.tensor([0, 350, 699], device=DEVICE)
    for found, exact in zip(
        scored(logits, targets, scale), scored(logits * scale[:, None], targets), strict=True
    ):
        assert torch.allclose(found, exact, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy, in the interpreter
def test_a_variant_without_finite_logits_scores_nan_and_the_others_do_not() -> None:
    logits = normal(3, 4, 50)
    logits[1, 2] = torch.nan
    found = scored(logits, torch.zeros(4, dtype=torch.int64, device=DEVICE))
    for numbers in found:
        assert torch.isnan(numbers[1, 2])
        assert torch.isfinite(numbers[0]).all()
        assert torch.isfinite(numbers[2]).all()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy, in the interpreter
@pytest.mark.parametrize("scaled", [False, True])
def test_losses_alone_are_those_of_the_definition(scaled: bool) -> None:
    logits, targets = normal(3, 4, 5000) * 8, torch.tensor([0, 2500, 4999, 7], device=DEVICE)
    logits[2, 3, 4321] = torch.nan
    scale = normal(3, 5000, seed=1) if scaled else None
    found = torch.empty(3, 6, dtype=torch.float64, device=DEVICE)
    for part in (slice(0, 2), slice(2, 4)):
        ops.losses(logits[:, part].contiguous(), targets[part], found, 1 + part.start, scale)
    true = (logits if scale is None else logits * scale[:, None]).double()
    exact = functional.cross_entropy(true.flatten(0, 1), targets.repeat(3), reduction="none").view(3, 4)
    assert torch.allclose(found[:, 1:5], exact, rtol=1e-6, atol=1e-6, equal_nan=True)
    assert torch.isnan(found[2, 4])


@pytest.mark.parametrize("biased", [False, True])
def test_powers_bring_the_bounds_of_a_norm_and_its_product_just_under_2_to_the_15(biased: bool) -> None:
    width, outs = 1100, 1030
    gain, shift = normal(width), normal(width, seed=1)
    weights, bias, factor = (
        torch.stack([normal(outs, width), 1e-3 * normal(outs, width, seed=1), 0.0 * normal(outs, width)]),
        50 * normal(outs, seed=2) if biased else None,
        torch.tensor([1.5], device=DEVICE),
    )
    sums = weights.double().square().sum(dim=2)
    apart = torch.stack([sums, sums + 1], dim=2)[..., 0]  # as they lie among other sums
    power, power_S = ops.powers(gain, shift, apart, bias, factor)
    norm = width**0.5 * gain.abs().max() + shift.norm()
    largest_S = 1.5 * (norm * sums.sqrt().amax(dim=1) + (0.0 if bias is None else bias.abs().max()))
    assert torch.equal(power, ops.norm_power(gain, shift))
    for bound, found in zip([norm, *largest_S], [*power, *power_S], strict=True):
        expected = 2.0 ** (14 - math.floor(math.log2(bound))) if bound > 0 else 2.0**15
        assert found.item() == expected
