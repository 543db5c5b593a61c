"""Layer by layer on a GPU: the numbers of the whole-model path, bit for bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

pytest.importorskip("triton")

from pipeline.errors import CheckpointError
from pipeline.probe import Prober
from pipeline.probe.gpu.prober import GpuProber
from pipeline.probe.gpu.reading import Reader
from pipeline.probe.loading import read_weights
from pipeline.probe.measure import Measurement, measurement
from pipeline.probe.skeleton import WeightIndex
from pipeline.probe.streaming import NOTE, StreamingProber
from pipeline.spec import ProbeSpec, TokenShape, parse_variants
from tests.models import save_tiny_model, tiny_model

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


def prober(probe: ProbeSpec) -> GpuProber:
    return GpuProber(probe, TOKENS.reshape(-1, LENGTH), DEVICE)


def both_ways(probe: ProbeSpec, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Measurement]:
    """The checkpoint whole and layer by layer, each in chunks of one sequence by warm states of their own."""
    for name in ("walk_chunk", "module_chunk"):
        monkeypatch.setattr(f"pipeline.probe.gpu.engine.{name}", lambda *_: 1)
    ways = (prober(probe).measure, prober(probe).measure_layers)
    return [measurement(probe, DEVICE, way(folder, None)) for way in ways]


@pytest.mark.parametrize(
    ("architecture", "arithmetic", "settings"),
    [
        ("gpt_neox", "split", {}),
        ("gpt_neox", "split", {"use_parallel_residual": False}),
        ("llama", "split", {}),
        ("qwen2", "ieee", {"tie_word_embeddings": True}),
        pytest.param("gpt_neox", "split", {"tie_word_embeddings": True, "attention_bias": False}, marks=gpu),
        pytest.param("gpt_neox", "tf32", {}, marks=gpu),
        pytest.param("gpt_neox", "ieee", {}, marks=gpu),
        pytest.param("qwen2", "split", {"tie_word_embeddings": True}, marks=gpu),
        pytest.param("gpt2", "split", {}, marks=gpu),
        pytest.param("olmo2", "tf32", {}, marks=gpu),
    ],
)
def test_layer_by_layer_gives_the_numbers_of_the_whole_bit_for_bit(
    tmp_path, monkeypatch, architecture, arithmetic, settings
) -> None:
    folder = save(tmp_path, architecture, **settings)
    whole, layered = both_ways(spec(arithmetic), folder, monkeypatch)
    assert whole.notes == layered.notes == ()
    assert layered.weights_sha256 == whole.weights_sha256
    assert layered.results == whole.results
