"""Offline, the hub client's own cache is read as it lies there: copied without links, with blobs gone, in any layout.

And online or not, an index says which shards are the weights.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from tests.suites.hub.client import python
from tests.suites.hub.server import Hub, serve
from tests.suites.hub.test_discovery import OPEN, weights

COMMITS = {"step0": "a" * 40, "step1": "b" * 40, "step2": "c" * 40}
NAME = "model.safetensors"
INDEX = f"{NAME}.index.json"


def opened(home, hub=None, code=OPEN, **settings):
    hub = hub or Hub("org/run", endpoint="http://127.0.0.1:9")
    return python(hub, home, code.format(name="org/run", revisions=None), **settings)


def cache(home: Path, revisions: dict[str, dict[str, bytes]], *, links: bool) -> Path:
    """A cache as the hub client writes it, or as copying it without links leaves it."""
    root = home / "hub" / "models--org--run"
    (root / "refs").mkdir(parents=True)
    (root / "blobs").mkdir()
    for branch, files in revisions.items():
        (root / "refs" / branch).parent.mkdir(parents=True, exist_ok=True)
        (root / "refs" / branch).write_text(COMMITS[branch])
        snapshot = root / "snapshots" / COMMITS[branch]
        snapshot.mkdir(parents=True)
        for name, data in files.items():
            if links:
                blob = root / "blobs" / hashlib.sha256(data).hexdigest()
                blob.write_bytes(data)
                (snapshot / name).symlink_to(Path("../../blobs") / blob.name)
            else:
                (snapshot / name).write_bytes(data)
    return root


def checkpoint(seed: int, config: bytes = b"{}") -> dict[str, bytes]:
    return {"config.json": config, NAME: weights(seed)}


@pytest.mark.parametrize("links", [True, False])
def test_checkpoints_are_told_apart_by_content_in_every_layout(tmp_path, links):
    cache(tmp_path, {"step0": checkpoint(0), "step1": checkpoint(1), "step2": checkpoint(0)}, links=links)
    found = opened(tmp_path, HF_HUB_OFFLINE="1")
    assert [(name, of) for name, *_, of in found["checkpoints"]] == [
        ("step0", None),
        ("step1", None),
        ("step2", "step000000000"),
    ]
    assert [sha for *_, sha, _ in found["checkpoints"]] == [
        hashlib.sha256(weights(seed)).hexdigest() for seed in (0, 1, 0)
    ]


def test_links_to_files_of_one_name_outside_the_cache_are_told_apart(tmp_path):
    root = cache(tmp_path, {"step0": checkpoint(0), "step1": checkpoint(1)}, links=False)
    for commit in ("a" * 40, "b" * 40):
        file = root / "snapshots" / commit / NAME
        target = tmp_path / "disk" / commit / NAME
        target.parent.mkdir(parents=True)
        shutil.move(file, target)
        file.symlink_to(target)
    found = opened(tmp_path, HF_HUB_OFFLINE="1")
    assert [of for *_, of in found["checkpoints"]] == [None, None]


SAMPLED = """
from pipeline.suites import content
content.WHOLE_BYTES, content.BLOCK_BYTES, content.BLOCKS = 2**16, 2**10, 8
from pipeline.suites.hub import hub_cache
hub_cache.WHOLE_BYTES = 2**16
"""


def test_large_files_are_duplicates_only_where_every_byte_is_equal(tmp_path):
    data = weights(0, 200_000)
    hidden = data[:3000] + bytes([data[3000] ^ 1]) + data[3001:]  # between two sampled blocks
    files = [{"config.json": b"{}", NAME: each} for each in (data, hidden, data)]
    cache(tmp_path, dict(zip(COMMITS, files, strict=True)), links=False)
    found = opened(tmp_path, code=SAMPLED + OPEN, HF_HUB_OFFLINE="1")
    assert [of for *_, of in found["checkpoints"]] == [None, None, "step000000000"]


def test_one_blob_that_is_gone_hides_its_revision_only(tmp_path):
    files = {name: {**checkpoint(seed), "README.md": b"-"} for seed, name in enumerate(COMMITS)}
    root = cache(tmp_path, files, links=True)
    (root / "snapshots" / COMMITS["step1"] / NAME).resolve().unlink()
    (root / "refs" / "step9").write_bytes(b"\xff")
    found = opened(tmp_path, HF_HUB_OFFLINE="1")
    assert [(name, bool(sha)) for name, *_, sha, _ in found["checkpoints"]] == [
        ("step0", True),
        ("step1", False),
        ("step2", True),
    ]
    (warning,) = found["warnings"]
    assert warning.startswith("files of step1 cannot be listed: ")
    assert "which is gone" in warning
    (root / "snapshots" / COMMITS["step2"] / "README.md").resolve().unlink()
    assert opened(tmp_path, HF_HUB_OFFLINE="1") == found, "a file that no checkpoint needs"


def test_offline_the_tokenizer_and_configuration_are_read_from_the_cache(tmp_path):
    tokenizer = {"tokenizer.json": b"{}", "tokenizer_config.json": b"{}"}
    root = cache(tmp_path, {"step0": {**checkpoint(0, b'{"vocab_size": 77}'), **tokenizer}}, links=True)
    code = """
