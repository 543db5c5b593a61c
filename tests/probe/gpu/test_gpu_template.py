"""One model without weights serves the checkpoints of its shape."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("triton")
from pipeline.models.loading import read_weights
from pipeline.models.template import signature
from pipeline.probe import Prober
from tests.probe.gpu.test_gpu_engine import TOKENS, gpu, on_kernels, save, spec


@gpu
def test_a_skeleton_serves_the_checkpoints_of_its_shape_and_no_other(tmp_path: Path) -> None:
    probe = spec("split")
    prober = on_kernels(probe)
    folders = [save(tmp_path / "a", seed=1), save(tmp_path / "b", seed=2)]
    folders.append(save(tmp_path / "c", seed=3, intermediate_size=64))
    for folder in folders:
        prober.prefetch(folder)
        exact = Prober(spec("ieee"), TOKENS).measure(folder).results[0]
        assert prober.measure(folder).results[0].nll_nats == pytest.approx(exact.nll_nats, abs=2e-6)


def test_another_spelling_of_the_same_configuration_is_the_same_skeleton(tmp_path: Path) -> None:
    folder = save(tmp_path / "a")
    tensors = read_weights(folder).tensors
    before = signature(folder, tensors)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "transformers_version": "4.24.0", "dtype": "bfloat16"}) + "\n\n")
    assert signature(folder, tensors) == before
    path.write_text(json.dumps({**config, "layer_norm_eps": 1e-6}))
    assert signature(folder, tensors) != before
