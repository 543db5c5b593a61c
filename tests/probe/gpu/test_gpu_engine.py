"""The whole GPU path against the CPU path on tiny models."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from pipeline.measurements import (
    Column,
    QuantizedWeight,
    TensorMeasurement,
    TokenBlock,
    TokenMeasurement,
    register,
    unregister,
)
from pipeline.models import memory as sizing
from pipeline.models.loading import build_model, read_config, read_weights
from pipeline.probe import Prober, fused_choice
from pipeline.probe.backend import TorchBackend
from pipeline.probe.engine import Engine
from pipeline.probe.gpu import neox, ops
from pipeline.probe.gpu.product import multiply
from pipeline.probe.gpu.triton_backend import TritonBackend
from pipeline.probe.memory_weights import ModelWeights
from pipeline.probe.prober import NOTE
from pipeline.probe.result import Measurement
from pipeline.quantize import Rule, Variant
from pipeline.quantize.integer import IntegerGrid
from pipeline.quantize.triton.packing import pack
from pipeline.spec import MEASUREMENTS, ProbeSpec, TokenShape, parse_variants
from tests.models import tiny_model

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
VOCAB, LENGTH = 16 if DEVICE.type == "cpu" else 48, 5
"""As small as they come: through the interpreter every row of every weight costs ten milliseconds."""
SHAPE = TokenShape(batches=1, batch_size=2, seq_len=LENGTH)
TOKENS = np.random.default_rng(0).integers(0, VOCAB, (1, 2, LENGTH))
gpu = pytest.mark.gpu  # too slow for the interpreter
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": VOCAB,
}
if DEVICE.type == "cpu":
    SMALL |= {"hidden_size": 8, "intermediate_size": 8}


def spec(arithmetic: str, *variants: str) -> ProbeSpec:
    return ProbeSpec(parse_variants(variants), SHAPE, "", VOCAB - 8, arithmetic)


def save(
    folder: Path,
    architecture: str = "gpt_neox",
    seed: int = 0,
    dtype: torch.dtype = torch.float16,
    **settings,
) -> Path:
    """A tiny model with biases and norms that are not the trivial ones of a fresh model."""
    if architecture == "gpt2":
        settings = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": VOCAB, **settings}
    else:
        settings = {**SMALL, **settings}
    if architecture == "gpt_neox" and DEVICE.type == "cpu":
        settings["rotary_pct"] = 0.5  # a pair of dimensions of each head is turned
    model = tiny_model(architecture, seed, **settings)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.to(dtype).save_pretrained(folder)
    return folder


def on_kernels(probe: ProbeSpec) -> Prober:
    return Prober(probe, TOKENS, str(DEVICE), backend=TritonBackend(probe, DEVICE))


def measure_on_gpu(probe: ProbeSpec, folder: Path) -> Measurement:
    return on_kernels(probe).measure(folder)


def assert_same(found: Measurement, exact: Measurement, tolerance: float = 2e-6) -> None:
    assert found.weights_sha256 == exact.weights_sha256
    for ours, theirs in zip(found.results, exact.results, strict=True):
        assert ours.nll_nats == pytest.approx(theirs.nll_nats, abs=tolerance)
        assert ours.kl_nats_mean == pytest.approx(theirs.kl_nats_mean, abs=tolerance)
        assert ours.top1_agreement == theirs.top1_agreement
        assert ours.delta_p_rms == pytest.approx(theirs.delta_p_rms, abs=tolerance)
        assert len(ours.tensors) == len(theirs.tensors)
        for left, right in zip(ours.tensors, theirs.tensors, strict=True):
            assert (left.name, left.n, left.absmax) == (right.name, right.n, right.absmax)
            assert left.kurtosis == pytest.approx(right.kurtosis, rel=1e-6, abs=1e-9)
            if right.relative_error is None:
                assert left.relative_error is None
            else:
                assert left.relative_error == pytest.approx(right.relative_error, rel=1e-9)
            assert left.boundary_fraction == right.boundary_fraction


def _entropy(block: TokenBlock) -> dict[str, torch.Tensor]:
    return {"entropy": -(block.log_p_VPK.exp() * block.log_p_VPK).sum(dim=-1)}


def _largest_change(weight: QuantizedWeight) -> dict[str, float | None]:
    if weight.quantized_OI is None:
        return {"largest_change": None}
    return {"largest_change": (weight.quantized_OI - weight.weight_OI).abs().max().item()}


@pytest.fixture
def further() -> Iterator[tuple[str, ...]]:
    """Measurements that are a plug-in's."""
    register(
        TokenMeasurement(
            "entropy", (Column("entropy_nats", "nats", "Entropy"),), _entropy, {"entropy": "float32"},
            lambda values, _: {"entropy_nats": float(values["entropy"].mean(dtype=np.float64))},
        )
    )  # fmt: skip
    register(TensorMeasurement("change", (Column("largest_change", "", "Largest change"),), _largest_change))
    yield ("entropy", "change")
    unregister("entropy")
    unregister("change")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        pytest.param({"use_parallel_residual": False, "attention_bias": False}, marks=gpu),
        pytest.param({"tie_word_embeddings": True}, marks=gpu),
    ],
    ids=["parallel", "sequential", "tied"],
)
def test_gpt_neox_is_walked_to_the_same_numbers(
    tmp_path: Path, settings: dict, further: tuple[str, ...]
) -> None:
    """Also for a quantizer and for measurements that have no kernel."""
    folder = save(tmp_path / "a", **settings)
    on_gpu, on_cpu = (
        dataclasses.replace(
            spec(arithmetic, "int8", "int4-g4-asym+head", "nf4-b64"),
            measurements=(*MEASUREMENTS, *further, "outliers", "anisotropy"),
        )
        for arithmetic in ("split", "ieee")
    )
    found, exact = measure_on_gpu(on_gpu, folder), Prober(on_cpu, TOKENS).measure(folder)
    assert found.notes == ()
    assert_same(found, exact)
    for ours, theirs in zip(found.results, exact.results, strict=True):
        assert ours.more["entropy_nats"] == pytest.approx(theirs.more["entropy_nats"], abs=1e-5)
        assert ours.more["sequence_nll_nats"] == pytest.approx(theirs.more["sequence_nll_nats"], abs=1e-6)
        for name in theirs.more.keys() - {"entropy_nats", "sequence_nll_nats"}:  # of hidden states: fp32 only
            if ours.variant == "fp32":
                assert ours.more[name] == pytest.approx(theirs.more[name], rel=1e-4)
            else:
                assert ours.more[name] is theirs.more[name] is None
        for left, right in zip(ours.tensors, theirs.tensors, strict=True):
            assert left.more == right.more
            assert (left.more["largest_change"] is None) == (ours.variant == "fp32")


