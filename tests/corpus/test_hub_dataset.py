"""Text of a data set on a hub."""

import json

import pytest

from pipeline.base.errors import UsageError
from pipeline.corpus import (
    HubDataset,
    documents,
    parse_corpus,
)
from pipeline.corpus.hub_dataset import _readings


def test_a_data_set_name_may_be_too_long_for_a_path():
    assert _readings("a" * 300 + "/b") == [("a" * 300 + "/b",), ("a" * 300, "b")]


@pytest.fixture
def dataset(tmp_path):
    for split in ("train", "test"):
        rows = [{"id": i, "title": f"t{i}", "body": f"{split} row {i}"} for i in range(5)] + [
            {"id": 5, "title": "t", "body": ""}
        ]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_a_data_set_is_read_by_split_and_column(dataset):
    assert list(documents(HubDataset(str(dataset), "train", "body"))) == [f"train row {i}" for i in range(5)]
    assert next(documents(HubDataset(str(dataset), None, "title"))) == "t0"
    assert next(documents(HubDataset(str(dataset), None, "body"))) == "test row 0"
    with pytest.raises(UsageError, match=r"wanted a split out of .*train"):
        documents(HubDataset(str(dataset), "dev", "body"))
    with pytest.raises(UsageError, match=r"wanted a column of strings .*title, body"):
        documents(HubDataset(str(dataset), "train"))
    with pytest.raises(UsageError, match=r"out of title, body"):
        documents(HubDataset(str(dataset), "train", "id"))


def test_an_unreachable_data_set_is_named(monkeypatch):
    import datasets

    def unreachable(*_, **__):
        raise ConnectionError("Couldn't reach it")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(UsageError, match=r"corpus hf:no/such: the data set cannot be reached"):
        documents(HubDataset("no/such"))


def test_one_part_of_a_name_may_be_the_configuration(monkeypatch):
    import datasets

    asked = []

    def load(*arguments, **_):
        asked.append(arguments)
        if len(arguments) == 1:
            raise ValueError("no such data set")
        return {"test": [{"text": "hello"}]}

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert list(documents(parse_corpus("hf:wikitext/raw"))) == ["hello"]
    assert list(documents(parse_corpus("hf:org/set/raw:test"))) == ["hello"]
    assert asked == [("wikitext/raw",), ("wikitext", "raw"), ("org/set", "raw")]
