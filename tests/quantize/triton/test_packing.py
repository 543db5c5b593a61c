"""The one-pass kernel against the pure verbs on the CPU, which are the definition."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from pipeline.base.errors import CheckpointError
from pipeline.quantize import Calibration, Encoded, Quantizer, round_trip
from pipeline.quantize.integer import IntegerGrid
from pipeline.quantize.statistics import grid_fit, moments
from pipeline.quantize.triton.packing import PackedWeight, pack, summarise

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SCHEMES = (
    IntegerGrid(8, None, True),
    IntegerGrid(4, 128, False),
    IntegerGrid(3, 48, True),
    IntegerGrid(2, None, False),
)


def weight_of(width: int, dtype: torch.dtype) -> Tensor:
    noise = torch.randn(7, width, generator=torch.Generator().manual_seed(width)) * 0.02
    noise[0, width // 2] = 40.0  # an outlier
    noise[1] = 0.0
    noise[2] = noise[2].abs() + 1e-3
    noise[3] = -0.37
    noise[4] *= 1e-6
    if dtype == torch.float32 or DEVICE == "cuda":  # the interpreter converts bfloat16 denormals wrongly
        noise[5] *= 2.0**-130
    return noise.to(dtype)


def values(packed: PackedWeight, scheme: int) -> Tensor:
    """float64 (O, I) that the operand of ``scheme`` stands for."""
    low, high, again = packed.operand[scheme].double().chunk(3, dim=1)
    assert torch.equal(high, again)
    return ((high + low if packed.three[scheme] else high) * packed.scale[scheme].double()[:, None]).cpu()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("width", [1, 31, 128, 300])
def test_float32_values_are_bit_equal_to_the_verbs(width: int, dtype: torch.dtype) -> None:
    weight = weight_of(width, dtype)
    packed = pack(weight.to(DEVICE), SCHEMES, full=True)
    for index, scheme in enumerate(SCHEMES):
        exact = round_trip(scheme, weight.float())
        assert torch.equal(packed.full[index].cpu(), exact), scheme


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("width", [1, 31, 300])
def test_operands_hold_the_weights(width: int, dtype: torch.dtype) -> None:
    weight = weight_of(width, dtype)[:5]
    packed = pack(weight.to(DEVICE), (None, *SCHEMES))
    stored = values(packed, 0)
    if dtype != torch.float32:
        assert not packed.three[0]
        assert (stored - weight.double()).abs().max() <= weight.double().abs().max() * 2.0**-38
    for index, scheme in enumerate((None, *SCHEMES)):
        exact = weight.float()
        if scheme is not None:
            exact = round_trip(scheme, exact)
        largest = exact.double().abs().amax(dim=1, keepdim=True)
        assert ((values(packed, index) - exact.double()).abs() <= largest * 2.0**-22).all(), scheme


def test_whole_row_grids_are_packed_as_exact_integers() -> None:
    packed = pack(weight_of(300, torch.float16).to(DEVICE), (IntegerGrid(8, None, True),))
    assert packed.three == (False,)
    high = packed.operand[0, :, 300:600].float()
    assert torch.equal(high, high.round())
    assert high.abs().max() == 127


@pytest.mark.parametrize("width", [31, 300])
def test_statistics_are_those_of_the_verbs(width: int) -> None:
    weight = weight_of(width, torch.float32)
    packed = pack(weight.to(DEVICE), SCHEMES)
    for rows in (None, 4):  # padding rows count nowhere
        counted = weight[:rows]
        mean, std, absmax, kurtosis, *fits = summarise(packed, rows).tolist()
        exact = moments(counted)
        assert (mean, std, absmax, kurtosis) == pytest.approx(
            (exact.mean, exact.std, exact.absmax, exact.kurtosis), rel=1e-9, abs=1e-15
        )
        for index, scheme in enumerate(SCHEMES):
            encoded = scheme.encode(counted)
            fit = grid_fit(counted, scheme.decode(encoded), scheme.grid_steps(counted, encoded))
            assert fits[2 * index] == pytest.approx(fit.relative_error, rel=1e-9)
            assert fits[2 * index + 1] == fit.boundary_fraction


def test_kurtosis_does_not_cancel_where_rows_differ_in_mean() -> None:
    weight = (
        torch.randn(16, 64, generator=torch.Generator().manual_seed(1)) * 1e-3 + torch.arange(16.0)[:, None]
    )
    found = summarise(pack(weight.to(DEVICE), (SCHEMES[0],)))[3].item()
    assert found == pytest.approx(moments(weight).kurtosis, rel=1e-9)


def test_a_transposed_weight_is_read_in_place() -> None:
    weight = weight_of(64, torch.float16)
    turned = weight.T.contiguous().T.to(DEVICE)
    assert torch.equal(
        pack(turned, SCHEMES, full=True).full, pack(weight.to(DEVICE), SCHEMES, full=True).full
    )


def test_row_squares_are_those_of_the_packed_rows() -> None:
    weight = weight_of(300, torch.float16)
    packed = pack(weight.to(DEVICE), (None, *SCHEMES))
    for index in range(5):
        exact = values(packed, index).double().square().sum(dim=1)
        assert torch.allclose(packed.row_squares[index].cpu(), exact, rtol=1e-6, atol=1e-30)


@dataclass(frozen=True)
class Same(Quantizer):
    """The values of ``grid``, without its kernel."""

    grid: IntegerGrid

    def __str__(self) -> str:
        return f"same as {self.grid}"

    def encode(self, weight: Tensor, calibration: Calibration | None = None) -> Encoded:
        return self.grid.encode(weight.cpu(), calibration)

    def decode(self, encoded: Encoded) -> Tensor:
        return self.grid.decode(encoded).to(DEVICE)

    def grid_steps(self, weight: Tensor, encoded: Encoded) -> Tensor | None:
        steps = self.grid.grid_steps(weight.cpu(), encoded)
        return None if steps is None else steps.to(DEVICE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("width", [31, 128])
def test_a_quantizer_without_a_kernel_is_packed_to_the_same_values(width: int, dtype: torch.dtype) -> None:
    weight = weight_of(width, dtype).to(DEVICE)
    mixed = (SCHEMES[0], Same(SCHEMES[1]), None, Same(SCHEMES[2]))
    fast = (SCHEMES[0], SCHEMES[1], None, SCHEMES[2])
    assert torch.equal(pack(weight, mixed, full=True).full, pack(weight, fast, full=True).full)
    found, exact = pack(weight, mixed), pack(weight, fast)
    for index in range(4):
        largest = (
            values(exact, index).abs().amax(dim=1, keepdim=True)
        )  # which a pair of halves keeps 22 bits of
        assert ((values(found, index) - values(exact, index)).abs() <= largest * 2.0**-22).all()
    assert torch.equal(found.moments, exact.moments)
    assert summarise(found).tolist() == pytest.approx(summarise(exact).tolist(), rel=1e-12, nan_ok=True)
    alone = pack(weight, mixed[1:2])
    assert torch.equal(values(alone, 0), values(found, 1))
    assert torch.equal(alone.moments, exact.moments)


def test_a_quantizer_that_gives_another_shape_is_refused_by_name() -> None:
    class Turned(Same):
        def decode(self, encoded: Encoded) -> Tensor:
            return super().decode(encoded).T

    with pytest.raises(
        CheckpointError, match=r"same as int8-channel-sym .*Turned.* \(4, 3\) .* wanted .* \(3, 4\)"
    ):
        pack(torch.ones(3, 4, device=DEVICE), (None, Turned(SCHEMES[0])))


def test_zeros_fit_exactly() -> None:
    summary = summarise(pack(torch.zeros(3, 130, device=DEVICE), (IntegerGrid(4, 128, False),)))
    assert summary[4:].tolist() == [0.0, 0.0]
