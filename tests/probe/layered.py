"""Tiny models that are measured whole and layer by layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("triton")


from pipeline.probe import Prober
from pipeline.probe.backend import TorchBackend
from pipeline.probe.gpu.triton_backend import TritonBackend
from pipeline.probe.result import Measurement
from pipeline.spec import ProbeSpec, TokenShape, parse_variants
from tests.models import tiny_model

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
VOCAB, LENGTH = 16, 4
"""As small as they come: through the interpreter every row of every weight costs milliseconds."""
TOKENS = np.random.default_rng(0).integers(0, VOCAB, (2, 1, LENGTH))
SHAPE = TokenShape(2, 1, LENGTH)
SMALL = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "vocab_size": VOCAB,
}
gpu = pytest.mark.gpu  # too slow for the interpreter
WAYS = pytest.mark.parametrize("way", ["measure", "measure_layers"])
ARITHMETICS = pytest.mark.parametrize("arithmetic", ["ieee", pytest.param("split", marks=gpu)])


def spec(arithmetic: str) -> ProbeSpec:
    return ProbeSpec(parse_variants(("int4-g4-asym+head",)), SHAPE, "", VOCAB - 4, arithmetic)


def save(folder: Path, architecture: str, seed: int = 0, **settings) -> Path:
    if architecture == "gpt2":
        settings = {"n_embd": 8, "n_layer": 2, "n_head": 1, "vocab_size": VOCAB, **settings}
    else:
        settings = {**SMALL, **settings}
    model = tiny_model(architecture, seed, **settings)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.half().save_pretrained(folder, max_shard_size="1KB")
    assert (folder / "model.safetensors.index.json").exists()
    return folder


def prober(probe: ProbeSpec) -> Prober:
    """On the device's own backend, but split products on Triton's in any case."""
    backend = TritonBackend(probe, DEVICE) if probe.arithmetic == "split" else None
    return Prober(probe, TOKENS, str(DEVICE), backend=backend)


def both_ways(probe: ProbeSpec, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Measurement]:
    """The checkpoint whole and layer by layer, each in chunks of one sequence by warm states of their own."""
    for kind in (TorchBackend, TritonBackend):
        monkeypatch.setattr(kind, "chunk", lambda *_, **__: 1)
    return [way(folder) for way in (prober(probe).measure, prober(probe).measure_layers)]


def on_cpu(probe: ProbeSpec, folder: Path) -> Measurement:
    return Prober(ProbeSpec(probe.variants, SHAPE, "", VOCAB - 4), TOKENS).measure(folder)


def assert_near(found: Measurement, exact: Measurement) -> None:
    for ours, theirs in zip(found.results, exact.results, strict=True):
        assert ours.nll_nats == pytest.approx(theirs.nll_nats, abs=2e-6)
