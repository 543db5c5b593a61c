"""``--flatness STEPS``: curvature at the named checkpoints only, in the run of all the others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tests.jobs.conftest import MEASURE, trajectory
from tests.models import save_tiny_suite
from tests.run_files import read_checked

Run = Callable[..., Result]


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    return save_tiny_suite(
        "gpt_neox", tmp_path / "suite", ["step0", "step10", "step20"], initializer_range=0.1
    )


@pytest.fixture
def audit(run_here: Run, suite: Path, tokens_file: str, tmp_path: Path) -> Run:
    def call(*options: str) -> Result:
        return run_here(
            "audit", suite, "--corpus", tokens_file, "--out", tmp_path / "out", *MEASURE, *options
        )

    return call


def traces(out: Path) -> dict[int, float | None]:
    """Trace of the Hessian by step, of the checkpoints whose shard has the column."""
    tables = [read_checked(path) for path in sorted((out / "shards" / "audit").glob("*.arrow"))]
    return {
        table["step"][0].as_py(): table["hessian_trace"][0].as_py()
        for table in tables
        if "hessian_trace" in table.column_names
    }


def test_only_the_named_checkpoints_are_measured_and_a_rerun_adds_others(
    audit: Run, run_here: Run, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert audit("--flatness", "10").exit_code == 0
    first = traces(out)
    assert list(first) == [10]
    assert "0 measured" in audit("--flatness", "10").stdout
    assert "0 measured" in audit().stdout, "what is there and not asked for is no reason to measure"

    others = audit("--flatness", "0,10")
    assert "1 measured" in others.stdout
    assert "each lacks flatness" in others.stdout
    assert traces(out)[10] == first[10]
    assert run_here("reduce", out).exit_code == 0
    column = trajectory(out)["hessian_trace"]
    assert column[:2].is_finite().all()
    assert column[2] is None
    added = audit("--flatness", "0,10", "--variant", "int4", "--variant", "int3-g32-sym")
    assert "3 measured" in added.stdout
    assert traces(out)[10] == first[10]
    assert (
        "0 measured" in audit("--flatness", "0,10", "--variant", "int4", "--variant", "int3-g32-sym").stdout
    )


def test_reduce_names_the_steps_that_lack_it(audit: Run, run_here: Run, tmp_path: Path) -> None:
    assert audit().exit_code == 0
    plan = tmp_path / "out" / "run.json"
    changed = json.loads(plan.read_text())
    changed["config"]["flatness"] = [20]
    plan.write_text(json.dumps(changed))
    refused = run_here("reduce", tmp_path / "out")
    assert refused.exit_code == 1
    assert "step20 lacks flatness" in refused.stderr
    assert "step10" not in refused.stderr


def test_a_repeated_checkpoint_has_the_curvature_of_the_first(
    audit: Run, suite: Path, run_here: Run, tmp_path: Path
) -> None:
    (suite / "step30").symlink_to(suite / "step10", target_is_directory=True)
    assert audit("--flatness", "30").exit_code == 0
    found = traces(tmp_path / "out")
    assert list(found) == [10, 30]
    assert found[10] == found[30]


def test_attention_without_a_second_derivative_is_said(audit: Run, run_here: Run, tmp_path: Path) -> None:
    """transformers' default on a CPU is a fused kernel that can be differentiated once."""
    assert "flatness: attention computed by plain products" in audit("--flatness", "10").stderr
    assert run_here("reduce", tmp_path / "out").exit_code == 0
    notes = json.loads((tmp_path / "out" / "report.json").read_text())["notes"]
    assert any("second derivative" in note for note in notes["step000000010"])
    assert "step000000020" not in notes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--flatness", "11"), "no step 11 among those to measure: the nearest are 0, 10, 20"),
        (("--limit", "2", "--flatness", "20"), "no step 20 among those to measure: the nearest are 0, 10"),
        (("--flatness", "late"), "--flatness late: wanted whole numbers"),
        (("--flatness", "10", "--stream"), "'flatness' needs the whole model"),
    ],
)
def test_steps_that_are_not_there_are_refused_before_any_work(
    audit: Run, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    refused = audit(*options)
    assert refused.exit_code == 2
    assert said in refused.stderr
    assert not (tmp_path / "out" / "shards").exists()
