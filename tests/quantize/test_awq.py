"""AWQ against plain loops in float64 with real inputs, and what it promises of every matrix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.base.errors import UsageError
from pipeline.quantize import Calibration, CalibrationProblem, Encoded, parse_quantizer, round_trip
from pipeline.quantize.awq import ActivationAware, candidate_scales
from pipeline.quantize.integer import IntegerGrid

AUTOAWQ = Path(__file__).with_name("autoawq_0.2.9.npz")
"""What AutoAWQ 0.2.9 (no duo scaling) chooses for random matrices on a CPU; kept, as it needs older libraries.
Its limits are equal on both sides, so that it rounds some zero points otherwise."""
LLAMA = {"model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 4}
NAMES = {"q": "model.layers.0.self_attn.q_proj", "v": "model.layers.0.self_attn.v_proj"}


def inputs_of(columns: int, seed: int = 0, *, dead: bool = False) -> np.ndarray:
    """float64 (tokens, columns): correlated, of sizes far apart, off centre."""
    draw = np.random.default_rng(seed)
    inputs = draw.normal(size=(200, columns)) @ draw.normal(size=(columns, columns)) + draw.normal(
        size=columns
    )
    inputs *= np.exp(1.5 * draw.normal(size=columns))
    if dead:
        inputs[:, 3] = 0
    return inputs


def weight_of(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed + 100)
    return (0.1 * draw.standard_t(4, size=(rows, columns))).astype(np.float32)


def calibration_of(inputs: np.ndarray) -> Calibration:
    rows = torch.from_numpy(inputs)
    return Calibration(len(rows), None, rows.T @ rows / len(rows), rows.abs().mean(dim=0))


def rounded_group(group: np.ndarray, grid: IntegerGrid) -> np.ndarray:
    if grid.symmetric:
        high = 2 ** (grid.bits - 1) - 1
        scale = np.abs(group).max() / high
        return np.clip(np.round(group / scale), -high, high) * scale if scale > 0 else 0 * group
    low, high = min(0.0, group.min()), max(0.0, group.max())
    scale, largest = (high - low) / (2**grid.bits - 1), 2**grid.bits - 1
    if scale == 0:
        return 0 * group
    zero = np.round(-low / scale)
    return (np.clip(np.round(group / scale) + zero, 0, largest) - zero) * scale


def groups_of(columns: int, grid: IntegerGrid) -> list[slice]:
    size = grid.group_size or columns
    return [slice(at, min(at + size, columns)) for at in range(0, columns, size)]


def rounded(weight: np.ndarray, grid: IntegerGrid) -> np.ndarray:
    found = np.empty_like(weight)
    for row, values in enumerate(weight):
        for group in groups_of(weight.shape[1], grid):
            found[row, group] = rounded_group(values[group], grid)
    return found


def output_error(values: np.ndarray, weight: np.ndarray, inputs: np.ndarray) -> float:
    """By real products."""
    return float(np.square(inputs @ (values - weight).T).mean(axis=0).sum())


def plainly(
    weights: list[np.ndarray], inputs: np.ndarray, grid: IntegerGrid, clipped: list[bool]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The scale and the values in place of ``weights``, by loops."""
    weights = [weight.astype(np.float64) for weight in weights]
    size = np.abs(inputs).mean(axis=0)
    best_error, scale, unscaled = np.inf, np.ones(inputs.shape[1]), None
    for step in range(20):
        candidate = np.maximum(size ** (step / 20), 1e-4)
        candidate /= np.sqrt(candidate.max() * candidate.min())
        errors = [output_error(rounded(w * candidate, grid) / candidate, w, inputs) for w in weights]
        unscaled = unscaled or errors
        if sum(errors) < best_error and all(np.less_equal(errors, unscaled)):
            best_error, scale = sum(errors), candidate
    found = []
    for weight, clip in zip(weights, clipped, strict=True):
        scaled, wide = weight * scale, rounded(weight * scale, grid) / scale
        found.append(wide)
        if clip:
            for row, values in enumerate(scaled):
                for group in groups_of(len(values), grid):
                    scaled[row, group] = clipped_group(values[group], (inputs / scale)[:, group], grid)
            narrow = rounded(scaled, grid) / scale
            if output_error(narrow, weight, inputs) <= output_error(wide, weight, inputs):
                found[-1] = narrow
    return scale, found


