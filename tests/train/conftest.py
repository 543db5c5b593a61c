import dataclasses

import pytest

from pipeline.train import Recipe, find_recipe
from tests.models import write_text_corpus


@pytest.fixture(scope="session")
def micro(tmp_path_factory) -> Recipe:
    """The ``micro`` recipe on a small text: trains in a second or two."""
    corpus = write_text_corpus(tmp_path_factory.mktemp("text"))
    return dataclasses.replace(find_recipe("micro"), corpus=corpus)
