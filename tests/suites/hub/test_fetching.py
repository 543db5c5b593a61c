"""Downloads: whole or not there, resumed, shared, within a budget."""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from tests.forked import Forked, run_code
from tests.suites.hub.client import environment, python
from tests.suites.hub.server import Hub, serve
from tests.waiting import wait_for

SIZE = 300_000

FETCH = """
import json, time
from pathlib import Path
from pipeline.base.errors import CollapseError
from pipeline.suites import open_suite, checkout, Fetcher
from pipeline.suites.hub import download
download.CHUNK_BYTES = 10_000
suite = open_suite("org/run")
by_name = {c.revision: c for c in suite.checkpoints}
def attempt(name, **settings):
    try:
        with checkout(by_name[name], **settings) as folder:
            return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except CollapseError as error:
        return f"{type(error).__name__}: {error}"
def held():
    from huggingface_hub import constants
    found = Path(constants.HF_HOME).glob("int4-collapse/*/checkpoints/*/model.safetensors")
    there = {path.parent.name for path in found}
    return sorted(c.revision for c in suite.checkpoints if c.commit in there)
"""
NAMES = ["config.json", "model.safetensors"]


@pytest.fixture
def hub():
    hub = Hub("org/run")
    for step in range(6):
        weights = np.random.default_rng(step).bytes(SIZE)
        hub.push(f"step{step}", {"config.json": b"{}", "model.safetensors": weights, "optimizer.bin": b"x"})
    with serve(hub):
        yield hub


def run(hub, home, code, **settings):
    return python(hub, home, f"{FETCH}\n{code}", **settings)


