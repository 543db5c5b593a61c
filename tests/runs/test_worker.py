"""A task that fails leaves its reason in one line and its traceback in the failure record."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.base.errors import CheckpointError
from pipeline.base.event_log import AppendedFile, EventLog
from pipeline.runs.folder import RunFolder
from pipeline.runs.folder_status import FolderStatus
from pipeline.runs.progress import ProgressTracker
from pipeline.runs.task_values import ProbeTask
from pipeline.runs.worker import TaskWorker, traced
from pipeline.spec import Checkpoint, ProbeSpec, TokenShape, Variant


def task_in(out: Path, checkpoint: Path) -> ProbeTask:
    folder = RunFolder(out)
    folder.prepare()
    tokens = np.zeros((1, 1, 4), dtype=np.int64)
    folder.tokens.write(tokens)
    probe = ProbeSpec((Variant(),), TokenShape(1, 1, 4), "0" * 64)
    return ProbeTask("s", Checkpoint(1, "step1", str(checkpoint)), probe, str(out))


def record_of(out: Path, key: str) -> dict[str, object]:
    return json.loads((out / f"failures/audit/{key}.json").read_text())


def test_a_failure_record_keeps_the_traceback(tmp_path: Path) -> None:
    (tmp_path / "step1").mkdir()
    task = task_in(tmp_path / "out", tmp_path / "step1")
    outcome = TaskWorker(threads=1).run(task)
    folder_status = FolderStatus((), {}, {}, (task.key,), {}, (task.key,))
    log = EventLog(AppendedFile(tmp_path / "events.jsonl"))
    ProgressTracker(RunFolder(tmp_path / "out"), folder_status, lambda _: None, log).record(outcome)
    record = record_of(tmp_path / "out", task.key)
    assert record["reason"] == outcome.failure
    assert "\n" not in str(outcome.failure)
    assert str(record["traceback"]).startswith("Traceback (most recent call last)")
    assert "CheckpointError" in str(record["traceback"])
    assert "in run_probe" in str(record["traceback"])


def test_an_unexpected_error_keeps_its_cause_too(tmp_path: Path) -> None:
    (tmp_path / "step1").mkdir()
    task = task_in(tmp_path / "out", tmp_path / "step1")
    (tmp_path / "out" / "tokens.npy").write_bytes(b"")
    shutil.rmtree(tmp_path / "out" / "shards")
    outcome = TaskWorker(threads=1).run(task)
    assert outcome.failure is not None
    assert "\n" not in outcome.failure
    assert "tokens.npy" in outcome.trace


@pytest.mark.parametrize(
    "secret", ["https://u:pw1234@host/x", "https://host/x?Signature=pw1234", "hf_pw1234pw1234"]
)
def test_a_traceback_holds_no_credential(secret: str) -> None:
    try:
        try:
            raise OSError(f"no answer from {secret}")
        except OSError as cause:
            raise CheckpointError("the hub is away") from cause
    except CheckpointError as error:
        text = traced(error)
    assert "OSError: no answer from" in text
    assert "the hub is away" in text
    assert "pw1234" not in text
