"""Whole or layer by layer, and in which arithmetic: from the size of the model and of the GPU, before any work."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

import pipeline.driver
from pipeline.base.errors import UsageError
from pipeline.models.memory import (
    DRAW_BYTES,
    VARIANTS_AT_ONCE,
    ModelSize,
    calibration_bytes,
    layered_bytes,
    usable_bytes,
    variant_groups,
    whole_bytes,
    widest,
)
from pipeline.runs.audit_options import AuditOptions
from pipeline.runs.audit_request import build_request
from pipeline.runs.execution_mode import choose_execution
from pipeline.runs.requests import AuditRequest
from pipeline.spec import TokenShape, Variant, parse_variants

GIB = 2**30
VARIANTS = parse_variants(("int8", "int4"))


@pytest.fixture
def options(
    llama_suite: Path, tokens_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AuditOptions:
    monkeypatch.setattr(pipeline.driver, "require_device", lambda _: None)  # as on a machine with a GPU
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


def test_one_that_does_not_is_measured_layer_by_layer_to_the_same_numbers_and_said_so(
    monkeypatch, options
) -> None:
    request = request_on(monkeypatch, GIB, options)
    assert request.stream
    assert "measured layer by layer, in up to" in request.notes[0]
    whole = request_on(monkeypatch, 80 * GIB, options)
    assert request.probe.fingerprint() == whole.probe.fingerprint()


def test_calibrating_takes_memory_of_its_own(monkeypatch, options) -> None:
    request = request_on(monkeypatch, 4 * GIB, options)

    def is_streamed(sequences: int, *variants: str) -> bool:
        asked = dataclasses.replace(options, calibration_sequences=sequences)
        found = choose_execution(
            asked, request.suite, parse_variants(variants), TokenShape(1, 4, 32), request.resources
        )
        return found.stream

    gptq = [f"int{bits}-g8-asym@gptq" for bits in range(2, 9)]
    assert not is_streamed(128, *gptq)
    assert is_streamed(100_000, *gptq)
    assert not is_streamed(100_000, "int4-g8-asym", "int3-g8-asym")
    large = ModelSize(2 * 6_857_302_016, 32, 4096, 16384, 50432, neox=True)  # Pythia-6.9b
    hidden_states = 4 * 128 * 2048 * 4096
    assert calibration_bytes(large, parse_variants(gptq), 128 * 2048) > 7 * hidden_states


def test_workers_that_share_a_gpu_have_a_share_of_its_memory(monkeypatch, options) -> None:
    shared = dataclasses.replace(options, workers_per_gpu=8)
    assert not request_on(monkeypatch, 4 * GIB, options).stream
    assert request_on(monkeypatch, 4 * GIB, shared).stream


@pytest.mark.parametrize("arithmetic", ["split", "ieee", "tf32"])
def test_any_arithmetic_is_computed_layer_by_layer(monkeypatch, options, arithmetic: str) -> None:
    asked = dataclasses.replace(options, arithmetic=arithmetic)
    forced = request_on(monkeypatch, 80 * GIB, dataclasses.replace(asked, stream=True))
    for request in (forced, request_on(monkeypatch, GIB, asked)):
        assert (request.probe.arithmetic, request.stream) == (arithmetic, True)


def test_on_a_cpu_the_worker_decides(options) -> None:
    request = build_request(dataclasses.replace(options, device="cpu"))
    execution = choose_execution(options, request.suite, VARIANTS, TokenShape(), request.resources)
    assert (execution.arithmetic, execution.stream) == ("ieee", False)
    forced = dataclasses.replace(options, device="cpu", stream=True)
    assert build_request(forced).stream
    with pytest.raises(UsageError, match="the cpu computes in ieee only"):
        build_request(dataclasses.replace(forced, arithmetic="split"))


def test_how_many_workers_a_cpu_has_memory_for_depends_on_the_vocabulary(options) -> None:
    shape, bounds = TokenShape(1, 1, 32), []
    for vocab_size in (320, 128_000):
        for config in Path(options.suite).glob("*/config.json"):
            settings = json.loads(config.read_text())
            config.write_text(json.dumps({**settings, "vocab_size": vocab_size}))
        on_cpu = dataclasses.replace(options, device="cpu", batches=1, batch_size=1)
        bounds.append(build_request(on_cpu).resources.cpu_worker_bytes)
    logits = 4 * len(VARIANTS) * shape.n_tokens * (128_000 - 320)
    assert logits < bounds[1] - bounds[0] < 8 * logits


def test_calibration_tokens_count_among_a_cpu_workers_memory(options) -> None:
    on_cpu = dataclasses.replace(options, device="cpu", batches=1, batch_size=1)
    suite, resources = build_request(on_cpu).suite, build_request(on_cpu).resources
    calibrated = parse_variants(["fp32", "int4", "int4@gptq"])
    bounds = []
    for sequences in (128, 128_000):
        asked = dataclasses.replace(on_cpu, calibration_sequences=sequences)
        bounds.append(choose_execution(asked, suite, calibrated, TokenShape(), resources).cpu_worker_bytes)
    hidden = json.loads(next(Path(options.suite).glob("*/config.json")).read_text())["hidden_size"]
    assert bounds[1] - bounds[0] > 4 * hidden * (128_000 - 128) * TokenShape().seq_len, (
        "the hidden states alone"
    )


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
    size = ModelSize(2 * parameters, 12, hidden, 4 * hidden, 50304, neox=True)
    bound_gib = whole_bytes(size, VARIANTS, TokenShape(), arithmetic) / GIB
    assert allocated_gib < bound_gib < 1.5 * allocated_gib


@pytest.mark.parametrize("arithmetic", ["split", "ieee"])
def test_layer_by_layer_the_depth_does_not_count(arithmetic: str) -> None:
    """Pythia-6.9b's shape, for which 24 GiB are allowed, and twice its layers."""
    layer, ends = 12 * 4096**2, 2 * 50432 * 4096
    once, twice = (
        ModelSize(2 * (layers * layer + ends), layers, 4096, 16384, 50432, neox=True) for layers in (32, 64)
    )
    bound = layered_bytes(once, VARIANTS, TokenShape(), arithmetic)
    assert bound < 24 * GIB
    assert 0 <= bound - layered_bytes(twice, VARIANTS, TokenShape(), arithmetic) < 0.05 * GIB
    assert whole_bytes(twice, VARIANTS, TokenShape(), arithmetic) > bound + 24 * GIB


