"""Whole or layer by layer, and in which arithmetic: from the size of the model and of the GPU, before any work."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import pipeline.driver
from jobs.request import AuditOptions, build_request
from jobs.way import Way, choose_way
from pipeline.audit import AuditRequest
from pipeline.errors import UsageError
from pipeline.sizing import ModelSize, usable_bytes, whole_bytes
from pipeline.spec import TokenShape, parse_variants

GIB = 2**30
VARIANTS = parse_variants(("int8", "int4"))


@pytest.fixture
def options(llama_suite: Path, tokens_file: str, tmp_path: Path) -> AuditOptions:
    return AuditOptions(
        suite=str(llama_suite), out=str(tmp_path / "out"), corpus=tokens_file, device="cuda", batches=1, seq_len=32
    )  # fmt: skip


def request_on(monkeypatch: pytest.MonkeyPatch, memory: int | None, options: AuditOptions) -> AuditRequest:
    monkeypatch.setattr(pipeline.driver, "gpu_memory", lambda resources: memory)
    return build_request(options)


def test_a_model_that_fits_the_gpu_is_measured_whole(monkeypatch, options) -> None:
    pytest.importorskip("triton")
    request = request_on(monkeypatch, 80 * GIB, options)
    assert (request.probe.arithmetic, request.stream, request.notes) == ("split", False, ())
    unknown = request_on(monkeypatch, None, options)
    assert (unknown.probe.arithmetic, unknown.stream) == ("split", False)


def test_one_that_does_not_is_measured_layer_by_layer_and_said_so(monkeypatch, options) -> None:
    request = request_on(monkeypatch, GIB, options)
    assert (request.probe.arithmetic, request.stream) == ("ieee", True)
    assert "measured layer by layer, in arithmetic ieee" in request.notes[0]
    whole = request_on(monkeypatch, 80 * GIB, options)
    assert request.probe.fingerprint() != whole.probe.fingerprint()


def test_workers_that_share_a_gpu_have_a_share_of_its_memory(monkeypatch, options) -> None:
    shared = dataclasses.replace(options, workers_per_gpu=8)
    assert not request_on(monkeypatch, 4 * GIB, options).stream
    assert request_on(monkeypatch, 4 * GIB, shared).stream


def test_an_arithmetic_that_needs_the_whole_is_refused_where_it_does_not_fit(monkeypatch, options) -> None:
    asked = dataclasses.replace(options, arithmetic="split")
    with pytest.raises(UsageError, match=r"--arithmetic split: as a whole .* layer by layer .* ieee only"):
        request_on(monkeypatch, GIB, asked)
    asked = dataclasses.replace(options, arithmetic="ieee")
    assert request_on(monkeypatch, GIB, asked).stream


def test_on_a_cpu_the_worker_decides(options) -> None:
    request = build_request(dataclasses.replace(options, device="cpu"))
    way = choose_way(options, request.suite, VARIANTS, TokenShape(), request.resources)
    assert way == Way("ieee")


@pytest.mark.parametrize(
    ("parameters", "hidden", "arithmetic", "allocated_gib"),
    [
        (162_322_944, 768, "split", 4.98),
        (162_322_944, 768, "ieee", 4.49),
        (1_414_647_808, 2048, "split", 13.2),
    ],
)
def test_the_bound_holds_what_was_measured_and_not_much_more(
    parameters: int, hidden: int, arithmetic: str, allocated_gib: float
) -> None:
    """Pythia's shapes at 32 x 4 x 512 tokens and three variants on an H100: outputs/reference/benchmark."""
    size = ModelSize(2 * parameters, hidden, 4 * hidden, 50304, neox=True)
    bound_gib = whole_bytes(size, VARIANTS, TokenShape(), arithmetic) / GIB
    assert allocated_gib < bound_gib < 1.5 * allocated_gib


def test_sizes_come_from_the_usual_names_of_a_config() -> None:
    llama = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 20, "vocab_size": 50}
    assert ModelSize.of(llama, 1000) == ModelSize(1000, 8, 20, 50, neox=False)
    gpt2 = {"model_type": "gpt2", "n_embd": 8, "n_inner": None, "vocab_size": 50}
    assert ModelSize.of(gpt2, 1000) == ModelSize(1000, 8, 32, 50, neox=False)
    assert ModelSize.of({"vocab_size": 50}, 1000) is None
    assert ModelSize.of({"hidden_size": "8", "vocab_size": 50}, 1000) is None
    assert usable_bytes(80 * GIB, 2) == 36 * GIB
