"""Remembered content ids: never another id than hashing would give, and no reading where nothing changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.suites import content
from pipeline.suites import content_memory as memory
from pipeline.suites.content import local_identities


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(memory, "SETTLED_NS", 0)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    for step in range(4):
        folder = tmp_path / "suite" / f"step{step}"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(bytes([step]) * 100)
    return tmp_path / "suite"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the folders that were read."""
    names: list[str] = []
    whole = content.identify

    def note(folder: Path) -> content.Identity:
        names.append(folder.name)
        return whole(folder)

    monkeypatch.setattr(content, "identify", note)
    return names


def folders(suite: Path) -> list[Path]:
    return sorted(suite.iterdir())


def test_only_what_changed_is_read_again(suite: Path, read: list[str]) -> None:
    first = memory.identities(suite, folders(suite))
    assert sorted(read) == ["step0", "step1", "step2", "step3"]
    read.clear()
    assert memory.identities(suite, folders(suite)) == first == local_identities(folders(suite))
    read.clear()
    assert memory.identities(suite, folders(suite)[1:3]) == first[1:3]
    assert read == []
    weights = suite / "step2" / "model.safetensors"
    before = weights.stat()
    weights.write_bytes(b"x" * 100)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))  # the same size and date
    (suite / "step3" / "config.json").write_text('{"a": 1}')
    changed = memory.identities(suite, folders(suite))
    assert sorted(read) == ["step2", "step3"]
    assert changed[:2] == first[:2]
    assert changed[2] != first[2]
    assert changed[3] != first[3]


def test_a_checkpoint_without_weights_and_a_fresh_one_are_not_remembered(
    suite: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (suite / "step1" / "model.safetensors").unlink()
    assert memory.identities(suite, folders(suite))[1] == content.Identity()
    read.clear()
    memory.identities(suite, folders(suite))
    assert read == ["step1"]
    monkeypatch.setattr(memory, "SETTLED_NS", 60 * 10**9)
    read.clear()
    memory.identities(suite, folders(suite))
    assert len(read) == 4


@pytest.mark.parametrize("damage", [b"", b"[1, 2]", b'{"step0": 3}', b"\xff"])
def test_a_damaged_memory_is_an_empty_one(suite: Path, damage: bytes) -> None:
    first = memory.identities(suite, folders(suite))
    for file in (Path(os.environ["XDG_CACHE_HOME"]) / "int4-collapse").iterdir():
        file.write_bytes(damage)
    assert memory.identities(suite, folders(suite)) == first


def test_a_memory_that_cannot_be_kept_is_done_without(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert memory.identities(suite, folders(suite)) == local_identities(folders(suite))


def test_without_a_home_folder_everything_works_and_nothing_is_kept(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(_: int) -> None:
        raise KeyError("no such user")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert len({each.content for each in memory.identities(suite, folders(suite))}) == 4
    assert not list(here.iterdir())
