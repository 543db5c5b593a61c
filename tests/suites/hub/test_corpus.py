"""Text through ``datasets``, streamed from Parquet files."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.suites.hub.client import python
from tests.suites.hub.server import Hub, serve

READ = """
import itertools, json
from pipeline.corpus import documents, parse_corpus
from pipeline.base.errors import UsageError
def read(text, n=None):
    try:
        return list(itertools.islice(documents(parse_corpus(text)), n))
    except UsageError as error:
        return f"UsageError: {error}"
"""


@pytest.fixture
def dataset(tmp_path):
    """Two splits; validation is in three files, the last of which is damaged."""
    folder = tmp_path / "set" / "data"
    folder.mkdir(parents=True)
    for part in range(3):
        rows = [f"document {part}-{row}" if row != 1 else "" for row in range(4)]
        table = pa.table({"id": list(range(4)), "text": rows, "title": [f"t{part}"] * 4})
        pq.write_table(table, folder / f"validation-{part:05d}-of-00003.parquet")
    pq.write_table(table, folder / "train-00000-of-00001.parquet")
    damaged = folder / "validation-00002-of-00003.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    return tmp_path / "set"


def test_parquet_is_streamed_in_order_and_only_as_far_as_it_is_needed(dataset, tmp_path):
    code = f"""{READ}
name = {str(dataset)!r}
print(json.dumps([
    read(f"hf:{{name}}", 6), read(f"hf:{{name}}:validation:title", 5), read(f"hf:{{name}}:train", 2),
    read(f"hf:{{name}}:validation:text"), read(f"hf:{{name}}:test"), read(f"hf:{{name}}:train:id"),
]))
"""
    with serve(Hub("org/run")) as hub:
        first, titles, train, damaged, split, column = python(hub, tmp_path / "home", code)
        assert not hub.log
    assert first == [f"document {part}-{row}" for part in (0, 1) for row in (0, 2, 3)]
    assert titles == ["t0"] * 4 + ["t1"]
    assert train == ["document 2-0", "document 2-2"]
    assert damaged.startswith("UsageError: corpus hf:")
    assert "stopped while it was read" in damaged
    assert "wanted a split out of" in split
    assert "out of text, title" in column
    cached = [path for path in (tmp_path / "home").rglob("*") if path.suffix in (".arrow", ".parquet")]
    assert not cached, "a stream leaves no copy of the data set"


NULLS = [None] * 3 + ["document a", "", None, "document b"]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_columns_come_from_the_schema_or_from_many_rows_not_from_the_first(tmp_path, kind):
    folder = tmp_path / "set"
    folder.mkdir()
    links = [f"https://example.org/{row}" for row in range(len(NULLS))]
    if kind == "parquet":
        table = pa.table({"text": pa.array(NULLS, pa.string()), "url": links, "n": list(range(len(NULLS)))})
        pq.write_table(table, folder / "train.parquet")
    else:
        rows = [{"text": text, "url": url} for text, url in zip(NULLS, links, strict=True)]
        (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code = f"""{READ}
name = {str(folder)!r}
print(json.dumps([read(f"hf:{{name}}"), read(f"hf:{{name}}:train:text"), read(f"hf:{{name}}:train:url", 1)]))
"""
    with serve(Hub("org/run")) as hub:
        chosen, named, other = python(hub, tmp_path / "home", code)
    assert chosen == named == ["document a", "document b"]
    assert other == links[:1]
