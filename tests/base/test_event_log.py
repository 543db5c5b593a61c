"""The log of events: whole lines whatever happens, and never a reason to stop."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.base.errors import OutputError
from pipeline.base.event_log import AppendedFile, EventLog, parse_events


def test_each_event_is_one_line_with_its_time_in_utc(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(AppendedFile(path)) as log:
        log("done", key="step1\n", seconds=0.5, host=None)
        first = json.loads(path.read_text())  # there at once: a crash after it loses nothing
    assert first["event"] == "done"
    assert first["key"] == "step1\n"
    assert "host" not in first
    assert abs((datetime.now(UTC) - datetime.fromisoformat(first["time"])).total_seconds()) < 60


def test_a_log_is_continued_after_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"time": "", "event": "one"}\n{"event": "tw')
    with EventLog(AppendedFile(path)) as log:
        log("three")
    assert [event.event for event in parse_events(path.read_bytes())] == ["one", "three"]


def test_what_cannot_be_written_is_kept_until_it_can(tmp_path: Path) -> None:
    out, gone = tmp_path / "out", tmp_path / "gone"
    out.mkdir()
    with EventLog(AppendedFile(out / "events.jsonl")) as log:
        log("one")
        out.rename(gone)
        log("two")
        gone.rename(out)
        log("three")
    assert [event.event for event in parse_events((out / "events.jsonl").read_bytes())] == [
        "one",
        "two",
        "three",
    ]


def test_an_early_end_is_an_event(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with pytest.raises(OutputError), EventLog(AppendedFile(path)):
        raise OutputError("full")
    with pytest.raises(KeyboardInterrupt), EventLog(AppendedFile(path)):
        raise KeyboardInterrupt
    assert [event.reason for event in parse_events(path.read_bytes())] == ["full", "KeyboardInterrupt"]
