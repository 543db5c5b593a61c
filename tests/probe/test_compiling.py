"""Kernels are compiled for a GPU that is not there: all of them in the rehearsal, none when whole tokens follow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from tests.models import save_tiny_model

SCRIPT = """
import json, math, os, sys
from contextlib import contextmanager
from pathlib import Path
import numpy as np, torch, triton
from triton.backends.compiler import GPUTarget

class Hopper:
    get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))
    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device: 0)
    launcher_cls = staticmethod(lambda source, metadata: lambda *_: None)
    class utils:
        load_binary = staticmethod(lambda *_: (0, 0, 0, 0, 1024))
        get_device_properties = staticmethod(lambda device: {"max_shared_mem": 232_448})

triton.runtime.driver.set_active(Hopper())
from pipeline.probe import engine, fused_choice
from pipeline.probe.gpu.triton_backend import TritonBackend
from pipeline.probe.reading import Reader
from pipeline.probe.weights import LayerWeights, WholeWeights
from pipeline.spec import ProbeSpec, TokenShape, parse_variants

empty = torch.empty
torch.empty = lambda *size, **options: empty(*size, **options).fill_(1)  # what no kernel fills are numbers

class Rehearsing(TritonBackend):
    rehearsed = set()

    def chunk(self, *_, **__):
        return 2  # sequences, and 1 for the last

    @contextmanager
    def compiling(self):
        with super().compiling() as compiles:
            yield compiles
        self.rehearsed |= binaries()

def binaries():
    return {path.parent.name for path in Path(os.environ["TRITON_CACHE_DIR"]).rglob("*.cubin")}

folder, length = Path(sys.argv[1]), 48
tokens = np.random.default_rng(0).integers(0, 300, (3, length))
spec = ProbeSpec(parse_variants(("int8", "int4-g16-asym")), TokenShape(1, 3, length), "", None, "split")

def run(layered):
    cpu = torch.device("cpu")
    backend, reader = Rehearsing(spec, cpu), Reader(cpu)
    weights = LayerWeights(folder, reader) if layered else WholeWeights(folder, reader.read(folder))
    fused_choice.AGREEMENT = math.inf  # of the fused pass with the modules, neither of which computes anything
    found = engine.Engine(spec, tokens, cpu, backend).run(weights)
    assert not any("modules path taken" in note for note in found.notes), found.notes
    print(json.dumps([len(backend.rehearsed), len(binaries())]), flush=True)

for way in ("whole", "layered"):
    os.environ["TRITON_CACHE_DIR"] = f"{sys.argv[2]}/{way}"
    child = os.fork()  # with the modules, and with nothing compiled
    if not child:
        run(way == "layered")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.slow
def test_the_rehearsal_compiles_every_kernel_that_a_probe_launches(tmp_path: Path) -> None:
    folder = save_tiny_model("gpt_neox", tmp_path / "model", hidden_size=64, intermediate_size=256)
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(folder), str(tmp_path / "cache")],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    for rehearsed, launched in map(json.loads, ended.stdout.splitlines()):
        assert rehearsed >= 10
        assert launched == rehearsed
