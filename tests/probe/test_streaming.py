"""The walk layer by layer against the whole-model path."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pipeline.errors import CheckpointError
from pipeline.probe import Prober
from pipeline.probe.streaming import NOTE, StreamingProber
from pipeline.spec import ProbeSpec, TokenShape, parse_variants
from tests.models import ARCHITECTURES, VOCAB, save_tiny_model

SHAPE = TokenShape(3, 2, 24)
TOKENS = np.random.default_rng(0).integers(0, VOCAB, (3, 2, 24))
SPEC = ProbeSpec(
    parse_variants(("int8", "int4-g16-asym", "int4-g16-sym+head")),
    SHAPE,
    tokens_sha256="0" * 64,
    vocab_rows=300,
)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("layers", [1, 3])
def test_streamed_numbers_are_equal_bit_for_bit(tmp_path, monkeypatch, architecture, layers):
    name = "n_layer" if architecture == "gpt2" else "num_hidden_layers"
    save_tiny_model(architecture, tmp_path, seed=3, **{name: layers})
    monkeypatch.setattr("pipeline.probe.measure.CPU_CHUNK_ROWS", 4 * 24 * 4)  # chunks of 4 and of 2 sequences
    whole = Prober(SPEC, TOKENS).measure(tmp_path)
    streamed = StreamingProber(SPEC, TOKENS).measure(tmp_path, whole.weights_sha256)
    assert streamed.results == whole.results
    assert streamed.weights_sha256 == whole.weights_sha256
    assert streamed.notes == (NOTE,)
