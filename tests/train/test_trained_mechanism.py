"""The mechanism of a model that has been trained: in a fork's rows, and by two kinds of noise of one size."""

import dataclasses

import numpy as np
import polars as pl
import pytest
import torch

from pipeline.analysis.forks.fork_table import fork_table
from pipeline.analysis.statistics.mechanism_factors import ControlledLoss, factor_columns
from pipeline.analysis.trajectory.mechanism.trace_check import trace_checks
from pipeline.measurements import squared_error
from pipeline.probe import Prober
from pipeline.quantize.controls import ControlSettings
from pipeline.runs.folder import RunFolder
from pipeline.runs.shard import Origin
from pipeline.runs.shard_schema import FORK
from pipeline.runs.task_values import ProbeTask
from pipeline.runs.tasks import run_fork, shard_rows
from pipeline.spec import MEASUREMENTS, ProbeSpec, parse_variants
from pipeline.suites import fetch
from pipeline.train import pretrain
from tests.forks import RATES, fork_task


@pytest.fixture(scope="module")
def suite(micro, tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite") / "micro"
    pretrain(micro, folder, device="cpu")
    return folder


def with_controls(task):
    """The same task with the controls of its INT4."""
    probe = dataclasses.replace(task.spec.probe, mechanism=task.spec.probe.variants[2:])
    return dataclasses.replace(task, spec=dataclasses.replace(task.spec, probe=probe))


def test_a_fork_has_the_factors_of_every_probe(suite, tmp_path):
    task = with_controls(fork_task(suite, tmp_path / "out"))
    run_fork(task)
    shard = RunFolder(task.out, FORK).shards.read(task.key)
    assert not shard.lacks(task.spec.probe.config())
    table = fork_table([shard])
    int4, fp32 = (table.filter(pl.col("variant") == name) for name in ("int4-g128-asym", "fp32"))
    assert len(int4) == 5 * 3
    product = np.prod([int4[name].to_numpy() for name in ("error_size", "sensitivity", "alignment")], axis=0)
    assert product == pytest.approx((int4["nll_nats"] - fp32["nll_nats"]).to_numpy(), rel=1e-12)
    assert table.filter(pl.col("variant") == "int8-channel-sym")["alignment"].null_count() == 5 * 3
    assert fp32["noise_5pct_nats"].is_finite().all()


def test_a_fork_that_diverges_has_controls_that_are_not_finite(suite, tmp_path):
    rates = dataclasses.replace(RATES, base_lr=1e30, peak_lr=1e30)
    task = with_controls(fork_task(suite, tmp_path / "out", rates=rates))
    run_fork(task)
    table = fork_table([RunFolder(task.out, FORK).shards.read(task.key)])
    assert set(table["status"]) == {"diverged"}
    late = table.filter((pl.col("step") == table["step"].max()) & (pl.col("variant") == "int4-g128-asym"))
    assert late["alignment"].is_nan().all()


def test_signs_shuffles_and_gaussian_noise_of_one_size_cost_the_same(suite, tmp_path):
    """All three measure the curvature that D meets on average: 1 within their errors."""
    task = fork_task(suite, tmp_path / "out")
    tokens = RunFolder(task.out, FORK).tokens.read()
    fp32, int3 = parse_variants(("int3-g32-asym",))
    many = ControlSettings(sign_seeds=32, permuted_seeds=32, gaussian_seeds=32)
    spec = ProbeSpec((fp32, int3), task.spec.probe.shape, "x", mechanism=(int3,), controls=many)
    torch.set_num_threads(1)
    measured = Prober(spec, tokens).measure(fetch(task.checkpoint))
    base, row = shard_rows("micro", task.checkpoint, measured)
    found = ControlledLoss.of(row, base)
    columns = factor_columns(found, squared_error(row["tensors"]))
    assert columns["sensitivity"] > 0
    for name in ("permuted_ratio", "gaussian_ratio"):
        assert 0 < columns[f"{name}_se"] < 0.5
        assert abs(columns[name] - 1) < 3.5 * columns[f"{name}_se"], name


def test_the_trace_predicts_what_noise_costs(suite, tmp_path):
    """Hutchinson's trace over each matrix, by autograd, against losses under noise: two ways that share no code."""
    task = fork_task(suite, tmp_path / "out")
    tokens = RunFolder(task.out, FORK).tokens.read()
    fp32, int3 = parse_variants(("int3-g32-asym",))
    many = ControlSettings(sign_seeds=64, permuted_seeds=2, gaussian_seeds=64, relative_seeds=64)
    names = (*MEASUREMENTS, "flatness")
    spec = ProbeSpec(
        (fp32, int3), task.spec.probe.shape, "x", measurements=names, mechanism=(int3,), controls=many
    )
    torch.set_num_threads(1)
    measured = Prober(spec, tokens).measure(fetch(task.checkpoint))
    probe = ProbeTask("micro", task.checkpoint, spec, str(tmp_path / "audit"))
    folder = RunFolder(probe.out)
    folder.prepare()
    folder.shards.write(probe, shard_rows("micro", task.checkpoint, measured), Origin({}))
    found = trace_checks([folder.shards.read(probe.key)])
    assert [(each.variant, each.noise, each.share) for each in found] == [
        ("fp32", "relative", 0.02),
        ("fp32", "relative", 0.05),
        ("int3_g32_asym", "signs", 1.0),
        ("int3_g32_asym", "gaussian", 1.0),
    ]
    for each in found:
        assert each.agrees, each
        assert 0 < each.predicted_se < 0.2 * each.predicted_nats, (
            "an interval that holds everything shows nothing"
        )
    signs = found[2]
    assert signs.measured_nats + 3 * signs.measured_se < 2 * signs.predicted_nats, (
        "twice as much would not agree"
    )
