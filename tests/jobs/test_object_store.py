"""The same run into a folder and into an object store: equal tables, whatever happens on the way."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from pipeline.runs.folder import RunFolder
from pipeline.store import lease
from tests.conftest import SECRET
from tests.jobs.conftest import MEASURE, command_here, start_here
from tests.models import save_tiny_suite
from tests.store.faults import Fault
from tests.store.server import Way
from tests.waiting import wait_for

Run = Callable[..., Result]
TABLES = ("tables/trajectory.parquet", "tables/trajectory.csv", "tables/tensors.parquet")
N = 7


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven checkpoints, the last of which repeats the first."""
    folder = tmp_path_factory.mktemp("suites") / "suite"
    save_tiny_suite("gpt_neox", folder, [f"step{n}" for n in range(N - 1)])
    shutil.copytree(folder / "step0", folder / f"step{N - 1}")
    return folder


@pytest.fixture(scope="module")
def local(suite: Path, tokens_file: str, way: Way, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run into a folder, by its ``file://`` URL."""
    out = tmp_path_factory.mktemp("local")
    done = command_here("run", suite, "--corpus", tokens_file, "--out", f"file://{out}", *MEASURE)
    assert done.exit_code == 0, done.output
    return out


def assert_same_tables(url: str, local: Path) -> None:
    for name in TABLES:
        assert RunFolder(url).results.read(name) == (local / name).read_bytes(), name


def test_a_run_into_s3_gives_the_bytes_of_a_local_one_and_every_command_reads_it(
    run_here: Run, suite: Path, tokens_file: str, local: Path, bucket: str, way: Way
) -> None:
    out = f"{bucket}/runs/a"
    done = run_here("run", suite, "--corpus", tokens_file, "--out", out, *MEASURE)
    assert done.exit_code == 0, done.output
    assert f"numbers: {out}/report.json" in done.stdout
    assert_same_tables(out, local)
    assert (RunFolder(out).results.read("report.html") or b"").startswith(b"<!doctype html>")
    assert (RunFolder(out).results.read("figures/trajectory.png") or b"").startswith(b"\x89PNG")
    status = json.loads(run_here("status", out, "--json").stdout)
    assert len(status["done"]) == status["expected"] == N
    assert run_here("reduce", out).exit_code == 0
    assert run_here("report", out).exit_code == 0
    phases = run_here("phases", f"{out}/tables/trajectory.csv", "--json")
    assert json.loads(phases.stdout)["table"] == f"{out}/tables/trajectory.csv"

    way.faults.clear()
    again = run_here("audit", suite, "--corpus", tokens_file, "--out", out, *MEASURE)
    assert f"{N} existed already" in again.stdout, again.output
    shards = [target for _, target in way.faults.requests if "shards%2Faudit" in target]
    assert len(shards) == 1, "a resume lists the shards once"
    assert not any(method == "PUT" and ".arrow" in target for method, target in way.faults.requests)


def test_faults_on_the_way_change_no_number(
    run_here: Run, suite: Path, tokens_file: str, local: Path, bucket: str, way: Way
) -> None:
    out = f"{bucket}/run"
    way.faults.add(
        Fault("status", "PUT", "000001.arrow", times=4),
        Fault("cut request", "PUT", "000002.arrow", times=2),
        Fault("cut reply", "PUT", "000003.arrow", times=1),
        Fault("cut reply", "GET", "tokens.npy", times=1),
        Fault("status", "GET", "list-type", times=1, status=503),
    )
    done = run_here("run", suite, "--corpus", tokens_file, "--out", out, *MEASURE)
    assert done.exit_code == 0, done.output
    assert "0 failed" in done.stdout
    assert_same_tables(out, local)


def test_killed_in_the_middle_and_resumed_equals_undisturbed(
    run_here: Run, suite: Path, tokens_file: str, local: Path, bucket: str, monkeypatch: pytest.MonkeyPatch,
    way: Way,
) -> None:  # fmt: skip
    out = f"{bucket}/run"
    command = ("run", suite, "--corpus", tokens_file, "--out", out, *MEASURE)
    way.faults.add(Fault("hold", "PUT", ".arrow", passed=2))
    with start_here(*command) as first:
        wait_for(lambda: way.faults.held > 0, first)
        first.kill()
    assert len(RunFolder(out).shards.list_keys()) == 2
    way.faults.clear()
    monkeypatch.setattr(lease, "EXPIRY_S", 2.0)
    monkeypatch.setattr(lease, "PULSE_S", 0.5)
    resumed = run_here(*command)
    assert resumed.exit_code == 0, resumed.output
    assert "2 shards exist already" in resumed.stdout
    assert_same_tables(out, local)


def test_a_second_driver_is_refused_by_name(
    run_here: Run, suite: Path, tokens_file: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "PULSE_S", 0.3)
    with RunFolder(f"{bucket}/run").lock():
        refused = run_here("audit", suite, "--corpus", tokens_file, "--out", f"{bucket}/run", *MEASURE)
    assert refused.exit_code == 2
    assert f"{bucket}/run is in use by process {os.getpid()} on" in refused.stderr


@pytest.mark.parametrize("command", ["audit", "reduce", "report", "status"])
def test_a_bucket_that_does_not_exist_is_wrong_usage(
    run_here: Run, suite: Path, tokens_file: str, bucket: str, command: str
) -> None:
    words = [suite, "--corpus", tokens_file, "--out"] if command == "audit" else []
    refused = run_here(command, *words, f"{bucket}x/run")
    assert refused.exit_code == 2
    assert f"{bucket}x/run: there is no bucket" in refused.stderr


def test_a_store_that_refuses_in_the_middle_stops_the_run_with_its_url_and_no_secret(
    run_here: Run, suite: Path, tokens_file: str, bucket: str, way: Way
) -> None:
    way.faults.add(Fault("status", "PUT", "000002.arrow", status=403))
    stopped = run_here("audit", suite, "--corpus", tokens_file, "--out", f"{bucket}/run", *MEASURE)
    assert stopped.exit_code == 1
    assert f"cannot write {bucket}/run/shards/audit/step000000002.arrow: access denied" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    kept = RunFolder(f"{bucket}/run").shards.list_keys()
    assert "step000000001" in kept
    for name in ("run.json", *(f"shards/audit/{key}.arrow" for key in kept)):
        assert SECRET.encode() not in (RunFolder(f"{bucket}/run").results.read(name) or b"")
