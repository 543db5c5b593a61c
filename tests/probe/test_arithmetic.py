"""Which arithmetic a probe may ask for, and weights read ahead."""

from __future__ import annotations

import gc
import threading
import weakref
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from pipeline.base.errors import UsageError
from pipeline.models.arithmetic import choose_arithmetic
from pipeline.probe import Prober
from pipeline.probe.prefetch import Prefetcher
from pipeline.spec import ProbeSpec, TokenShape, parse_variants
from tests.waiting import wait_for

SHAPE = TokenShape(1, 1, 4)


def test_a_cpu_computes_in_float32_alone() -> None:
    assert choose_arithmetic("cpu") == "ieee"
    probe = ProbeSpec(parse_variants(()), SHAPE, "", arithmetic="split")
    with pytest.raises(UsageError, match="'split' is not available on cpu: wanted ieee"):
        Prober(probe, np.zeros((1, 1, 4), dtype=np.int64))


def test_arithmetic_is_part_of_the_fingerprint_and_checked() -> None:
    specs = [ProbeSpec(parse_variants(()), SHAPE, "", arithmetic=name) for name in ("ieee", "split", "tf32")]
    assert len({spec.fingerprint() for spec in specs}) == 3
    with pytest.raises(UsageError, match="unknown arithmetic 'bf16'"):
        ProbeSpec(parse_variants(()), SHAPE, "", arithmetic="bf16")


def test_what_was_begun_is_taken_once_and_errors_come_with_it() -> None:
    begun: list[str] = []

    def load(folder: Path, expected_sha256: str | None) -> str:
        begun.append(folder.name)
        if folder.name == "bad":
            raise ValueError("bad")
        return f"{folder.name} {expected_sha256}"

    ahead = Prefetcher(load)
    ahead.start(Path("a"), "x")
    ahead.start(Path("bad"), None)
    assert ahead.take(Path("a"), "x") == "a x"
    with pytest.raises(ValueError, match="bad"):
        ahead.take(Path("bad"), None)
    assert ahead.take(Path("c"), None) == "c None"
    assert begun == ["a", "bad", "c"]


def test_one_at_most_is_loaded_and_not_taken() -> None:
    begun: list[str] = []

    def load(folder: Path, _: str | None) -> str:
        begun.append(folder.name)
        return folder.name

    ahead = Prefetcher(load)
    for name in "abc":
        ahead.start(Path(name), None)
    assert ahead.take(Path("a"), None) == "a"
    wait_for(lambda: begun == ["a", "b"])
    assert ahead.take(Path("c"), None) == "c", "out of turn: loaded at once"
    assert begun == ["a", "b", "c"]
    for name in "def":
        ahead.start(Path(name), None)
    assert begun == ["a", "b", "c"], "b waits to be taken"
    ahead.forget(Path("b"), None)  # its task ended before
    wait_for(lambda: begun[3:] == ["d"])
    ahead.forget(Path("b"), None)
    assert begun[3:] == ["d"]
    assert [ahead.take(Path(name), None) for name in "def"] == list("def")


def test_what_was_loaded_before_an_error_is_let_go_with_it() -> None:
    class Weights:
        pass

    held: list[weakref.ref[Weights]] = []

    def load(folder: Path, _: str | None) -> None:
        weights = Weights()
        held.append(weakref.ref(weights))
        raise ValueError(folder.name)

    ahead = Prefetcher(load)
    ahead.start(Path("bad"), None)
    gc.disable()
    try:
        with suppress(ValueError):
            ahead.take(Path("bad"), None)
        wait_for(lambda: held[0]() is None)  # the thread may still hold it for a moment
    finally:
        gc.enable()


def test_as_many_are_loaded_at_the_same_time_as_may_be_begun_and_not_taken() -> None:
    begun, together = [], threading.Barrier(2, timeout=120)

    def load(folder: Path, _: str | None) -> str:
        begun.append(folder.name)
        together.wait()
        return folder.name

    ahead = Prefetcher(load, most=2)
    for name in "abcd":
        ahead.start(Path(name), None)
    wait_for(lambda: sorted(begun) == ["a", "b"])
    assert ahead.take(Path("b"), None) == "b"
    wait_for(lambda: begun[2:] == ["c"])
    assert ahead.take(Path("a"), None) == "a"
    assert [ahead.take(Path(name), None) for name in "dc"] == ["d", "c"]
