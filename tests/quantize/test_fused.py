"""The one-pass kernel against the pure verbs on the CPU, which are the definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from pipeline.quantize import choose_params, grid_fit, moments, round_trip
from pipeline.quantize.fused import PackedWeight, pack, row_norms, summarise
from pipeline.spec import Scheme

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SCHEMES = (Scheme(8, None, True), Scheme(4, 128, False), Scheme(3, 48, True), Scheme(2, None, False))


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
        exact = round_trip(weight.float(), choose_params(weight.float(), scheme))
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
            exact = round_trip(exact, choose_params(exact, scheme))
        largest = exact.double().abs().amax(dim=1, keepdim=True)
        assert ((values(packed, index) - exact.double()).abs() <= largest * 2.0**-22).all(), scheme


def test_whole_row_grids_are_packed_as_exact_integers() -> None:
    packed = pack(weight_of(300, torch.float16).to(DEVICE), (Scheme(8, None, True),))
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
            grid = choose_params(counted, scheme)
            fit = grid_fit(counted, round_trip(counted, grid), grid)
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


def test_row_norms_bound_the_packed_rows() -> None:
    weight = weight_of(300, torch.float16)
    packed = pack(weight.to(DEVICE), (None, *SCHEMES))
    for index in range(5):
        norms = values(packed, index).norm(dim=1)
        assert (row_norms(packed)[index].cpu() >= norms).all()
        assert (row_norms(packed)[index].cpu() <= norms * (1 + 1e-5) + 1e-30).all()


def test_a_grid_that_the_kernel_does_not_compute_is_refused() -> None:
    class Logarithmic(Scheme):
        """A grid of other values under the same fields."""

    with pytest.raises(TypeError, match="Logarithmic"):
        pack(torch.ones(3, 4, device=DEVICE), (None, Logarithmic(4, None, True)))


def test_zeros_fit_exactly() -> None:
    summary = summarise(pack(torch.zeros(3, 130, device=DEVICE), (Scheme(4, 128, False),)))
    assert summary[4:].tolist() == [0.0, 0.0]