def clipped_group(group: np.ndarray, inputs: np.ndarray, grid: IntegerGrid) -> np.ndarray:
    best_error, best = np.inf, group
    for step in range(10):
        limit = np.abs(group).max() * (1 - step / 20)
        upper = limit if grid.symmetric or not step else limit * (1 - 2**-12)
        clamped = np.clip(group, -limit, upper)
        error = np.square(inputs @ (rounded_group(clamped, grid) - group)).mean()
        if error < best_error:
            best_error, best = error, clamped
    return best


GRIDS = [
    IntegerGrid(4, 8, False),
    IntegerGrid(3, 8, True),
    IntegerGrid(3, None, False),
    IntegerGrid(2, 16, False),
]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("columns", [32, 21])
def test_scale_and_limits_are_those_of_plain_loops_over_real_products(grid, columns):
    inputs = inputs_of(columns, dead=columns == 21)
    weights = {"q": weight_of(12, columns), "v": weight_of(7, columns, 1)}
    method = ActivationAware(grid)
    given = {NAMES[name]: torch.from_numpy(weight) for name, weight in weights.items()}
    encoded = method.encode_together(given, calibration_of(inputs), LLAMA)
    scale, expected = plainly(list(weights.values()), inputs, grid, [False, True])
    assert not np.allclose(scale, 1)
    for name, values in zip(given, expected, strict=True):
        found = encoded[name]
        assert found.parameters["input_scale"].numpy() == pytest.approx(scale, rel=1e-6)
        assert method.decode(found).numpy() == pytest.approx(values, abs=1e-5 * np.abs(values).max())


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rows", [(64,), (64, 128)], ids=str)
def test_scale_and_limits_are_those_of_autoawq(bits, seed, rows):
    weights = [torch.from_numpy(weight_of(each, 64, seed + each)) for each in rows]
    method, calibration = ActivationAware(IntegerGrid(bits, 16, False)), calibration_of(inputs_of(64, seed))
    given = dict(zip(NAMES.values(), weights, strict=False))
    encoded = list(method.encode_together(given, calibration, LLAMA).values())
    with np.load(AUTOAWQ) as kept:
        scale, limits = (kept[f"{bits}-{seed}-{len(rows)}-{what}"] for what in ("scale", "limits"))
    for each in encoded:
        assert each.parameters["input_scale"].numpy() == pytest.approx(scale, rel=1e-5)
    scale_I = torch.from_numpy(scale)
    moments_II = (calibration.second_moments / torch.outer(scale_I, scale_I)).float()
    for weight, expected in zip(weights, np.split(limits, np.cumsum(rows)[:-1]), strict=True):
        largest = (weight * scale_I).view(-1, 4, 16).abs().amax(dim=-1)
        found = largest * method.limits(weight * scale_I, moments_II)
        assert np.isclose(found.numpy(), expected, rtol=1e-5).mean() >= 0.98


def test_errors_from_second_moments_are_those_of_real_products():
    weight, inputs = weight_of(40, 32), inputs_of(32)
    method, calibration = ActivationAware(IntegerGrid(3, 8, False)), calibration_of(inputs)
    scales = candidate_scales(calibration.magnitudes)
    found = method.errors(torch.from_numpy(weight), scales, calibration.second_moments.float())
    for scale, error in zip(scales, found.tolist(), strict=True):
        values = method.grid.decode(method.grid.encode(torch.from_numpy(weight) * scale)) / scale
        products = torch.from_numpy(inputs) @ (values.double() - torch.from_numpy(weight).double()).T
        assert error == pytest.approx(products.square().sum(dim=1).mean().item(), rel=1e-5)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_no_matrix_has_a_larger_error_than_rounded_to_nearest(grid, seed):
    inputs = inputs_of(24, seed)
    given = {
        f"model.layers.0.self_attn.{part}_proj": torch.from_numpy(weight_of(rows, 24, seed + rows))
        for part, rows in (("q", 5), ("k", 2), ("v", 3))
    }
    method = ActivationAware(grid)
    encoded = method.encode_together(given, calibration_of(inputs), LLAMA)
    for name, weight in given.items():
        ours, nearest = (
            output_error(values.double().numpy(), weight.double().numpy(), inputs)
            for values in (method.decode(encoded[name]), round_trip(grid, weight))
        )
        assert ours <= nearest * (1 + 1e-6)


