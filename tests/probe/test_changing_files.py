"""Weight files that change while they are read: no number is kept under the hash of other weights."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.base.errors import CheckpointError
from pipeline.probe import Prober
from pipeline.probe.engine import Engine
from pipeline.probe.reading import Reader
from pipeline.spec import ProbeSpec, TokenShape, parse_variants
from pipeline.suites import Unchanged, weights_sha256
from tests.models import VOCAB, save_tiny_model

TOKENS = np.random.default_rng(0).integers(0, VOCAB, (2, 1, 16))
SPEC = ProbeSpec(parse_variants(("int4",)), TokenShape(2, 1, 16), tokens_sha256="0" * 64)
CHANGED = r"model\.safetensors changed while it was being read: run the same command again"
WEIGHTS = "model.safetensors"

Change = Callable[[], None]


def replace(folder: Path, other: Path) -> None:
    """By another file of the same size and date, as a copy that keeps dates does."""
    before = (folder / WEIGHTS).stat()
    shutil.copy(other / WEIGHTS, folder / "new")
    assert (folder / "new").stat().st_size == before.st_size
    os.utime(folder / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
    (folder / "new").rename(folder / WEIGHTS)


def overwrite(folder: Path, other: Path) -> None:
    (folder / WEIGHTS).write_bytes((other / WEIGHTS).read_bytes())


@pytest.fixture
def checkpoints(tmp_path: Path) -> tuple[Path, Path]:
    """Two of the same shapes, stored as float32."""
    a, b = (
        save_tiny_model("llama", tmp_path / name, seed, dtype=torch.float32)
        for seed, name in enumerate(("a", "b"))
    )
    return a, b


def once_at(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, call: int, change: Change) -> None:
    """Makes ``change`` before the call number ``call`` of the function ``name`` of ``place``."""
    function, calls = getattr(place, name), []

    def changed(*arguments: Any, **keywords: Any) -> Any:
        calls.append(name)
        if len(calls) == call:
            change()
        return function(*arguments, **keywords)

    monkeypatch.setattr(place, name, changed)


@pytest.mark.parametrize("change", [replace, overwrite])
def test_layer_by_layer_a_file_that_changes_between_hashing_and_a_layer_fails_by_name(
    checkpoints: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, change: Callable[[Path, Path], None]
) -> None:
    once_at(
        monkeypatch, Reader, "read_some", 3, lambda: change(*checkpoints)
    )  # outside, first and second layer
    with pytest.raises(CheckpointError, match=CHANGED):
        Prober(SPEC, TOKENS).layer_by_layer.measure(checkpoints[0])
    again = Prober(SPEC, TOKENS).layer_by_layer.measure(checkpoints[0])
    assert again.weights_sha256 == weights_sha256(checkpoints[1])
    assert again.results == Prober(SPEC, TOKENS).measure(checkpoints[1]).results


def test_layer_by_layer_a_file_that_goes_away_fails_by_name(
    checkpoints: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    once_at(monkeypatch, Reader, "read_some", 3, (checkpoints[0] / WEIGHTS).unlink)
    with pytest.raises(CheckpointError, match=r"/a changed while it was being read: .*holds no weights"):
        Prober(SPEC, TOKENS).layer_by_layer.measure(checkpoints[0])


@pytest.mark.parametrize("ahead", [True, False])
def test_as_a_whole_a_file_that_is_written_over_while_it_is_measured_fails_by_name(
    checkpoints: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, ahead: bool
) -> None:
    prober = Prober(SPEC, TOKENS)
    once_at(monkeypatch, Engine, "run", 1, lambda: overwrite(*checkpoints))
    if ahead:
        prober.prefetch(checkpoints[0])
    with pytest.raises(CheckpointError, match=CHANGED):
        prober.measure(checkpoints[0])


def test_a_configuration_that_changes_is_named(
    checkpoints: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = checkpoints[0] / "config.json"
    once_at(monkeypatch, Engine, "run", 1, lambda: path.write_text(path.read_text() + "\n"))
    with pytest.raises(CheckpointError, match=r"config\.json changed while it was being read"):
        Prober(SPEC, TOKENS).measure(checkpoints[0])


def test_other_links_to_a_file_are_no_change(
    checkpoints: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = checkpoints
    once_at(monkeypatch, Reader, "read_some", 2, lambda: os.link(folder / WEIGHTS, folder / "another"))
    exact = Prober(SPEC, TOKENS).measure(folder)
    assert Prober(SPEC, TOKENS).layer_by_layer.measure(folder).results == exact.results


def test_a_link_that_comes_to_lead_to_another_file_is_a_change(
    checkpoints: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a hub's cache, whose folders hold links to files that are named by their content."""
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for file in checkpoints[0].iterdir():
        (snapshot / file.name).symlink_to(file)

    def relink() -> None:
        (snapshot / WEIGHTS).unlink()
        (snapshot / WEIGHTS).symlink_to(checkpoints[1] / WEIGHTS)

    once_at(monkeypatch, Reader, "read_some", 3, relink)
    with pytest.raises(CheckpointError, match=CHANGED):
        Prober(SPEC, TOKENS).layer_by_layer.measure(snapshot)


def test_a_file_system_that_is_away_is_told_as_it_is(
    checkpoints: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    def read() -> None:
        with Unchanged(checkpoints[0]):
            monkeypatch.setattr(Path, "stat", away)
            raise OSError(errno.EIO, "the read itself")

    with pytest.raises(OSError, match="the read itself"):
        read()
    monkeypatch.undo()
    files = Unchanged(checkpoints[0])
    monkeypatch.setattr(Path, "stat", away)
    with pytest.raises(OSError, match="Input/output error"):
        files.check()
