"""The registry of measurements: what it takes, what it refuses, and what the hooks of the core give."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.base.errors import CheckpointError, UsageError
from pipeline.measurements import (
    CheckpointMeasurement,
    Column,
    QuantizedWeight,
    TensorMeasurement,
    TokenMeasurement,
    columns,
    lookup,
    parse_measurements,
    register,
    registered,
    selected,
    unregister,
)
from pipeline.measurements.hooks import checkpoint_values, tensor_values, token_columns, token_values
from pipeline.runs.shard import Lacks, Shard
from pipeline.runs.shard_schema import AUDIT_SCHEMA, FORK_SCHEMA
from pipeline.spec import CALIBRATION, MEASUREMENTS, ProbeSpec, TokenShape, Variant


def toy(name: str = "toy", column: str = "toy_mean", **changes: Any) -> TokenMeasurement:
    made = TokenMeasurement(
        name=name,
        columns=(Column(column, "nats", "Toy"),),
        per_token=lambda block: {f"{name}_value": block.logits_VPK.amax(dim=-1)},
        values={f"{name}_value": "float32"},
        summarise=lambda values, _: {column: float(values[f"{name}_value"].mean())},
    )
    return dataclasses.replace(made, **changes)


@pytest.fixture(autouse=True)
def _only_the_core_is_left() -> Iterator[None]:
    before = registered()
    yield
    for each in registered():
        if each not in before:
            unregister(each.name)


def test_the_core_comes_first_and_a_further_one_joins_the_choice() -> None:
    assert parse_measurements(()) == MEASUREMENTS
    register(toy())
    assert parse_measurements(("toy", "loss", "toy")) == (*MEASUREMENTS, "toy")
    names = [each.name for each in registered()]
    assert names[: len(MEASUREMENTS)] == list(MEASUREMENTS)
    assert "toy" in names
    assert len(set(names)) == len(names)
    with pytest.raises(UsageError, match=r"'loos'.*'loss'"):
        parse_measurements(("loos",))


@pytest.mark.parametrize(
    ("other", "both"),
    [
        (toy("toy", "other"), "two measurements are called 'toy'"),
        (toy("second", "toy_mean"), "'toy_mean' of measurement 'second' is a column of 'toy'"),
        (toy("second", "kurtosis"), "'kurtosis' of measurement 'second' is a column of 'moments'"),
        (toy("second", "weights_sha256"), "'second': its column 'weights_sha256'"),
        (
            toy("second", "other", values={"toy_value": "float32"}),
            "'second': its value 'toy_value' is one of 'toy'",
        ),
        (toy("second", columns=()), "'second' has no columns"),
        (toy("second", columns=(Column("a", "", ""), Column("a", "", ""))), "'a' of measurement 'second'"),
    ],
)
def test_what_clashes_is_refused_with_both_sides(other: TokenMeasurement, both: str) -> None:
    register(toy())
    with pytest.raises(UsageError, match=both):
        register(other)
    names = [each.name for each in registered()]
    assert names[: len(MEASUREMENTS)] == list(MEASUREMENTS)
    assert "toy" in names
    assert len(set(names)) == len(names)


def test_every_column_of_a_shard_is_a_measurements_or_reserved() -> None:
    measured = {column.name for _, column in columns()}
    for name in {*AUDIT_SCHEMA.names, *FORK_SCHEMA.names} - measured:
        with pytest.raises(UsageError, match=name):
            register(toy("clash", name))


def test_a_name_that_cannot_be_a_column_is_refused() -> None:
    with pytest.raises(UsageError, match="'a b'"):
        Column("a b", "", "")


def test_declarations_and_readers_need_no_torch() -> None:
    code = (
        "import sys, pipeline.measurements, pipeline.analysis.trajectory.reduction, pipeline.report; "
        "assert pipeline.measurements.registered(); "
        "assert not {'torch', 'transformers', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_token_level_of_the_core_is_what_its_definitions_say() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 7, 11, generator=generator) * 3
    logits[2] = logits[0]
    targets = torch.randint(11, (7,), generator=generator)
    core = selected(MEASUREMENTS, TokenMeasurement)
    found = token_values(core, logits, targets)
    p = np.exp(logits.double().numpy())
    p /= p.sum(axis=-1, keepdims=True)
    correct = p[:, np.arange(7), targets.numpy()]
    np.testing.assert_allclose(found["nll_nats"], -np.log(correct), rtol=1e-5)
    np.testing.assert_allclose(found["kl_nats"], (p[0] * np.log(p[0] / p)).sum(-1), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found["agrees"], p.argmax(-1) == p[0].argmax(-1))
    np.testing.assert_allclose(found["delta_p"], correct - correct[0], atol=1e-6)
    values = {name: np.tile(value[1].numpy(), (4, 1)) for name, value in found.items()}
    summed = token_columns(core, values, batches=2)
    assert list(summed) == [column.name for each in core for column in each.columns]
    assert summed["n_tokens"] == 28
    assert summed["perplexity"] == pytest.approx(math.exp(-np.log(correct[1]).mean()), rel=1e-5)
    assert summed["batch_nll_nats"] == pytest.approx([summed["nll_nats"]] * 2)
    assert summed["sequence_nll_nats"] == pytest.approx([summed["nll_nats"]] * 4)
    assert summed["delta_p_rms"] == pytest.approx(np.sqrt(((correct[1] - correct[0]) ** 2).mean()), rel=1e-4)


def test_logits_that_are_not_finite_are_nan_and_do_not_count_as_agreement() -> None:
    logits = torch.zeros(2, 3, 5)
    logits[1, 1] = torch.nan
    found = token_values(selected(MEASUREMENTS, TokenMeasurement), logits, torch.zeros(3, dtype=torch.int64))
    for value in found.values():
        assert value[:, [0, 2]].isfinite().all()
        assert value[1, 1].isnan()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"per_token": lambda block: {"toy_value": block.targets_P}},
            r"'toy' gave 'toy_value' the shape \(3,\)",
        ),
        ({"per_token": lambda block: {"another": block.logits_VPK[..., 0]}}, "'toy' gave the values another"),
        ({"per_token": lambda block: 1 / 0}, r"'toy' failed \(ZeroDivisionError"),
    ],
)
def test_a_token_hook_that_breaks_its_word_fails_with_its_name(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        token_values([toy(**changes)], torch.zeros(2, 3, 5), torch.zeros(3, dtype=torch.int64))


def test_memory_that_runs_out_in_a_hook_is_left_to_the_engine() -> None:
    def per_token(block: Any) -> Any:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        token_values([toy(per_token=per_token)], torch.zeros(2, 3, 5), torch.zeros(3, dtype=torch.int64))


def test_columns_that_are_not_those_declared_fail_with_the_measurements_name() -> None:
    wrong = toy(summarise=lambda values, _: {"toy_mean": "much"})
    with pytest.raises(CheckpointError, match="'toy' gave 'toy_mean' the value 'much': wanted float64"):
        token_columns([wrong], {"toy_value": np.zeros((2, 3))}, 2)


def test_the_tensor_level_gives_moments_of_the_weight_and_its_fit_to_any_grid() -> None:
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(1))
    doubled = QuantizedWeight("w", weight, weight * 1.5, Variant.parse("int4"))
    core = selected(MEASUREMENTS, TensorMeasurement)
    found = tensor_values(core, doubled)
    assert found["absmax"] == weight.abs().max().item()
    assert found["relative_error"] == pytest.approx(0.5, rel=1e-6)
    assert found["boundary_fraction"] is None, "no uniform grid, no rounding boundaries"
    plain = tensor_values(core, dataclasses.replace(doubled, quantized_OI=None))
    assert plain["relative_error"] is None
    assert plain["kurtosis"] == found["kurtosis"]


def test_the_checkpoint_level_gets_the_model_and_the_tokens() -> None:
    made = CheckpointMeasurement(
        "size", (Column("n_weights", "", "Weights", dtype="int64"),),
        lambda model, tokens: {"n_weights": sum(p.numel() for p in model.parameters()) + tokens.numel()},
    )  # fmt: skip
    found = checkpoint_values([made], torch.nn.Linear(3, 2), torch.zeros(4, 5, dtype=torch.int64))
    assert found == {"n_weights": 8 + 20}


def test_a_measurement_is_found_by_its_name() -> None:
    assert lookup("divergence").columns[0].name == "kl_nats_mean"


def test_a_calibrated_variant_is_asked_how_it_went_and_others_are_not() -> None:
    plain, gptq = Variant.parse("int4"), Variant.parse("int4@gptq")
    spec = ProbeSpec((Variant(), plain, gptq), TokenShape(1, 1, 8), "x")
    assert spec.measurements == (*MEASUREMENTS, CALIBRATION)
    assert ProbeSpec((Variant(), plain), TokenShape(1, 1, 8), "x").measurements == MEASUREMENTS
    there = Shard(
        "step000000000",
        pa.table({}),
        "",
        {},
        {},
        (),
        {},
        measured={"fp32": MEASUREMENTS, str(plain): MEASUREMENTS},
    )
    assert there.lacks(spec.config()) == Lacks(variants=(str(gptq),))  # the others are not measured again
    unsaid = dataclasses.replace(there, measured={**there.measured, str(gptq): MEASUREMENTS})
    assert unsaid.lacks(spec.config()) == Lacks(measurements=(CALIBRATION,))
