"""The draws against published numbers, and the weights of controls against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from pipeline.base.errors import UsageError
from pipeline.quantize import Variant, parse_variants, round_trip
from pipeline.quantize.control_variant import ControlVariant, Perturbed
from pipeline.quantize.controls import Control, ControlKind, ControlSettings
from pipeline.quantize.draws import Draws, Stream
from pipeline.quantize.integer import IntegerGrid
from pipeline.quantize.perturbing import RoundingErrors, perturbed

CPU = torch.device("cpu")
GRID = IntegerGrid(4, 16, False)
WIDTH = 40
"""Two groups and a half."""


def weight_of(rows: int = 12) -> Tensor:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(3)) * 0.05


def under(
    control: Control, weight: Tensor, name: str = "layers.0.up", grid: IntegerGrid | None = GRID
) -> Tensor:
    return round_trip(Perturbed(grid, control, name), weight)


def groups(matrix: Tensor) -> list[Tensor]:
    """One group a row: 16 weights, 16 and the 8 that are left."""
    return [part.contiguous() for part in matrix.split(16, dim=1)]


def test_words_are_those_of_splitmix64() -> None:
    """The first numbers that the authors' program gives for the seed 1234567."""
    found = Stream(1234567, CPU).words(5).numpy().view(np.uint64)
    assert found.tolist() == [
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821,
    ]  # fmt: skip