def weights_on_disk(home: Path) -> dict[str, str]:
    files = home.glob("int4-collapse/*/checkpoints/*/model.safetensors")
    return {path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_passing_fault_is_outlived_and_the_bytes_are_right(hub, tmp_path):
    for status in (503, 429, 500):
        hub.fault("status", "step0", status=status, times=1)
    hub.fault("cut", "step1", times=3)
    hub.fault("slow", "step2")
    hub.fault("corrupt", "step3", times=1)
    hub.fault("status", "step4", file="config.json", times=2)
    hub.fault("short", "step5", times=1)
    code = "print(json.dumps([attempt(f'step{i}') for i in range(6)]))"
    assert run(hub, tmp_path, code) == [NAMES] * 6
    expected = {
        commit: hashlib.sha256(hub.commits[commit]["model.safetensors"]).hexdigest()
        for commit in hub.branches.values()
    }
    assert weights_on_disk(tmp_path) == expected


def test_what_stays_broken_is_named_with_its_reason(hub, tmp_path):
    hub.fault("status", "step0")
    hub.fault("corrupt", "step1")
    hub.fault("short", "step2")
    hub.fault("gone", "step3", file="")
    gone, corrupt, short, status = run(
        hub, tmp_path, "print(json.dumps([attempt(f'step{i}') for i in (3, 1, 2, 0)]))"
    )
    commit = hub.branches["step3"][:8]
    assert gone.startswith(
        f"CheckpointError: org/run revision step3 (commit {commit}): model.safetensors cannot be"
    )
    assert "there is no such revision" in gone
    assert "was sent with hash" in corrupt
    assert "the hub lists" in corrupt
    assert f"ends after {SIZE // 2} bytes; the hub lists {SIZE}" in short
    assert "HTTP 503, 6 times in a row" in status
    assert "http://" not in gone + corrupt + short + status
    assert not weights_on_disk(tmp_path)


def test_a_killed_download_is_continued_where_it_stopped(hub, tmp_path):
    hub.fault("stuck", "step0", times=1)
    code = f"{FETCH}\nattempt('step0')"
    folder = tmp_path / "int4-collapse" / "org--run" / "checkpoints" / hub.branches["step0"]
    part = folder / "model.safetensors.part"
    with Forked(run_code, code, env=environment(hub, tmp_path)) as child:
        wait_for(lambda: part.is_file() and part.stat().st_size > SIZE // 3, child)
        child.kill()
    there = part.stat().st_size
    assert SIZE // 3 < there < SIZE
    code = "print(json.dumps(attempt('step0')))"
    before = len(hub.log)
    assert run(hub, tmp_path, code) == NAMES
    assert hub.sent[-1] == SIZE - there, "only the rest was sent"
    assert [kind for kind, *_ in hub.log[before:]] == ["refs", "file", "lfs"]


def test_workers_of_a_node_share_one_download(hub, tmp_path):
    hub.fault("slow", "step0")
    code = f"{FETCH}\nprint(json.dumps(attempt('step0')))"
    with ExitStack() as stack:
        env = environment(hub, tmp_path)
        children = [stack.enter_context(Forked(run_code, code, env=env)) for _ in range(3)]
        assert [json.loads(child.communicate()[0]) for child in children] == [NAMES] * 3
    assert len([kind for kind, *_ in hub.log if kind == "lfs"]) == 1


def test_the_budget_holds_and_what_is_measured_goes_first(hub, tmp_path):
    code = """
budget = dict(cache_gb=2.5 * 300_000 / 1e9)
fetched = [attempt(f"step{i}", **budget) for i in range(3)]
after = held()
fetcher = Fetcher(**budget)
fetcher.ahead([by_name[f"step{i}"] for i in (3, 4, 5)], lambda checkpoint: False)
deadline = time.time() + 100
while len(held()) < 2 or held()[-1] != "step4":
    assert time.time() < deadline, held()
    time.sleep(0.05)
time.sleep(0.5)
ahead = held()
with checkout(by_name["step3"], **budget):
    time.sleep(0.5)
    used = held()
deadline = time.time() + 100
while "step5" not in held():
    assert time.time() < deadline, held()
    time.sleep(0.05)
in_the_way = attempt("step0", **budget)
small = attempt("step1", cache_gb=1e-4)
print(json.dumps([fetched, after, ahead, used, in_the_way, small]))
"""
    fetched, after, ahead, used, in_the_way, small = run(hub, tmp_path, code)
    assert fetched == [NAMES] * 3
    assert after == ["step1", "step2"], "step0 was measured and made room"
    assert ahead == ["step3", "step4"], "fetched ahead, but not step5: what waits to be measured stays"
    assert used == ["step3", "step4"]
    assert in_the_way == NAMES, "a worker's need goes before what was fetched ahead"
    assert "more than the 0.0001 GB for downloads: raise --cache-gb" in small


def test_offline_takes_what_is_there_and_names_what_is_not(hub, tmp_path):
    run(hub, tmp_path, "print(json.dumps(attempt('step0')))")
    before = len(hub.log)
    code = "print(json.dumps([attempt('step0'), attempt('step1')]))"
    there, missing = run(hub, tmp_path, code, HF_HUB_OFFLINE="1")
    assert there == NAMES
    assert "offline mode is on (HF_HUB_OFFLINE)" in missing
    assert len(hub.log) == before


def test_the_hub_clients_own_cache_is_used_and_left_alone(hub, tmp_path):
    commit = hub.branches["step0"]
    code = f"""
from huggingface_hub import snapshot_download
snapshot_download("org/run", revision={commit!r}, allow_patterns=["config.json", "model.safetensors"])
with checkout(by_name["step0"]) as folder:
    print(json.dumps(str(folder)))
"""
    assert run(hub, tmp_path, code) == str(tmp_path / "hub" / "models--org--run" / "snapshots" / commit)
    assert not weights_on_disk(tmp_path)


def test_the_token_goes_to_the_hub_and_not_to_its_file_servers(hub, tmp_path):
    hub.token = "hf_verysecrettoken"
    got = run(hub, tmp_path, "print(json.dumps(attempt('step0')))", HF_TOKEN=hub.token)
    assert got == NAMES
    assert not hub.leaked
