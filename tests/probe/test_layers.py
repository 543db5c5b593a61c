"""Layer by layer: the numbers of the whole model, bit for bit, whichever backend computes them."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

pytest.importorskip("triton")


from pipeline.probe import Prober
from pipeline.probe.fused_choice import FusedChoice
from pipeline.probe.prober import NOTE
from pipeline.spec import ProbeSpec, TokenShape, parse_variants
from tests.models import tiny_model
from tests.probe.layered import (
    DEVICE,
    TOKENS,
    assert_near,
    both_ways,
    gpu,
    on_cpu,
    prober,
    save,
    spec,
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "arithmetic", "settings"),
    [
        pytest.param("gpt_neox", "split", {}, marks=gpu),  # on a CPU: test_gpu_engine.py's variants in groups
        ("gpt_neox", "split", {"use_parallel_residual": False}),
        pytest.param("llama", "split", {}, marks=gpu),
        pytest.param("qwen2", "ieee", {"tie_word_embeddings": True}, marks=gpu),
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
    if settings and DEVICE.type == "cpu":  # once is enough: comparing the paths takes half of the time
        monkeypatch.setattr(FusedChoice, "allows", lambda *_: True)
    whole, layered = both_ways(spec(arithmetic), folder, monkeypatch)
    assert (whole.notes, layered.notes) == ((), (NOTE,))
    assert layered.weights_sha256 == whole.weights_sha256
    assert layered.results == whole.results


@pytest.mark.slow
def test_the_experts_of_a_mixture_go_through_the_kernels_too(tmp_path) -> None:
    probe = spec("split")
    folder = save(tmp_path, "olmoe", num_experts=2, num_experts_per_tok=1, num_hidden_layers=1)
    whole, layered = prober(probe).measure(folder), prober(probe).measure_layers(folder)
    assert layered.results == whole.results
    assert_near(whole, on_cpu(probe, folder))


def test_a_warm_state_goes_both_ways_one_after_the_other(tmp_path) -> None:
    probe, folder = spec("ieee"), save(tmp_path, "qwen2", tie_word_embeddings=True, num_hidden_layers=1)
    layers_first, whole_first = prober(probe), prober(probe)
    found = [
        way(folder).results
        for way in (
            layers_first.measure_layers,
            layers_first.measure,
            whole_first.measure,
            whole_first.measure_layers,
        )
    ]
    assert found[0] == found[1] == found[2] == found[3]


@gpu
def test_the_probers_share_what_is_warm_and_say_which_way_they_went(tmp_path) -> None:
    folder = save(tmp_path, "gpt_neox")
    whole = Prober(spec("split"), TOKENS, "cuda")
    exact = whole.measure(folder)
    whole.layer_by_layer.prefetch(folder, exact.weights_sha256)
    for layered in (whole.layer_by_layer, Prober(spec("split"), TOKENS, "cuda").layer_by_layer):
        found = layered.measure(folder, exact.weights_sha256)
        assert (found.results, found.notes) == (exact.results, (NOTE,))


@gpu
@pytest.mark.parametrize("architecture", ["gpt_neox", "llama"])
def test_gpu_memory_is_bounded_by_the_width_and_not_by_the_depth(tmp_path, architecture: str) -> None:
    tokens = np.random.default_rng(0).integers(0, 300, (1, 2, 64))
    probe = ProbeSpec(parse_variants(("int8", "int4")), TokenShape(1, 2, 64), "", None, "split")

    def peak(layers: int, way: str = "measure_layers") -> int:
        folder = tmp_path / f"{layers}"
        if not folder.exists():
            wide = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": layers}
            tiny_model(architecture, **wide).half().save_pretrained(folder)
        gc.collect()
        before = torch.cuda.memory_allocated()
        return getattr(Prober(probe, tokens, "cuda"), way)(folder).peak_bytes - before

    peak(3)  # what the libraries keep
    shallow, deep = peak(3), peak(16)
    layer = 2 * (4 * 1024**2 + 2 * 1024 * 4096)
    # Whether the next layer is there at the fullest moment of the one at hand is a matter of time.
    assert deep - shallow < 2 * layer, "thirteen more layers cost nothing"
    assert peak(16, "measure") > deep + 8 * layer, "which the whole model does not"