import json
from pipeline.suites import open_suite
from pipeline.suites.model_config import model_config
from pipeline.suites.hub.remote import tokenizer_folder
suite = open_suite("org/run")
print(json.dumps([model_config(suite), str(tokenizer_folder(suite.tokenizer.removeprefix("hf://")))]))
"""
    found = opened(tmp_path, code=code.replace("{", "{{").replace("}", "}}"), HF_HUB_OFFLINE="1")
    assert found == [{"vocab_size": 77}, str(root / "snapshots" / COMMITS["step0"])]


def shards(seed: int, total: int) -> dict[str, bytes]:
    return {
        f"model-{number:05d}-of-{total:05d}.safetensors": weights(100 * seed + number)
        for number in range(1, total + 1)
    }


def index(files: dict[str, bytes]) -> bytes:
    return json.dumps({"weight_map": {f"t{number}": name for number, name in enumerate(files)}}).encode()


FETCH = """
import json
from pipeline.suites import open_suite, checkout
suite = open_suite({name!r}, {revisions!r})
found = []
for each in suite.checkpoints:
    with checkout(each) as folder:
        found.append(sorted(path.name for path in folder.iterdir() if path.suffix == ".safetensors"))
print(json.dumps([found, [c.weights_sha256 for c in suite.checkpoints], [c.duplicate_of for c in suite.checkpoints]]))
"""


def combined(files: dict[str, bytes]) -> str:
    lines = "".join(f"{name} {hashlib.sha256(files[name]).hexdigest()}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def test_shards_of_an_earlier_split_are_neither_fetched_nor_hashed(tmp_path):
    hub = Hub("org/run")
    present, left = [shards(seed, 2) for seed in (0, 1)], shards(9, 3)
    for step, files in enumerate([present[0], present[1], present[0]]):
        more = left if step < 2 else {}
        hub.push(f"step{step}", {"config.json": b"{}", INDEX: index(files), **files, **more})
    with serve(hub):
        folders, hashes, duplicates = opened(tmp_path, hub, FETCH)
    assert folders == [sorted(present[0])] * 3
    assert hashes == [combined(each) for each in (present[0], present[1], present[0])]
    assert duplicates == [None, None, "step000000000"]
    asked = {name for kind, _, name in hub.log if kind == "lfs"}
    assert asked == set(present[0])


def test_shards_of_an_earlier_split_in_the_cache_are_left(tmp_path):
    present = shards(0, 2)
    files = {"config.json": b"{}", INDEX: index(present), **present, **shards(9, 3)}
    cache(tmp_path, {"step0": files}, links=True)
    code = FETCH.replace('if path.suffix == ".safetensors"', "if path in weight_files(folder)")
    code = "from pipeline.suites import weight_files" + code
    folders, hashes, _ = opened(tmp_path, code=code, HF_HUB_OFFLINE="1")
    assert (folders, hashes) == ([sorted(present)], [combined(present)])


def test_an_index_that_names_what_is_not_there_is_said(tmp_path):
    hub = Hub("org/run")
    files = shards(0, 3)
    for step, lost in enumerate([None, "model-00002-of-00003.safetensors"]):
        kept = {name: data for name, data in files.items() if name != lost}
        hub.push(f"step{step}", {"config.json": b"{}", INDEX: index(files), **kept})
    with serve(hub):
        found = opened(tmp_path, hub)
    assert [bool(sha) for *_, sha, _ in found["checkpoints"]] == [True, False]
    assert found["warnings"] == [
        f"files of step1 cannot be listed: {INDEX} names model-00002-of-00003.safetensors, which the repository lacks"
    ]


def test_equal_weights_are_told_however_the_config_is_spelled(tmp_path):
    hub = Hub("org/run")
    for step, config in enumerate([b'{"n": 1}', b'{"_name_or_path": "x", "n": 1}', b'{"n": 2}']):
        hub.push(f"step{step}", checkpoint(0, config))
    with serve(hub):
        found = opened(tmp_path, hub)
    assert [of for *_, of in found["checkpoints"]] == [None, "step000000000", None]
    assert len(found["warnings"]) == 1, "the third has the weights and another configuration"
