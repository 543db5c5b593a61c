"""GPTQ against a float64 implementation in plain loops, and against rounding to nearest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.base.errors import UsageError
from pipeline.quantize import Calibration, CalibrationProblem, Encoded, parse_quantizer, round_trip
from pipeline.quantize.output_error import output_error

Matrix = np.ndarray


def reference_codes(
    weight: Matrix,
    moments: Matrix,
    *,
    bits: int,
    size: int,
    symmetric: bool,
    damping: float = 0.01,
    order: str = "natural",
    groups: str = "dynamic",
) -> tuple[Matrix, Matrix, Matrix]:
    """Frantar's algorithm as it is written down: one column at a time, every later column moved at once.

    Codes, and the scale and zero point of each.
    """
    w, h = weight.copy(), moments.copy()
    columns = w.shape[1]
    dead = np.diag(h) == 0
    w[:, dead] = 0.0
    mean = np.diag(h)[~dead].mean()
    h[dead, dead] = mean * (1 - damping)
    h += damping * mean * np.eye(columns)
    reached = list(range(columns))
    if order == "activation":
        reached.sort(key=lambda column: -moments[column, column])
    u = np.linalg.cholesky(np.linalg.inv(h[np.ix_(reached, reached)])).T  # inverse = L L^T = U^T U
    high = 2 ** (bits - 1) - 1 if symmetric else 2**bits - 1
    low = -high if symmetric else 0

    def chosen(values: Matrix) -> tuple[Matrix, Matrix]:
        if symmetric:
            return np.abs(values).max(axis=1) / high, np.zeros(len(values))
        least, most = values.min(axis=1).clip(max=0), values.max(axis=1).clip(min=0)
        scale = (most - least) / high
        return scale, np.round(-least / np.where(scale > 0, scale, np.inf))

    def group_of(column: int) -> slice:
        return slice(column // size * size, min(columns, (column // size + 1) * size))

    fixed = {start: chosen(w[:, group_of(start)]) for start in range(0, columns, size)}
    found: dict[int, tuple[Matrix, Matrix]] = fixed if groups == "static" else {}
    codes, scales, zeros = np.empty_like(w), np.empty_like(w), np.empty_like(w)
    for i, column in enumerate(reached):
        start = column // size * size
        if start not in found:
            found[start] = chosen(w[:, group_of(start)])
        scale, zero = scales[:, column], zeros[:, column] = found[start]
        steps = np.round(w[:, column] / np.where(scale > 0, scale, np.inf))
        codes[:, column] = np.clip(steps + zero, low, high)
        error = (w[:, column] - (codes[:, column] - zero) * scale) / u[i, i]
        for j in range(i + 1, columns):
            w[:, reached[j]] -= error * u[i, j]
    return codes, scales, zeros


def second_moments(columns: int, rows: int, seed: int) -> Tensor:
    """Of inputs that depend on each other and differ in size, as a layer's do."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    mix *= torch.linspace(-2, 1, columns, dtype=torch.float64).exp()[
        torch.randperm(columns, generator=generator)
    ]
    inputs = torch.randn(rows, columns, generator=generator, dtype=torch.float64) @ (mix / columns**0.5)
    return inputs.T @ inputs / rows


def weight_of(rows: int, columns: int, seed: int = 0) -> Tensor:
    noise = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    return noise * 0.02 * (1 + 4 * torch.rand(rows, 1, generator=torch.Generator().manual_seed(seed + 1)))


def encoded(name: str, weight: Tensor, moments: Tensor, n_rows: int = 4096) -> Encoded:
    quantizer = parse_quantizer(name)
    assert quantizer is not None
    return quantizer.encode(weight, Calibration(n_rows, second_moments=moments))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("int4-g64-asym@gptq", {"bits": 4, "size": 64, "symmetric": False}),
        ("int4-g32-sym@gptq:damping=0.05", {"bits": 4, "size": 32, "symmetric": True, "damping": 0.05}),
        ("int3-g200-asym@gptq", {"bits": 3, "size": 200, "symmetric": False}),
        ("int8-channel-sym@gptq", {"bits": 8, "size": 300, "symmetric": True}),
        ("int4-g64-asym@gptq:groups=static", {"bits": 4, "size": 64, "symmetric": False, "groups": "static"}),
        (
            "int4-g64-asym@gptq:order=activation",
            {"bits": 4, "size": 64, "symmetric": False, "order": "activation"},
        ),
        (
            "int4-g64-sym@gptq:order=activation:groups=static",
            {"bits": 4, "size": 64, "symmetric": True, "order": "activation", "groups": "static"},
        ),
    ],
)
def test_codes_are_those_of_plain_loops(name, settings):
    weight, moments = weight_of(96, 300), second_moments(300, 2000, seed=1)
    moments[7], moments[:, 7] = 0.0, 0.0  # a dead column
    found = encoded(name, weight, moments)
    expected, scale, zero = reference_codes(weight.double().numpy(), moments.numpy(), **settings)
    assert (found.codes.numpy() == expected).mean() >= 0.999
    values = parse_quantizer(name).decode(found).numpy()
    assert np.allclose(values[found.codes == expected], ((expected - zero) * scale)[found.codes == expected])
    assert found.outcome.dead_columns == 1
    assert str(parse_quantizer(name)) == name


