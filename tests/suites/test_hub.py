import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import CheckpointError, UsageError
from pipeline.suites import hub, weights_sha256
from pipeline.suites.registry import HubSuite
from tests.models import save_tiny_suite
from tests.suites.standin import stand_in_hub

CHILD = """
import json, sys
from pipeline.errors import CollapseError
from pipeline.suites import fetch, open_suite
def attempt(call, *arguments):
    try:
        return str(call(*arguments))
    except CollapseError as error:
        return f"{type(error).__name__}: {error}"
suite = open_suite("some/run")
print(json.dumps({
    "steps": [c.step for c in suite.checkpoints],
    "hashes": [c.weights_sha256 for c in suite.checkpoints],
    "duplicates": [c.duplicate_of for c in suite.checkpoints],
    "skipped": suite.skipped,
    "tokenizer": suite.tokenizer,
    "fetched": [attempt(fetch, c) for c in suite.checkpoints],
    "unknown": attempt(open_suite, "no/such"),
}))
"""


@pytest.fixture(scope="module")
def branches(tmp_path_factory):
    folder = save_tiny_suite("gpt_neox", tmp_path_factory.mktemp("hub"), ["step0", "step10", "step9"])
    shutil.copytree(folder / "step9", folder / "step1000")
    for name, file in (("main", "README.md"), ("step2000", "model.pkl")):
        (folder / name).mkdir()
        (folder / name / file).write_bytes(b"x")
    (folder / "step10" / "optimizer.pt").write_bytes(b"not wanted")
    (folder / "step10" / "pytorch_model.bin").write_bytes(b"not wanted")
    return {path.name: path for path in folder.iterdir()}


def test_a_repository_is_a_suite_of_its_branches(branches, tmp_path):
    with stand_in_hub("some/run", branches) as endpoint:
        environment = {
            **os.environ,
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(tmp_path),
            "HF_HUB_DISABLE_XET": "1",
        }
        environment.pop("HF_HUB_OFFLINE", None)
        ran = subprocess.run(
            [sys.executable, "-c", CHILD], env=environment, capture_output=True, text=True, check=False
        )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["steps"] == [0, 9, 10, 1000, 2000]
    assert found["hashes"] == [weights_sha256(branches[f"step{s}"]) for s in (0, 9, 10, 1000)] + [None]
    assert found["duplicates"] == [None, None, None, "step000000009", None]
    assert found["skipped"] == ["main"]
    assert found["tokenizer"] is None
    assert weights_sha256(Path(found["fetched"][1])) == weights_sha256(branches["step9"])
    fetched = {entry.name for entry in os.scandir(found["fetched"][2])}
    assert fetched == {"config.json", "generation_config.json", "model.safetensors"}
    assert found["fetched"][4].startswith("CheckpointError: some/run revision step2000 has no safetensors")
    assert found["unknown"].startswith(
        "UsageError: hub repository no/such cannot be listed: there is no such"
    )


class Broken:
    def __getattr__(self, name):
        def fail(*_, **__):
            raise OSError("https://user:secret@hub/api?token=hf_secret refused the connection")

        return fail


def test_an_unreachable_hub_is_named_without_its_address(monkeypatch):
    monkeypatch.setattr(hub, "_api", Broken)
    with pytest.raises(UsageError, match=r"some/run cannot be listed: the hub cannot be reached") as listed:
        hub.open_hub(HubSuite("some/run", "some/run"))
    with pytest.raises(CheckpointError, match=r"some/run revision step9 cannot be fetched") as fetched:
        hub.download("some/run", "step9")
    assert "secret" not in f"{listed.value}{fetched.value}"
