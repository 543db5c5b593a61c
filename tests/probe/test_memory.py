"""The memory of a probe, as the operating system accounts for it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from pipeline.models.memory import cpu_worker_bytes
from pipeline.spec import TokenShape, Variant
from tests.models import save_tiny_model

PROBES = """
import ctypes, json, sys
from pathlib import Path
import numpy as np
import torch
from pipeline.probe import Prober
from pipeline.spec import ProbeSpec, TokenShape, parse_variants
torch.set_num_threads(1)
def kib(name):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
def peak(way, folder, vocabulary, length):
    shape = TokenShape(1, 1, length)
    tokens = np.random.default_rng(0).integers(0, vocabulary, (1, 1, length))
    prober = Prober(ProbeSpec(parse_variants(("int8", "int4")), shape, tokens_sha256="0" * 64), tokens)
    ctypes.CDLL(None).malloc_trim(0)  # what was freed is no room for what comes
    before = kib("VmRSS:")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of what came before, imports above all
    getattr(prober, way)(folder)
    return [1024 * before, 1024 * kib("VmHWM:")]
small, shallow, deep, many_ids = map(Path, sys.argv[1:])
peak("measure_layers", small, 300, 32)
print(json.dumps([
    peak("measure_layers", shallow, 300, 32), peak("measure_layers", deep, 300, 32), peak("measure", deep, 300, 32),
    peak("measure", many_ids, 64_000, 768),
]))
"""
WIDTH, INNER, SHALLOW, DEEP = 256, 1024, 3, 20
LAYER = 4 * (WIDTH * WIDTH * 2 + 2 * WIDTH * WIDTH // 2 + 3 * WIDTH * INNER)
"""Bytes of one layer in float32; of four heads two share their keys and values."""
VARIANTS = 3
SPARE = 64 * 2**20
"""Temporaries."""


@dataclass(frozen=True)
class Peaks:
    """Bytes by which the memory of one process grew at most, probe after probe."""

    shallow: int
    deep: int
    whole: int
    many_ids: int
    """Of all that the process has, not the growth."""
    folder: Path


@pytest.fixture(scope="module")
def peaks(tmp_path_factory: pytest.TempPathFactory) -> Peaks:
    folder: Path = tmp_path_factory.mktemp("memory")
    save_tiny_model("llama", folder / "small")
    for name, depth in (("shallow", SHALLOW), ("deep", DEEP)):
        wide = {"hidden_size": WIDTH, "intermediate_size": INNER}
        save_tiny_model("llama", folder / name, num_hidden_layers=depth, **wide)
    config = GPTNeoXConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, vocab_size=64_000
    )
    GPTNeoXForCausalLM(config).save_pretrained(folder / "many-ids")
    names = ("small", "shallow", "deep", "many-ids")
    ran = subprocess.run(
        [sys.executable, "-c", PROBES, *(str(folder / name) for name in names)],
        check=True, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    found = json.loads(ran.stdout.splitlines()[-1])
    shallow, deep, whole = (after - before for before, after in found[:3])
    return Peaks(shallow, deep, whole, found[3][1], folder)


@pytest.mark.slow
def test_the_whole_model_is_there_once_per_variant_and_once_more(peaks: Peaks) -> None:
    weights = DEEP * LAYER
    assert peaks.whole <= weights * (1 + VARIANTS) + SPARE
    assert peaks.whole > weights * VARIANTS, "below the quantized copies nothing would have been measured"


@pytest.mark.slow
def test_layer_by_layer_memory_is_bounded_by_the_width_and_not_by_the_depth(peaks: Peaks) -> None:
    assert peaks.deep <= 2 * LAYER * (1 + VARIANTS) + SPARE, "two layers under every variant, and temporaries"
    assert peaks.deep - peaks.shallow < 6 * LAYER, "seventeen more layers cost nothing"


@pytest.mark.slow
def test_logits_of_a_large_vocabulary_are_in_the_bound(peaks: Peaks) -> None:
    folder = peaks.folder / "many-ids"
    stored = (folder / "model.safetensors").stat().st_size
    config = json.loads((folder / "config.json").read_text())
    bound = cpu_worker_bytes(config, stored, (Variant(),) * VARIANTS, TokenShape(1, 1, 768))
    assert bound is not None
    assert 4 * VARIANTS * 768 * 64_000 < peaks.many_ids < bound < 2 * peaks.many_ids