@pytest.mark.parametrize("rows", [40, 2000], ids=["fewer tokens than columns", "more"])
@pytest.mark.parametrize("name", ["int4-g64-asym", "int4-g64-sym", "int3-g32-asym", "int4-channel-sym"])
def test_the_output_is_never_further_off_than_after_rounding_to_nearest(name, rows):
    for seed in range(3):
        moments, weight = second_moments(128, rows, seed), weight_of(48, 128, seed)
        for settings in ("", ":groups=static", ":order=activation", ":order=activation:groups=static"):
            found = encoded(f"{name}@gptq{settings}", weight, moments, rows)
            grid = parse_quantizer(name)
            gptq, nearest = (
                output_error(weight, values, moments)
                for values in (grid.decode(found), round_trip(grid, weight))
            )
            assert gptq < nearest
            assert (found.outcome.output_error, found.outcome.output_error_nearest) == (gptq, nearest)
            few = CalibrationProblem.FEW_TOKENS if rows < 128 else None
            assert found.outcome.problem is few
            assert found.outcome.damping == 0.01


def test_where_being_greedy_goes_wrong_it_is_said():
    weight, moments = weight_of(64, 256), second_moments(256, 2000, seed=0)
    outcome = encoded("int2-g64-sym@gptq", weight, moments).outcome
    assert (
        outcome.output_error > outcome.output_error_nearest
    )  # scales follow the weights that errors have moved
    assert outcome.problem is CalibrationProblem.WORSE_THAN_NEAREST
    assert not outcome.rounded


def test_inputs_that_do_not_depend_on_each_other_leave_rounding_to_nearest():
    weight = weight_of(32, 128)
    moments = torch.diag(torch.linspace(0.1, 4, 128, dtype=torch.float64))
    grid = parse_quantizer("int4-g32-asym")
    for name in ("int4-g32-asym@gptq", "int4-g32-asym@gptq:order=activation"):
        assert torch.equal(grid.decode(encoded(name, weight, moments)), round_trip(grid, weight))


def test_the_size_of_the_inputs_does_not_matter():
    weight, moments = weight_of(32, 128), second_moments(128, 1000, seed=4)
    moments[3], moments[:, 3] = 0.0, 0.0
    codes = encoded("int4-g32-asym@gptq", weight, moments).codes
    for scale in (2.0**-40, 2.0**40):
        assert torch.equal(encoded("int4-g32-asym@gptq", weight, moments * scale).codes, codes)


def test_a_dead_column_gets_the_weight_zero():
    weight, moments = weight_of(32, 128), second_moments(128, 1000, seed=5)
    moments[[3, 90]], moments[:, [3, 90]] = 0.0, 0.0
    weight[:, 3] = 5.0  # and has no part in its group's scale
    found = encoded("int4-g64-asym@gptq", weight, moments)
    values = parse_quantizer("int4-g64-asym").decode(found)
    assert not values[:, [3, 90]].any()
    assert found.outcome.dead_columns == 2
    assert found.parameters["scale"].max() < 0.1


def test_moments_without_a_factor_take_more_damping():
    singular = torch.ones(64, 64, dtype=torch.float64)
    for asked, used in ((0.0, 1e-3), (0.01, 0.01)):
        outcome = encoded(f"int4-g32-asym@gptq:damping={asked}", weight_of(8, 64), singular).outcome
        assert outcome.damping == used
        assert not outcome.rounded
    indefinite = torch.diag(torch.linspace(-0.05, 1, 64, dtype=torch.float64))
    outcome = encoded("int4-g32-asym@gptq", weight_of(8, 64), indefinite).outcome
    assert (outcome.damping, outcome.problem) == (1.0, CalibrationProblem.NOT_POSITIVE_DEFINITE)


@pytest.mark.parametrize(
    ("moments", "n_rows", "problem"),
    [
        (torch.zeros(64, 64, dtype=torch.float64), 0, CalibrationProblem.NO_TOKENS),
        (torch.zeros(64, 64, dtype=torch.float64), 9, CalibrationProblem.NO_INPUTS),
        (torch.full((64, 64), torch.nan, dtype=torch.float64), 9, CalibrationProblem.NOT_POSITIVE_DEFINITE),
    ],
)
def test_what_it_cannot_work_on_is_rounded_to_nearest_and_said(moments, n_rows, problem):
    weight, grid = weight_of(16, 64), parse_quantizer("int4-g32-asym")
    found = encoded("int4-g32-asym@gptq", weight, moments, n_rows)
    assert torch.equal(grid.decode(found), round_trip(grid, weight))
    assert (found.outcome.problem, found.outcome.rounded, found.outcome.n_rows) == (problem, True, n_rows)
    assert found.outcome.damping is None


