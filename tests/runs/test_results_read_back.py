"""Results that reductions wrote are read back; one with another value names file and field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.analysis.forks.fork_findings import ForkReport
from pipeline.analysis.trajectory.audit_report import AuditReport
from pipeline.base.errors import UsageError
from pipeline.base.typed_json import to_json
from pipeline.runs.folder import RunFolder
from pipeline.runs.result_files import REPORT, SCHEDULES
from pipeline.runs.shard_schema import FORK
from tests.runs.test_read_back import BAD_TEXTS, REFERENCE, Change, setter

REPORTS = sorted(path.parent for path in REFERENCE.rglob("report.json"))


EXPERIMENTS = sorted(path.parents[1] for path in REFERENCE.rglob("schedules.json"))


@pytest.mark.parametrize("place", REPORTS, ids=lambda path: path.name)
def test_reports_that_reductions_wrote_are_read(place: Path) -> None:
    found = RunFolder(place).results.read_as(AuditReport, REPORT)
    assert json.dumps(to_json(found), indent=1) == (place / REPORT).read_text()


@pytest.mark.parametrize("place", EXPERIMENTS, ids=lambda path: path.name)
def test_comparisons_that_reductions_wrote_are_read(place: Path) -> None:
    found = RunFolder(place, FORK).results.read_as(ForkReport, SCHEDULES)
    assert json.dumps(to_json(found), indent=1) == (place / SCHEDULES).read_text()


@pytest.mark.parametrize(
    ("file", "change", "field"),
    [
        ("report.json", setter("suite", to=...), "suite is missing"),
        ("report.json", setter("onset_step", to="late"), "onset_step is 'late'"),
        ("report.json", setter("onset_ci", to=["a", 2]), r"onset_ci\[0\] is 'a'"),
        ("report.json", setter("phases", 0, to=7), r"phases\[0\] is 7"),
        (
            "report.json",
            setter("predictors", "events", 0, "step_ci", to=3),
            r"predictors.events\[0\].step_ci",
        ),
        ("report.json", setter("kurtosis_test", "pearson_r", to=True), "kurtosis_test.pearson_r is True"),
        ("report.json", setter("verdict", to="all is well"), "verdict is 'all is well'"),
        ("report.json", setter("missing", to=[1]), r"missing\[0\] is 1"),
        ("report.json", setter("versions", to=[]), "versions is"),
        ("tables/schedules.json", setter("arms", to=[]), "arms is"),
        ("tables/schedules.json", setter("arms", "cosine", "runs", to="3"), "arms.cosine.runs is '3'"),
        (
            "tables/schedules.json",
            setter("comparisons", 0, "over_run", to=1),
            r"comparisons\[0\].over_run",
        ),
        (
            "tables/schedules.json",
            setter("config", "rates", "steps", to=...),
            "config.rates.steps is missing",
        ),
        ("tables/schedules.json", setter("sentences", to=[{}]), r"sentences\[0\] is"),
    ],
)
def test_a_result_with_another_value_names_file_and_field(
    tmp_path: Path, file: str, change: Change, field: str
) -> None:
    source = REFERENCE / ("schedules/cosine-seed0" if file == "report.json" else "sweeps/amplitude")
    value = json.loads((source / file).read_text())
    change(value)
    (tmp_path / "tables").mkdir()
    (tmp_path / file).write_text(json.dumps(value))
    with pytest.raises(UsageError, match=f"{file} is damaged: {field}.*int4-collapse reduce"):
        RunFolder(tmp_path).results.read_as(AuditReport if file == REPORT else ForkReport, file)


@pytest.mark.parametrize("text", BAD_TEXTS)
def test_a_result_that_is_no_json_object_is_named(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "report.json").write_bytes(text)
    with pytest.raises(UsageError, match=r"report\.json is damaged"):
        RunFolder(tmp_path).results.read_as(AuditReport, REPORT)
