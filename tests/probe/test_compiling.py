"""Kernels are compiled for a GPU that is not there: all of them in the rehearsal, none when whole tokens follow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from tests.models import save_tiny_model

SCRIPT = """
import os, sys
from contextlib import contextmanager
from pathlib import Path
import numpy as np, torch, triton
from triton.backends.compiler import GPUTarget

class Hopper:
    get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))
    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device: 0)

triton.runtime.driver.set_active(Hopper())
from pipeline.probe.engine import Engine
from pipeline.probe.gpu.triton_backend import TritonBackend
from pipeline.probe.reading import Reader
from pipeline.probe.weights import LayerWeights, WholeWeights
from pipeline.quantize.triton import launch
from pipeline.spec import ProbeSpec, TokenShape, parse_variants

launch._load = lambda kernel: None  # onto a device

def binaries():
    return {path.parent.name for path in Path(os.environ["TRITON_CACHE_DIR"]).rglob("*.cubin")}

folder, length = Path(sys.argv[1]), 48
tokens = np.random.default_rng(0).integers(0, 300, (3, length))
spec = ProbeSpec(parse_variants(("int8", "int4-g16-asym")), TokenShape(1, 3, length), "", None, "split")
engine = Engine(spec, tokens, torch.device("cpu"), TritonBackend(spec, torch.device("cpu")))
filled = []
engine._measure = filled.append
reader = Reader(engine.device)
layered = sys.argv[2] == "layered"
weights = LayerWeights(folder, reader) if layered else WholeWeights(folder, reader.read(folder))
engine.run(weights)
[filled] = filled
compiled = binaries()
print(len(compiled))
token = launch._compiled.set([])
with torch.inference_mode():
    for fused in (False, True):
        one = engine._pass(filled, engine._tokens if fused else engine._few, fused=fused)
        engine._go([one], filled, 2)  # chunks of 2 and 1 sequences
        engine._score(one) if fused else list(one.logits())
print(len(binaries() - compiled))
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["whole", "layered"])
def test_the_rehearsal_compiles_every_kernel_that_a_probe_launches(tmp_path: Path, way: str) -> None:
    folder = save_tiny_model("gpt_neox", tmp_path / "model", hidden_size=64, intermediate_size=256)
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2]), "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(folder), way],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    compiled, more = map(int, ended.stdout.split())
    assert compiled >= 10
    assert more == 0
