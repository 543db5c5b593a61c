"""Measurements of the residual stream: against hooks on the model's own layers, whichever way it is walked."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from transformers import AutoModelForCausalLM

from pipeline.base.errors import CheckpointError
from pipeline.measurements import Column, HiddenMeasurement, register, unregister
from pipeline.probe import Measurement, Prober
from pipeline.spec import MEASUREMENTS, ProbeSpec, TokenShape, parse_variants
from tests.models import VOCAB, save_tiny_model

SHAPE = TokenShape(batches=2, batch_size=2, seq_len=24)
TOKENS = np.random.default_rng(5).integers(0, VOCAB, (2, 2, 24))
SPEC = ProbeSpec(
    parse_variants(("int8", "int4")),
    SHAPE,
    "x",
    measurements=(*MEASUREMENTS, "outliers", "anisotropy", "head_rank", "weight_norm"),
)


def of_fp32(measured: Measurement) -> dict[str, Any]:
    """The further columns of fp32, which alone has any but the losses of sequences."""
    rows = [{**row.more} for row in measured.results]
    assert all(row.pop("sequence_nll_nats") for row in rows)
    assert all(value is None for row in rows[1:] for value in row.values())
    return rows[0]


def streams(folder: Path) -> list[np.ndarray]:
    """float64 (tokens, width) after each decoder layer, by hooks on the layers themselves."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    layers = max(
        (m for m in model.modules() if isinstance(m, torch.nn.ModuleList)),
        key=lambda m: sum(p.numel() for p in m.parameters()),
    )
    seen: list[Tensor] = []
    for layer in layers:
        layer.register_forward_hook(lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        model(input_ids=torch.from_numpy(TOKENS).flatten(0, 1))
    return [each.flatten(0, 1).double().numpy() for each in seen]


@pytest.mark.parametrize("architecture", ["gpt_neox", "llama", "gpt2"])
def test_outliers_and_anisotropy_are_those_of_the_models_own_layers(
    tmp_path: Path, architecture: str
) -> None:
    folder = save_tiny_model(architecture, tmp_path / "model", seed=3)
    found = of_fp32(Prober(SPEC, TOKENS).measure(folder))
    every = streams(folder)
    ratios = [np.abs(x).max() / np.sqrt((x**2).mean()) for x in every]
    kurtosis = [stats.kurtosis(x, axis=None) for x in every]
    np.testing.assert_allclose(found["residual_max_over_rms_by_layer"], ratios, rtol=1e-5)
    np.testing.assert_allclose(found["residual_kurtosis_by_layer"], kurtosis, rtol=1e-4, atol=1e-4)
    assert found["residual_max_over_rms"] == max(found["residual_max_over_rms_by_layer"])
    units = every[-1] / np.linalg.norm(every[-1], axis=1, keepdims=True)
    cosines = (units @ units.T)[~np.eye(len(units), dtype=bool)]
    assert found["anisotropy"] == pytest.approx(cosines.mean(), abs=1e-6)


@pytest.mark.parametrize("architecture", ["gpt_neox", "llama"])
def test_layer_by_layer_sees_the_same(tmp_path: Path, architecture: str) -> None:
    folder = save_tiny_model(architecture, tmp_path / "model", seed=3)
    spec = dataclasses.replace(SPEC, measurements=(*MEASUREMENTS, "outliers", "anisotropy", "weight_norm"))
    whole, layered = (
        of_fp32(each.measure(folder)) for each in (Prober(spec, TOKENS), Prober(spec, TOKENS).layer_by_layer)
    )
    assert whole == layered


def test_observing_changes_no_loss(tmp_path: Path) -> None:
    folder = save_tiny_model("gpt_neox", tmp_path / "model", seed=3)
    plain = Prober(ProbeSpec(SPEC.variants, SHAPE, "x"), TOKENS).measure(folder)
    seen = Prober(SPEC, TOKENS).measure(folder)
    for one, other in zip(plain.results, seen.results, strict=True):
        assert one.batch_nll_nats == other.batch_nll_nats


def test_head_and_weights_are_measured_as_numpy_would(tmp_path: Path) -> None:
    folder = save_tiny_model("gpt_neox", tmp_path / "model", seed=3)
    measured = Prober(SPEC, TOKENS).measure(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    singular = np.linalg.svd(model.get_output_embeddings().weight.detach().double().numpy(), compute_uv=False)
    share = singular / singular.sum()
    assert of_fp32(measured)["head_effective_rank"] == pytest.approx(
        np.exp(-(share * np.log(share)).sum()), rel=1e-6
    )
    assert of_fp32(measured)["head_top_share"] == pytest.approx(share.max(), rel=1e-6)
    by_name = dict(model.named_parameters())
    for tensor in measured.results[0].tensors:
        norm = by_name[f"{tensor.name}.weight"].detach().double().norm().item()
        assert tensor.more["weight_norm"] == pytest.approx(norm, rel=1e-6)


class _Failing:
    def __init__(self, layers: int) -> None:
        assert layers == 2

    def add(self, layer: int, hidden_RD: Tensor) -> None:
        raise ZeroDivisionError(f"in layer {layer}")

    def values(self) -> dict[str, float]:
        return {}


def test_an_observer_that_fails_is_named(tmp_path: Path) -> None:
    folder = save_tiny_model("gpt_neox", tmp_path / "model")
    register(HiddenMeasurement("failing", (Column("never", "", "Never"),), _Failing))
    try:
        spec = dataclasses.replace(SPEC, measurements=(*MEASUREMENTS, "failing"))
        with pytest.raises(
            CheckpointError, match=r"measurement 'failing' failed \(ZeroDivisionError: in layer 0\)"
        ):
            Prober(spec, TOKENS).measure(folder)
    finally:
        unregister("failing")
