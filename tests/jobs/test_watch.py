"""A run is watched from its files alone, while it goes on and after."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

from pipeline.base.errors import OutputError
from pipeline.base.event_log import AppendedFile, EventLog
from tests.waiting import wait_for

Run = Callable[..., Result]


def a_run(path: Path, pause: float = 0.0) -> None:
    with EventLog(AppendedFile(path)) as log:
        log("started", command="audit", host="a", pid=1, expected=3, there=1, to_do=2)
        log("worker_joined", host="a", pid=2, node="n")
        time.sleep(pause)
        log("done", key="step1", seconds=0.5, host="a")
        log("retried", key="step2", reason="its node was lost", attempt=1)
        log("failed", key="step2", reason="NaN weights", host="a", deaths=0)
        log("finished", done=1, failed=1, seconds=2.0)


def watched(directory: Path, *options: object) -> Result:
    from click.testing import CliRunner

    from jobs.cli import main

    arguments = ["status", "--watch", "--every", "0.1", *options, directory]
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_run_is_followed_to_its_end(tmp_path: Path) -> None:
    writer = threading.Thread(target=a_run, args=(tmp_path / "events.jsonl", 1.0))
    writer.start()
    wait_for((tmp_path / "events.jsonl").exists)
    result = watched(tmp_path)
    writer.join()
    assert result.exit_code == 0
    assert "NaN weights" in result.stdout
    assert result.stdout.splitlines()[-1] == "2 done, 1 failed of 3; 1 retried"


def test_a_second_start_is_counted_afresh(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    try:
        with EventLog(AppendedFile(path)) as log:
            log("started", command="audit", host="a", pid=1, expected=3, there=0, to_do=3)
            log("done", key="step0", seconds=0.5)
            raise OutputError("full")
    except OutputError:
        pass
    a_run(path)
    events = [json.loads(line) for line in watched(tmp_path, "--json").stdout.splitlines()]
    assert [event["event"] for event in events][-1] == "finished"
    assert watched(tmp_path).stdout.splitlines()[-1].startswith("2 done, 1 failed of 3")


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    result = watched(tmp_path)
    assert result.exit_code == 2
    assert "no run has started" in result.stderr
