from __future__ import annotations

import pytest

from pipeline.base.english import counted


@pytest.mark.parametrize(
    ("count", "noun", "said"),
    [
        (1, "checkpoint", "1 checkpoint"),
        (0, "run", "0 runs"),
        (2_000, "batch", "2,000 batches"),
        (2, "distinct checkpoint", "2 distinct checkpoints"),
    ],
)
def test_a_noun_is_in_the_plural_unless_there_is_one(count: int, noun: str, said: str) -> None:
    assert counted(count, noun) == said


def test_the_verb_agrees() -> None:
    assert counted(1, "run", are=True) == "1 run is"
    assert counted(3, "run", are=True) == "3 runs are"