@pytest.mark.parametrize("weight", [torch.zeros(4, 40), torch.full((4, 40), 0.3), weight_of(4, 40) * 1e-30])
def test_matrices_without_a_scale_worth_its_name_are_encoded(weight):
    found = encoded("int4-g16-asym@gptq", weight, second_moments(40, 400, seed=2))
    values = parse_quantizer("int4-g16-asym").decode(found)
    assert values.isfinite().all()
    assert (values - weight).abs().max() <= weight.abs().max()
    assert 0 <= found.codes.min() <= found.codes.max() <= 15


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nf4-b64@gptq", r"nf4-b64@gptq.*wanted int\{2..8\}"),
        ("int4-g128-asym@gptq:damping=-1", r"damping=-1.0: wanted a number from 0 to 1"),
        ("int4-g128-asym@gptq:damping=nan", r"damping=nan: wanted"),
        ("int4-g128-asym@gptq:order=best", r"order=best: wanted natural or activation"),
        ("int4-g128-asym@gptq:groups=none", r"groups=none: wanted dynamic or static"),
        ("int4-g128-asym@gptq:dampening=1", r"unknown parameter of gptq 'dampening'"),
    ],
)
def test_what_has_no_meaning_is_refused(name, reason):
    with pytest.raises(UsageError, match=reason):
        parse_quantizer(name)


def library_case() -> tuple[Tensor, Tensor]:
    """A weight (16, 256) and inputs (1024, 256); numpy's generator gives the same in every environment."""
    generator = np.random.default_rng(18)
    weight = generator.standard_normal((16, 256)) * 0.02
    mix = generator.standard_normal((256, 256)) * np.exp(generator.uniform(-2, 1, 256))
    inputs = generator.standard_normal((1024, 256)) @ mix / 16
    return torch.from_numpy(weight).float(), torch.from_numpy(inputs).float()


@pytest.mark.parametrize(
    ("name", "equal"),
    [
        ("int4-g128-asym", True),
        ("int3-channel-asym", True),
        ("int4-g128-asym_static", True),
        ("int4-g32-asym", False),
    ],
)
def test_values_are_those_of_gptqmodel(name, equal):
    """GPTQModel 7.7.0 with ``desc_act`` and ``act_group_aware`` off and damping 0.01 (``gptqmodel_values.py``).

    It does not move a block's weights before it chooses the scales of groups inside the block, so that groups of less
    than 128 columns come out a little differently.
    """
    weight, inputs = library_case()
    moments = inputs.double().T @ inputs.double() / len(inputs)
    grid, _, static = name.partition("_")
    found = encoded(f"{grid}@gptq{':groups=static' * bool(static)}", weight, moments)
    values = parse_quantizer(grid).decode(found)
    theirs = torch.from_numpy(np.load(Path(__file__).parent / "gptqmodel_7.7.0.npz")[name])
    if equal:
        assert torch.allclose(values, theirs, rtol=1e-5, atol=1e-7)
    errors = [output_error(weight, each, moments) for each in (values, theirs)]
    assert errors[0] == pytest.approx(errors[1], rel=0.01)


def test_matrices_that_share_their_inputs_are_encoded_as_each_alone():
    moments = second_moments(128, 1000, seed=6)
    weights = {"query": weight_of(32, 128, 1), "key": weight_of(8, 128, 2) * 7}
    quantizer = parse_quantizer("int4-g32-asym@gptq")
    calibration = Calibration(1000, second_moments=moments)
    for name, found in quantizer.encode_together(weights, calibration, {}).items():
        alone = quantizer.encode(weights[name], calibration)
        assert torch.equal(found.codes, alone.codes)
        assert torch.equal(quantizer.decode(found), quantizer.decode(alone))
        assert found.outcome == alone.outcome


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_groups_that_a_model_cannot_be_cut_into_are_refused_with_those_that_it_can(method):
    config = {"model_type": "gpt_neox", "hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4}
    for size in ("g8", "g16", "g32", "g200", "channel"):
        parse_quantizer(f"int4-{size}-asym@{method}").require_model(config)
    for size, width in ((24, 64), (64, 160), (128, 160)):
        with pytest.raises(
            UsageError, match=rf"@{method}: {width} input .* groups of {size}; wanted g8, g16, g32, channel"
        ):
            parse_quantizer(f"int4-g{size}-asym@{method}").require_model(config)
    gpt2 = {"model_type": "gpt2", "n_embd": 48, "n_inner": None}
    with pytest.raises(UsageError, match="48 and 192 input columns"):
        parse_quantizer(f"int4-g32-asym@{method}").require_model(gpt2)