@pytest.mark.parametrize("tied", [False, pytest.param(True, marks=gpu)])
def test_a_model_in_memory_has_the_numbers_of_its_checkpoint(tmp_path: Path, tied: bool) -> None:
    folder = save(tmp_path / "a", seed=2, tie_word_embeddings=tied)
    prober = on_kernels(spec("split", "int4-g4-asym"))
    model = build_model(read_config(folder), read_weights(folder)).to(DEVICE)
    found = prober.measure_model(model, torch.float16)
    assert found.results == prober.measure(folder).results
    assert found.notes == ()


@pytest.mark.parametrize(
    ("architecture", "arithmetic"), [("gpt_neox", "split"), pytest.param("qwen2", "split", marks=gpu)]
)
def test_variants_in_groups_have_the_numbers_that_they_have_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, arithmetic: str
) -> None:
    monkeypatch.setattr(sizing, "VARIANTS_AT_ONCE", 2)
    folder = save(tmp_path / "a", architecture)
    variants = ("int8", "int4-g4-asym+head")
    probe = spec(arithmetic, *variants)
    prober = on_kernels(probe)
    whole = prober.measure(folder)
    assert whole.notes == ()
    assert_same(whole, Prober(spec("ieee", *variants), TOKENS).measure(folder))
    layered = prober.layer_by_layer.measure(folder)
    assert (layered.results, layered.notes) == (whole.results, (NOTE,))


@gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_other_stored_dtypes(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = save(tmp_path / "a", dtype=dtype)
    assert_same(
        measure_on_gpu(spec("split", "int4"), folder), Prober(spec("ieee", "int4"), TOKENS).measure(folder)
    )


@pytest.mark.parametrize(
    ("architecture", "arithmetic"),
    [
        ("qwen2", "split"),
        pytest.param("gpt2", "split", marks=gpu),
        pytest.param("gpt_neox", "ieee", marks=gpu),
    ],
)
def test_any_architecture_goes_through_its_own_modules(
    tmp_path: Path, architecture: str, arithmetic: str
) -> None:
    folder = save(tmp_path / "a", architecture)
    attention = Variant(
        (Rule("*attn.*" if architecture != "gpt_neox" else "attention.*", IntegerGrid(4, 4, True)),)
    )
    on_gpu, on_cpu = (
        dataclasses.replace(each, variants=(*each.variants, attention))
        for each in (spec(arithmetic, "int4-g4-asym"), spec("ieee", "int4-g4-asym"))
    )
    found = measure_on_gpu(on_gpu, folder)
    assert found.notes == ()
    assert_same(found, Prober(on_cpu, TOKENS).measure(folder))


@gpu
def test_a_walk_that_disagrees_is_not_taken_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(tmp_path / "a")
    monkeypatch.setattr(fused_choice, "AGREEMENT", 0.0)
    found = measure_on_gpu(spec("split"), folder)
    assert "modules path taken" in found.notes[0]
    assert_same(found, Prober(spec("ieee"), TOKENS).measure(folder))


def test_losses_alone_are_those_of_the_cpu(tmp_path: Path) -> None:
    model = build_model(read_config(save(tmp_path / "a")), read_weights(tmp_path / "a"))
    split, exact = spec("split", "int4"), spec("ieee", "int4")
    ours = Engine(split, TOKENS[0], DEVICE, TritonBackend(split, DEVICE), losses_only=True)
    found = ours.run(ModelWeights(model.to(DEVICE)))
    cpu = torch.device("cpu")
    theirs = Engine(exact, TOKENS[0], cpu, TorchBackend(exact, cpu)).run(ModelWeights(model.cpu()))
    assert list(found.values) == ["nll_nats"]
    assert not found.statistics
    assert np.abs(found.values["nll_nats"] - theirs.values["nll_nats"]).max() < 5e-6


def test_what_truncation_took_from_a_product_is_given_back() -> None:
    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape))).to(DEVICE)

    schemes, features, slots = (IntegerGrid(4, 8, False), IntegerGrid(8, None, True)), 24, (0, 1, 0)
    packed = pack(normal(5, features), schemes)
    packed.operand[1, :, :features] = torch.nan  # what an exact weight leaves there
    operand, _ = ops.split(normal(1, 3 * 7, features)[0])
    raws = torch.empty(3, 7, 5, device=DEVICE)
    for v, (rows, slot) in enumerate(zip(operand.chunk(3), slots, strict=True)):
        multiply(rows, packed.operand[slot], packed.three[slot], raws[v])
    shrinkage = torch.tensor([2e-6, 1e-5, 1e-3], device=DEVICE)  # the last is none of truncation's
    raws *= (1.0 - shrinkage)[:, None, None]
    raws[1, 3] = 0.0  # tells nothing
    weights = neox._Weights(SimpleNamespace(slots=slots), packed)  # type: ignore[arg-type]
    grown = weights.grown(operand, raws, torch.ones(3, 5, device=DEVICE)).double() - 1.0
    expected = torch.tensor([2e-6, 1e-5 * 6 / 7, 0.0], device=DEVICE, dtype=torch.float64)
    assert (grown - expected[:, None]).abs().max() < 2e-7
