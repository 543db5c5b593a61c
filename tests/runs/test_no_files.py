"""A pipe, a device, a huge file or a folder in place of a run's file is refused at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.base.errors import OutputError, UsageError
from pipeline.base.event_log import AppendedFile, EventLog
from pipeline.base.locks import exclusive
from pipeline.runs.folder import RunFolder
from pipeline.runs.folder_status import folder_status
from tests.runs.test_read_back import KEY, folder

__all__ = ["folder"]  # fixture


def as_pipe(path: Path) -> None:
    os.mkfifo(path)


def as_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def as_huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**37)


def as_folder(path: Path) -> None:
    path.mkdir()


NO_FILES = [as_pipe, as_device, as_huge, as_folder]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("put", NO_FILES)
def test_what_is_no_file_in_place_of_one_is_refused_at_once(
    folder: Path, put: Callable[[Path], None]
) -> None:
    out = RunFolder(folder)
    plan = out.read_plan()
    (folder / "failures/audit").mkdir(parents=True)
    for name in ("run.json", f"shards/audit/{KEY}.arrow"):
        (folder / name).unlink()
    for name in (
        "run.json", f"shards/audit/{KEY}.arrow", "tokens.npy", "events.jsonl", "report.json",
        f"failures/audit/{KEY}.json",
    ):  # fmt: skip
        put(folder / name)
    with pytest.raises(UsageError, match=r"run\.json"):
        out.read_plan()
    found = folder_status(out, plan)
    assert KEY in found.corrupt
    assert "failures" in found.failed[KEY]
    with pytest.raises(UsageError, match=r"tokens\.npy"):
        out.tokens.read()
    with pytest.raises(OutputError, match=r"events\.jsonl"):
        out.read_events()
    with pytest.raises(OutputError, match=r"report\.json"):
        out.results.read("report.json")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("put", NO_FILES[:2])
def test_a_log_and_a_lock_in_place_of_which_is_no_file_never_wait(
    tmp_path: Path, put: Callable[[Path], None]
) -> None:
    put(tmp_path / "events.jsonl")
    with EventLog(AppendedFile(tmp_path / "events.jsonl")) as log:
        log("done", key="a")
    put(tmp_path / ".lock")
    with pytest.raises(OutputError, match="lock"), exclusive(tmp_path / ".lock"):
        pass
