"""Text of the packages that are installed: docstrings and source files."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.base.errors import UsageError
from pipeline.corpus import (
    Docstrings,
    documents,
    evaluation_tokens,
    held_out,
    training_and_held_out,
)
from pipeline.corpus.docstrings import docstrings
from pipeline.corpus.python_source import python_source
from pipeline.spec import TokenShape
from tests.corpus.test_sources import Letters


def test_docstrings_evaluate_on_text_that_training_never_sees():
    train, kept = training_and_held_out(documents(Docstrings()))
    assert not set(train) & set(kept)
    assert len(set(train)) == len(train)
    share = sum(map(len, kept)) / sum(map(len, [*train, *kept]))
    assert 0.07 < share < 0.13
    assert sum(map(len, train)) > 5_000_000
    ids = evaluation_tokens(Docstrings(), TokenShape(4, 4, 512), Letters()).array.flatten()
    first = bytes(ids[: list(ids).index(256)].astype(np.uint8)).decode()
    assert first == kept[0]
    assert held_out(first)


def test_docstrings_are_the_same_in_another_process():
    code = (
        "import hashlib, sys; from pipeline.corpus import corpus_sha256, documents, Docstrings;"
        "sys.stdout.write(corpus_sha256(documents(Docstrings())));"
        "assert not {'torch', 'scipy', 'polars'} & set(sys.modules)"
    )
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    from pipeline.corpus import corpus_sha256

    assert other == corpus_sha256(docstrings())


def test_a_missing_package_is_named(monkeypatch):
    from pipeline.corpus import docstrings as module

    monkeypatch.setattr(module.importlib, "util", SimpleNamespace(find_spec=lambda name: None))
    with pytest.raises(UsageError, match="needs numpy, which is not installed"):
        module.docstrings.__wrapped__()


def test_python_source_is_every_file_once_in_an_order_that_no_path_decides(tmp_path):
    for place, names in (("one", "abc"), ("two", "xyz")):
        for name, text in zip(names, ("a = 1\n", "b = 2\n", "b = 2\n"), strict=True):
            path = tmp_path / place / name / f"{name}.py"
            path.parent.mkdir(parents=True)
            path.write_text(text)
        (tmp_path / place / "empty.py").write_text("\n")
        (tmp_path / place / "table.py").write_text("x" * 100_001)
    one, two = (list(python_source(tmp_path / place)) for place in ("one", "two"))
    assert one == two
    assert sorted(one) == ["a = 1\n", "b = 2\n"]
    with pytest.raises(UsageError, match="no Python file"):
        python_source(tmp_path / "three")
