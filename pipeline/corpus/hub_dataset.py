"""Documents of a data set through ``datasets.load_dataset``: a hub name or a local folder."""

from __future__ import annotations

import gc
import itertools
import os
from collections.abc import Iterator
from typing import Any

from pipeline.base.errors import UsageError
from pipeline.corpus.grammar import HubDataset
from pipeline.corpus.text import MARK

SPLITS = ("validation", "test", "train")
"""Default split: the first of these that the data set has."""
STRINGS = ("string", "large_string", "string_view")
LOOKED_AT = 1000
"""Number of rows that are read to find the columns of strings if there is no schema."""


def dataset_documents(corpus: HubDataset) -> Iterator[str]:
    """The non-empty strings of one column of one split, in the data set's order, read as they are needed.

    Raises UsageError, which names the existing ones, for an unknown data set, split or column.
    """
    splits = _open(corpus)
    split = corpus.split or next((name for name in SPLITS if name in splits), None)
    if split is None or split not in splits:
        raise UsageError(f"corpus {corpus}: wanted a split out of {', '.join(map(str, splits))}")
    rows = iter(splits[split])
    try:
        first = list(itertools.islice(rows, 1))
        if not first:
            raise UsageError(f"corpus {corpus}: split {split!r} has no rows")
        strings = _declared_strings(splits[split])
        if strings is None:  # a format without a schema: look at the rows
            first += itertools.islice(rows, LOOKED_AT - 1)
            strings = _strings_in(first)
        column = _column(corpus, strings)
    except UsageError:
        _let_go(rows)
        raise
    except Exception as error:  # the client raises a dozen unrelated types
        _let_go(rows)
        raise _unusable(corpus, "stopped while it was read", error) from error
    return _texts(corpus, column, first, rows)


def _texts(
    corpus: HubDataset, column: str, first: list[dict[str, Any]], rows: Iterator[dict[str, Any]]
) -> Iterator[str]:
    try:
        for row in itertools.chain(first, rows):
            text = (row.get(column) or "").removeprefix(MARK)
            if text.strip():
                yield text
    except Exception as error:  # the client raises a dozen unrelated types
        raise _unusable(corpus, "stopped while it was read", error) from error
    finally:
        _let_go(rows)


def _let_go(rows: Iterator[dict[str, Any]]) -> None:
    """Close a reader before its end.

    At the interpreter's end, the threads of an open Parquet reader would crash the process (apache/arrow#45214).
    """
    close = getattr(rows, "close", None)
    if close is not None:
        close()
    gc.collect()


def _declared_strings(rows: Any) -> list[str] | None:
    """Names of the columns of strings in a data set's schema; None where it has none."""
    features = getattr(rows, "features", None)
    if not features:
        return None
    return [name for name, feature in features.items() if getattr(feature, "dtype", None) in STRINGS]


def _strings_in(rows: list[dict[str, Any]]) -> list[str]:
    """Names of the columns that hold strings, and nothing else but nulls, in ``rows``."""
    names = dict.fromkeys(name for row in rows for name in row)
    values = {name: [row[name] for row in rows if row.get(name) is not None] for name in names}
    return [name for name in names if values[name] and all(isinstance(each, str) for each in values[name])]


def _column(corpus: HubDataset, strings: list[str]) -> str:
    if corpus.column is not None and corpus.column in strings:
        return corpus.column
    if corpus.column is None and "text" in strings:
        return "text"
    if corpus.column is None and len(strings) == 1:
        return strings[0]
    wanted = ", ".join(strings) or "none there is: this data set has no text"
    raise UsageError(f"corpus {corpus}: wanted a column of strings as :SPLIT:COLUMN, out of {wanted}")


def _open(corpus: HubDataset) -> Any:
    """A mapping from split to rows: streamed, so that a large data set is not downloaded whole."""
    import datasets
    from huggingface_hub import constants

    failure: Exception | None = None
    for arguments in _readings(corpus.dataset):
        try:
            # offline, only a complete copy in the local cache can be read, and that is not a stream
            return datasets.load_dataset(*arguments, streaming=not constants.HF_HUB_OFFLINE)
        except ConnectionError as error:  # after the client's own retries; another reading would fail as well
            raise _unusable(corpus, "cannot be reached", error) from error
        except Exception as error:  # noqa: BLE001 (the client raises a dozen unrelated types)
            failure = failure or error
    assert failure is not None
    raise _unusable(corpus, "cannot be opened", failure) from failure


def _unusable(corpus: HubDataset, what: str, error: Exception) -> UsageError:
    first_line = (str(error).splitlines() or [""])[0][:200]
    return UsageError(
        f"corpus {corpus}: the data set {what} ({type(error).__name__}: {first_line}); check its name and the "
        "network, or use a local corpus (file:GLOB, tokens:FILE.npy, docstrings, python-source)"
    )


def _readings(text: str) -> list[tuple[str, ...]]:
    """The possible meanings of ``a/b``: an organisation's data set, or a data set and its configuration."""
    parts = text.split("/")
    there = os.path.exists(text)  # noqa: PTH110 (Path.exists raises for a name that is too long)
    if there or len(parts) == 1:
        return [(text,)]
    if len(parts) == 2:
        return [(text,), (parts[0], parts[1])]
    return [("/".join(parts[:-1]), parts[-1])]