@pytest.mark.parametrize("arithmetic", ["split", "ieee"])
def test_the_bound_grows_with_the_variants_that_are_measured_at_a_time_alone(arithmetic: str) -> None:
    def variants(count: int) -> tuple[Variant, ...]:
        return parse_variants(tuple(f"int4-g{size}-asym" for size in range(1, count)))

    size = ModelSize(2**28, 12, 768, 3072, 50304, neox=True)
    for bound in (whole_bytes, layered_bytes):
        full, many = (
            bound(size, variants(count), TokenShape(), arithmetic) for count in (VARIANTS_AT_ONCE, 113)
        )
        assert full == many
    assert [len(group) for group in variant_groups(variants(18))] == [16, 3]
    assert variant_groups(variants(1)) == [variants(1)]


def test_kept_random_numbers_count_for_controls_alone() -> None:
    size = ModelSize(2**28, 12, 768, 3072, 50304, neox=True)
    few, many = VARIANTS, parse_variants(tuple(f"int4-g{each}-asym" for each in range(1, 18)))
    for variants in (few, many):
        plain, controlled = widest(variants, ()), widest(variants, variants[1:])
        assert plain == variants
        apart = whole_bytes(size, controlled, TokenShape(), "split") - whole_bytes(
            size, plain, TokenShape(), "split"
        )
        assert apart >= DRAW_BYTES


def test_sizes_come_from_the_usual_names_of_a_config() -> None:
    widths = {"hidden_size": 8, "intermediate_size": 20, "num_hidden_layers": 3}
    llama = {"model_type": "llama", "vocab_size": 50, **widths}
    assert ModelSize.of(llama, 1000) == ModelSize(1000, 3, 8, 20, 50, neox=False)
    gpt2 = {"model_type": "gpt2", "n_embd": 8, "n_inner": None, "vocab_size": 50, "n_layer": 3}
    assert ModelSize.of(gpt2, 1000) == ModelSize(1000, 3, 8, 32, 50, neox=False)
    assert ModelSize.of({"vocab_size": 50}, 1000) is None
    assert ModelSize.of({"hidden_size": "8", "vocab_size": 50}, 1000) is None
    assert usable_bytes(80 * GIB, 2) == 36 * GIB