def test_draws_have_their_laws() -> None:
    stream = Stream.of(0, "test", "a", CPU)
    coins = stream.coins(200_001)
    assert coins.shape == (200_001,)
    assert abs(coins.double().mean().item() - 0.5) < 4 * 0.5 / 200_001**0.5
    assert stats.kstest(stream.normals(50_001).numpy(), "norm").pvalue > 1e-3
    orders = stream.permutations(6000, 4)
    _, counts = np.unique(orders.numpy(), axis=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-3


def test_streams_of_other_seeds_uses_and_names_are_independent() -> None:
    start = Stream.of(0, "signs", "a", CPU).coins(40_000)
    for other in (
        Stream.of(1, "signs", "a", CPU),
        Stream.of(0, "gaussian", "a", CPU),
        Stream.of(0, "signs", "b", CPU),
    ):
        same = (start == other.coins(40_000)).double().mean().item()
        assert abs(same - 0.5) < 4 * 0.5 / 40_000**0.5


def test_kept_draws_are_those_that_were_drawn() -> None:
    like, blocks = torch.empty(30, 64), torch.empty(60, 32)
    keeping, fresh, bytes_of_coins = Draws(1 << 20), Draws(), like.numel()
    for _ in range(2):
        for kept, drawn in ((keeping, fresh), (Draws(bytes_of_coins), fresh)):
            assert torch.equal(kept.coins(1, "signs", "a", like), drawn.coins(1, "signs", "a", like))
            assert torch.equal(
                kept.normals(1, "gaussian", "a", like), drawn.normals(1, "gaussian", "a", like)
            )
            assert torch.equal(
                kept.permutations(1, "p", "a", blocks), drawn.permutations(1, "p", "a", blocks)
            )
    stream = Stream.of(1, "signs", "a", CPU)
    assert torch.equal(keeping.coins(1, "signs", "a", like).flatten(), stream.coins(like.numel()))
    assert torch.equal(
        keeping.permutations(1, "p", "a", blocks).sort(dim=1).values, torch.arange(32).expand(60, 32)
    )
    for other in (keeping.coins(2, "signs", "a", like), keeping.coins(1, "signs", "b", like)):
        assert not torch.equal(other, keeping.coins(1, "signs", "a", like))
    assert keeping.coins(1, "signs", "a", torch.empty(5, 7)).shape == (5, 7), "another model"


@pytest.mark.parametrize("kind", ["signs", "permuted", "gaussian", "relative"])
def test_a_control_is_the_same_with_kept_draws(kind: ControlKind) -> None:
    weight, keeping = weight_of(), Draws(1 << 24)
    for _ in range(2):  # the first call draws, the second must find the draw unchanged
        found = perturbed(RoundingErrors(weight, draws=keeping), Control(kind, 0.5, 3), GRID, "a")
        assert torch.equal(found, perturbed(RoundingErrors(weight), Control(kind, 0.5, 3), GRID, "a"))


def test_part_of_a_stream_does_not_depend_on_its_length() -> None:
    stream = Stream.of(7, "signs", "a", CPU)
    assert torch.equal(stream.coins(1000)[:77], stream.coins(77))
    assert torch.equal(stream.normals(1001)[:77], stream.normals(77))


def test_a_line_goes_along_the_rounding_error() -> None:
    weight = weight_of()
    error = round_trip(GRID, weight) - weight
    for amount in (-1.0, -0.5, 0.5, 2.0):
        assert torch.equal(under(Control("line", amount), weight), weight + amount * error)


def test_signs_keep_magnitudes() -> None:
    weight = weight_of(400)
    error = round_trip(GRID, weight) - weight
    found = [under(Control("signs", 1.0, seed), weight) - weight for seed in (0, 1)]
    for each in found:
        assert torch.allclose(each.abs(), error.abs(), atol=2e-8)  # what adding to the weight rounds off
    large = error.abs() > 1e-6
    signs = [(each * error)[large].sign() for each in found]
    for product in (*signs, signs[0] * signs[1]):
        assert abs(product.mean().item()) < 4 / product.numel() ** 0.5


@pytest.mark.parametrize("width", [16, None])
def test_a_permutation_stays_within_its_group(width: int | None) -> None:
    weight, grid = weight_of(), IntegerGrid(4, width, False)
    error = round_trip(grid, weight) - weight
    found = under(Control("permuted", 1.0, 0), weight, grid=grid) - weight
    assert not torch.equal(found, error)
    parts = zip(groups(found), groups(error), strict=True) if width else [(found, error)]
    for ours, given in parts:
        assert torch.allclose(ours.sort(dim=1).values, given.sort(dim=1).values, atol=1e-8)


def test_gaussian_noise_has_the_size_of_each_group() -> None:
    weight = weight_of(3000)
    weight[:, 16:32] *= 100
    error = round_trip(GRID, weight) - weight
    found = under(Control("gaussian", 1.0, 0), weight) - weight
    for ours, given in zip(groups(found), groups(error), strict=True):
        ratio = ours.double().square().mean(dim=1).sqrt() / given.double().square().mean(dim=1).sqrt()
        assert ratio.square().mean().item() == pytest.approx(1.0, abs=4 * (2 / ours.numel()) ** 0.5)
        normal = ours / given.double().square().mean(dim=1, keepdim=True).sqrt()
        assert stats.kstest(normal.flatten().numpy()[:20_000], "norm").pvalue > 1e-3


def test_relative_noise_is_a_share_of_the_matrix() -> None:
    weight = weight_of(3000)
    for share in (0.02, 0.05):
        found = under(Control("relative", share, 1), weight, grid=None) - weight
        expected = share * weight.double().square().mean().sqrt().item()
        assert found.double().square().mean().sqrt().item() == pytest.approx(expected, rel=0.01)


def test_other_matrices_have_other_draws() -> None:
    weight = weight_of()
    for kind in ("signs", "permuted", "gaussian"):
        control = Control(kind, 1.0, 0)  # type: ignore[arg-type]
        assert torch.equal(under(control, weight), under(control, weight))
        assert not torch.equal(under(control, weight), under(control, weight, "layers.1.up"))


def test_controls_are_of_the_weights_that_the_variant_quantizes() -> None:
    whole, head = (Variant.parse(text) for text in ("int4", "int4-g128-asym+head"))
    part = Variant.parse("{layers.1.*=int4-g128-asym;*=fp32}")
    line = Control("line", 0.5)
    names = ("gpt.layers.0.up", "gpt.layers.1.up")
    assert [ControlVariant.made(part, line).quantizer_of(name) is None for name in names] == [True, False]
    assert ControlVariant.made(whole, line).quantizer_of("lm_head", is_head=True) is None
    assert ControlVariant.made(head, line).quantizer_of("lm_head", is_head=True) is not None
    one = ControlVariant.made(head, line, "gpt.layers.0.")
    assert [one.quantizer_of(name) is None for name in names] == [False, True]
    assert one.quantizer_of("lm_head", is_head=True) is None
    noise = ControlVariant.made(Variant(), Control("relative", 0.02))
    assert all(noise.quantizer_of(name) is not None for name in names)


def test_one_draw_would_hide_the_scatter() -> None:
    with pytest.raises(UsageError, match="sign_seeds 1: wanted at least 2"):
        ControlSettings(sign_seeds=1)


def test_every_control_of_a_variant_differs_from_the_others() -> None:
    weight = weight_of()
    for variant in parse_variants(("int4-g16-asym",)):
        found = [
            round_trip(quantizer, weight)
            for control in ControlSettings().of(variant)
            if (quantizer := ControlVariant.made(variant, control).quantizer_of("layers.0.up")) is not None
        ]
        assert len(found) == (4 if variant.is_fp32 else 16)
        assert len({each.numpy().tobytes() for each in found}) == len(found)
