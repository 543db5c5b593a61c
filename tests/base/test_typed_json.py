"""Dataclasses and JSON: what was written reads back, and what is wrong is named by its place."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import pytest

from pipeline.base.typed_json import INLINE, UNLESS_NONE, from_json, to_json


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Chosen:
    best: int
    among: tuple[int, ...]


@dataclass(frozen=True)
class NotChosen:
    reason: str


@dataclass(frozen=True)
class Whole:
    name: str
    choice: Chosen | NotChosen = field(metadata=INLINE)
    colour: Colour | None = None
    loss: float = 0.0
    span: tuple[int, float] | None = None
    by_name: dict[str, NotChosen] = field(default_factory=dict)
    note: str | None = field(default=None, metadata=UNLESS_NONE)
    sure: bool = True


@pytest.mark.parametrize(
    "whole",
    [
        Whole("a", Chosen(3, (3, 4)), Colour.RED, 1.5, (1, 2.0), {"x": NotChosen("late")}, "said"),
        Whole("b", NotChosen("too few")),
    ],
)
def test_what_was_written_reads_back(whole: Whole) -> None:
    assert from_json(Whole, json.loads(json.dumps(to_json(whole), allow_nan=False))) == whole


def test_a_part_lies_in_the_object_around_it_and_an_absent_one_nowhere() -> None:
    written = to_json(Whole("a", Chosen(3, ()), loss=math.nan))
    assert list(written) == ["name", "best", "among", "colour", "loss", "span", "by_name", "sure"]
    assert written["loss"] is None
    assert math.isnan(from_json(Whole, written).loss)


def test_an_older_file_has_the_defaults_of_what_it_lacks_and_nothing_of_what_is_gone() -> None:
    assert from_json(Whole, {"name": "a", "reason": "r", "gone": 1}) == Whole("a", NotChosen("r"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": 3}, "name is 3, wanted a text"),
        ({"name": None}, "name is missing"),
        ({"best": True}, "best is True, wanted an integer"),
        ({"best": 1.5}, r"best is 1\.5"),
        ({"best": 2**63}, "best is 9223372036854775808"),
        ({"loss": 10**400}, "loss is a larger number"),
        ({"among": [1, "2"]}, r"among\[1\] is '2'"),
        ({"colour": "blue"}, "colour is 'blue', wanted Colour"),
        ({"span": [1]}, "span has 1 elements, wanted 2"),
        ({"by_name": {"x": {}}}, r"by_name\.x\.reason is missing"),
        ({"by_name": []}, r"by_name is \[\]"),
        ({"sure": 1}, "sure is 1, wanted true or false"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        from_json(Whole, {"name": "a", "best": 1, "among": []} | change)


def test_a_choice_that_is_neither_names_what_the_first_lacks() -> None:
    with pytest.raises(ValueError, match="best is missing"):
        from_json(Whole, {"name": "a"})
    with pytest.raises(ValueError, match=r"the whole is \[\]"):
        from_json(Whole, [])
