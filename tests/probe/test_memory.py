"""The memory of a probe, as the operating system accounts for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from pipeline.models.memory import cpu_worker_bytes
from pipeline.spec import TokenShape

LOGITS = """
import json, resource, sys
from pathlib import Path
import numpy as np
from pipeline.probe import Prober
from pipeline.spec import DEFAULT_VARIANTS, ProbeSpec, TokenShape, parse_variants
tokens = np.random.default_rng(0).integers(0, 64000, (1, 1, 768))
Prober(ProbeSpec(parse_variants(DEFAULT_VARIANTS), TokenShape(1, 1, 768), "x"), tokens).measure(Path(sys.argv[1]))
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
"""


@pytest.mark.slow
def test_logits_of_a_large_vocabulary_are_in_the_bound(tmp_path: Path) -> None:
    config = GPTNeoXConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, vocab_size=64000
    )
    GPTNeoXForCausalLM(config).save_pretrained(tmp_path)
    run = subprocess.run([sys.executable, "-c", LOGITS, tmp_path], check=True, capture_output=True, text=True)
    peak = json.loads(run.stdout.splitlines()[-1])
    stored = (tmp_path / "model.safetensors").stat().st_size
    bound = cpu_worker_bytes(
        json.loads((tmp_path / "config.json").read_text()), stored, 3, TokenShape(1, 1, 768)
    )
    assert bound is not None
    assert 4 * 3 * 768 * 64000 < peak < bound < 2 * peak


PROBE = """
import json, resource, sys
from pathlib import Path
import numpy as np
from pipeline.probe import Prober
from pipeline.spec import DEFAULT_VARIANTS, ProbeSpec, TokenShape, parse_variants
tokens = np.random.default_rng(0).integers(0, 20000, (1, 2, 256))
Prober(ProbeSpec(parse_variants(DEFAULT_VARIANTS), TokenShape(1, 2, 256), "x"), tokens).measure(Path(sys.argv[1]))
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
"""


@pytest.mark.slow
def test_peak_memory_is_the_weights_once_per_variant_and_once_more(tmp_path: Path) -> None:
    config = GPTNeoXConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=10,
        num_attention_heads=12,
        vocab_size=20000,
    )
    model = GPTNeoXForCausalLM(config)
    fp32_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
    model.to(torch.float16).save_pretrained(tmp_path)
    del model
    run = subprocess.run([sys.executable, "-c", PROBE, tmp_path], check=True, capture_output=True, text=True)
    peak = json.loads(run.stdout.splitlines()[-1])
    assert peak <= fp32_bytes * (1 + 3) + 2**30
    assert peak > fp32_bytes * 2, "a peak below the quantized copies would mean that nothing was measured"
