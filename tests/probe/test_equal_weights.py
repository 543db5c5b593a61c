"""Matrices whose weights are all equal, such as output projections that training starts at zero: no kurtosis of theirs
is defined, which says nothing of the other matrices."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from pipeline.analysis.trajectory.trajectory_table import trajectory_table
from pipeline.probe import Prober
from pipeline.runs.folder import RunFolder
from pipeline.runs.fork_run import score_rows
from pipeline.runs.task_values import ProbeTask
from pipeline.runs.tasks import run_probe
from pipeline.spec import Checkpoint, ProbeSpec, TokenShape, parse_variants
from tests.models import VOCAB, tiny_model

TOKENS = np.random.default_rng(0).integers(0, VOCAB, (1, 2, 16))
SPEC = ProbeSpec(parse_variants(("int4",)), TokenShape(1, 2, 16), "x")


def save(folder: Path, zeroed: str) -> float:
    """The mean over the matrices of the blocks whose name does not hold ``zeroed``, which are zeros; by SciPy."""
    model, others = tiny_model("llama"), []
    for name, weight in model.model.layers.named_parameters():
        if weight.dim() == 2 and zeroed in name:
            weight.data.zero_()
        elif weight.dim() == 2:
            others.append(scipy.stats.kurtosis(weight.detach().double().numpy(), axis=None))
    model.save_pretrained(folder)
    return float(np.mean(others)) if others else math.nan


@pytest.mark.parametrize("zeroed", ["o_proj", "proj"], ids=["some", "all"])
def test_the_mean_kurtosis_is_that_of_the_matrices_that_have_one(tmp_path: Path, zeroed: str) -> None:
    mean, out = save(tmp_path / "step0", zeroed), RunFolder(str(tmp_path / "out"))
    expected = None if math.isnan(mean) else pytest.approx(mean, rel=1e-9)
    out.prepare()
    out.tokens.write(TOKENS)
    checkpoint = Checkpoint(0, "step0", str(tmp_path / "step0"))
    task = ProbeTask("suite", checkpoint, SPEC, str(tmp_path / "out"))
    run_probe(task)
    (row,) = trajectory_table([out.shards.read(task.key)], [checkpoint]).to_dicts()
    assert row["kurtosis"] == expected
    assert math.isfinite(row["int4_relative_error"])
    measured = Prober(SPEC, TOKENS).measure(tmp_path / "step0")
    assert [each["kurtosis"] for each in score_rows(measured, {})] == [expected, expected]
