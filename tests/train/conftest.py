import random

import pytest

from pipeline.train import find_recipe
from pipeline.train.recipes import Recipe


@pytest.fixture(scope="session")
def text_corpus(tmp_path_factory) -> str:
    """A ``file:`` corpus of 200 documents of made-up words, 60 kB in all."""
    folder = tmp_path_factory.mktemp("text")
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 7))) for _ in range(300)]
    for number in range(200):
        (folder / f"{number:03d}.txt").write_text(" ".join(draw.choices(words, k=60)) + ".\n")
    return f"file:{folder}/*.txt"


@pytest.fixture(scope="session")
def micro(text_corpus) -> Recipe:
    """The ``micro`` recipe on that corpus: trains in a second or two."""
    import dataclasses

    return dataclasses.replace(find_recipe("micro"), corpus=text_corpus)
