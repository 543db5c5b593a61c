"""``--swap STEP,STEP``: the four losses in the shards of two steps, and what the report says of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tests.jobs.conftest import MEASURE
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
    def call(*options: str, what: str = "audit") -> Result:
        return run_here(what, suite, "--corpus", tokens_file, "--out", tmp_path / "out", *MEASURE, *options)

    return call


def swaps(out: Path) -> dict[int, dict[str, list[int]]]:
    """Steps whose errors each variant got, by step."""
    tables = [read_checked(path) for path in sorted((out / "shards" / "audit").glob("*.arrow"))]
    return {
        table["step"][0].as_py(): {
            row["variant"]: [each["error_step"] for each in row["swaps"] or ()]
            for row in table.select(["variant", "swaps"]).to_pylist()
        }
        for table in tables
        if "swaps" in table.column_names
    }


def test_two_steps_get_each_others_errors_and_the_report_says_what_grew(audit: Run, tmp_path: Path) -> None:
    assert audit().exit_code == 0
    added = audit("--swap", "20,0", what="run")
    assert added.exit_code == 0, added.output
    assert "2 measured" in added.stdout
    own = {"fp32": [], "int8-channel-sym": [20], "int4-g128-asym": [20]}
    assert swaps(tmp_path / "out") == {
        0: own,
        20: {name: [0] if steps else [] for name, steps in own.items()},
    }
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    int8, int4 = report["swap"]
    assert (int8["variant"], int4["variant"]) == ("int8", "int4")
    assert (int4["early"], int4["late"]) == (0, 20)
    assert int4["late_error_on_early"]["nats"] != int4["early_damage"]["nats"]
    assert int4["sentence"] in report["verdict"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert 'id="swap"' in page
    assert int4["sentence"] in page
    assert "0 measured" in audit("--swap", "0,20").stdout
    assert "0 measured" in audit().stdout
    other = audit("--swap", "10,20")
    assert "2 measured" in other.stdout
    assert swaps(tmp_path / "out")[20]["int4-g128-asym"] == [0, 10]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--swap", "0"), "wanted two different steps"),
        (("--swap", "10,10"), "wanted two different steps"),
        (("--swap", "0,15"), "no step 15 among those to measure: the nearest are"),
        (("--swap", "0,20", "--variant", "fp32"), "no variant has rounding errors to swap"),
        (("--swap", "0,20", "--stream"), "needs the weights of two checkpoints"),
    ],
)
def test_a_swap_of_nothing_is_refused_before_any_work(
    audit: Run, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    refused = audit(*options)
    assert refused.exit_code == 2
    assert said in refused.stderr
    assert not (tmp_path / "out" / "shards").exists()
