"""The books of a run: what is left counts unfinished tasks by what they have left."""

from __future__ import annotations

from pathlib import Path

import pytest

import pipeline.runs.progress
from pipeline.base.event_log import AppendedFile, EventLog
from pipeline.driver import TaskOutcome
from pipeline.runs.folder import RunFolder
from pipeline.runs.folder_status import FolderStatus
from pipeline.runs.progress import Progress, ProgressTracker
from pipeline.runs.shard_schema import FORK


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pipeline.runs.progress, "time", clock)
    return clock


def ledger_of(folder: Path, to_do: tuple[str, ...], told: list[Progress]) -> ProgressTracker:
    found = FolderStatus((), {}, {}, to_do, {}, to_do)
    log = EventLog(AppendedFile(folder / "events.jsonl"))
    out = RunFolder(folder, FORK)
    out.prepare()
    return ProgressTracker(out, found, told.append, log)


def test_time_left_counts_what_unfinished_runs_have_done(tmp_path: Path, clock: Clock) -> None:
    told: list[Progress] = []
    ledger = ledger_of(tmp_path, ("a", "b", "c", "d"), told)
    assert ledger.progress(None).eta_s is None
    clock.now += 60
    ledger.advance({"a": 0.5, "b": 0.1})
    assert told[-1].eta_s == pytest.approx(60 * 3.4 / 0.6)
    assert told[-1].under_way == {"a": 0.5, "b": 0.1}
    clock.now += 60
    ledger.record(TaskOutcome("a"))
    assert (told[-1].done, told[-1].under_way) == (1, {"b": 0.1})
    assert told[-1].eta_s == pytest.approx(120 * 2.9 / 1.1)


def test_what_an_earlier_call_did_took_none_of_this_ones_time(tmp_path: Path, clock: Clock) -> None:
    told: list[Progress] = []
    ledger = ledger_of(tmp_path, ("a", "b"), told)
    ledger.resume({"a": 0.8})
    assert ledger.progress(None).eta_s is None
    clock.now += 60
    ledger.advance({"a": 0.9})
    assert told[-1].eta_s == pytest.approx(60 * 1.1 / 0.1)
    ledger.record(TaskOutcome("a"))
    assert told[-1].eta_s == pytest.approx(60 * 1 / 0.2)
    ledger.record(TaskOutcome("b", "its worker died 3 times"))
    assert (told[-1].eta_s, told[-1].failed) == (0, 1)