def test_a_scale_that_helps_one_matrix_and_harms_another_is_not_taken():
    """The sum alone would take it."""
    method, calibration = ActivationAware(IntegerGrid(4, 8, False)), calibration_of(inputs_of(24, 15))
    weights = [torch.from_numpy(weight_of(rows, 24, 15 + rows)) for rows in (5, 2)]
    scales = candidate_scales(calibration.magnitudes)
    helped, harmed = (method.errors(weight, scales, calibration.second_moments.float()) for weight in weights)
    best = int((helped + harmed).argmin())
    assert harmed[best] > harmed[0]
    encoded = method.encode_together(dict(zip(NAMES.values(), weights, strict=True)), calibration, LLAMA)
    for each in encoded.values():
        chosen = int((scales - each.parameters["input_scale"]).abs().sum(dim=1).argmin())
        assert chosen not in (0, best)
        assert harmed[chosen] <= harmed[0]


def test_layers_whose_input_cannot_be_scaled_are_clipped_only():
    weight, calibration = torch.from_numpy(weight_of(16, 32)), calibration_of(inputs_of(32))
    method, name = ActivationAware(IntegerGrid(3, 8, False)), "model.layers.0.self_attn.o_proj"
    shared_heads = {**LLAMA, "num_key_value_heads": 2}
    narrow, scaled = (
        method.encode_together({name: weight}, calibration, config)[name] for config in (shared_heads, LLAMA)
    )
    assert narrow.parameters["input_scale"].eq(1).all()
    assert not scaled.parameters["input_scale"].eq(1).all()
    assert not torch.equal(method.decode(narrow), round_trip(method.grid, weight))
    unclipped = ActivationAware(method.grid, clip=False)
    plain: Encoded = unclipped.encode_together({name: weight}, calibration, shared_heads)[name]
    assert torch.equal(unclipped.decode(plain), round_trip(method.grid, weight))


def test_zero_weights_stay_zero_and_tiny_ones_are_resolved():
    calibration = calibration_of(inputs_of(16))
    method = ActivationAware(IntegerGrid(4, 8, False))
    zero = method.encode(torch.zeros(3, 16), calibration)
    assert method.decode(zero).eq(0).all()
    tiny = torch.from_numpy(weight_of(3, 16) * np.float32(1e-20))
    values = method.decode(method.encode(tiny, calibration))
    assert (values - tiny).norm() < 0.3 * tiny.norm()


@pytest.mark.parametrize(
    ("n_rows", "size", "problem"),
    [(0, 0.0, CalibrationProblem.NO_TOKENS), (5, np.inf, CalibrationProblem.NOT_FINITE)],
)
def test_a_matrix_without_usable_inputs_is_rounded_to_nearest_and_says_so(n_rows, size, problem):
    weight, method = torch.from_numpy(weight_of(3, 16)), ActivationAware(IntegerGrid(4, 8, False))
    moments, magnitudes = torch.full((16, 16), size).double(), torch.full((16,), size).double()
    encoded = method.encode(weight, Calibration(n_rows, None, moments, magnitudes))
    assert torch.equal(method.decode(encoded), round_trip(method.grid, weight))
    assert encoded.outcome is not None
    assert (encoded.outcome.problem, encoded.outcome.rounded, encoded.outcome.n_rows) == (
        problem,
        True,
        n_rows,
    )


def test_dead_columns_are_counted():
    inputs = inputs_of(21, dead=True)
    encoded = ActivationAware(IntegerGrid(4, 8, False)).encode(
        torch.from_numpy(weight_of(3, 21)), calibration_of(inputs)
    )
    assert encoded.outcome is not None
    assert encoded.outcome.dead_columns == 1
    assert not encoded.outcome.rounded


def test_names():
    method = parse_quantizer("int4-g128-asym@awq")
    assert method == ActivationAware(IntegerGrid(4, 128, False))
    assert str(parse_quantizer("int3-channel-sym@awq:clip=false")) == "int3-channel-sym@awq:clip=false"
    with pytest.raises(UsageError, match=r"mxfp4@awq: AWQ rounds to an integer grid; wanted int\{2..8\}"):
        parse_quantizer("mxfp4@awq")
    with pytest.raises(UsageError, match="clip"):
        parse_quantizer("int4-g128-asym@awq:clips=false")


def test_an_architecture_without_proven_scales_is_refused_by_name():
    method = parse_quantizer("int4-g128-asym@awq")
    method.require_model({"model_type": "gpt_neox"})
    with pytest.raises(
        UsageError, match=r"int4-g128-asym@awq: .* of gemma3_text models .* wanted one of .*gpt_neox"
    ):
        method.require_model({"model_type": "gemma3_text"})
    with pytest.raises(UsageError, match="models of unknown type"):
        method.require_model({})
