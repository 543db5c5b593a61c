"""The documents of a text corpus, in a fixed order, and their split into training and held-out text."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.base.errors import UsageError
from pipeline.base.files import read_regular
from pipeline.base.paths import user_path
from pipeline.corpus.docstrings import docstrings
from pipeline.corpus.grammar import BUILT_IN, Corpus, Docstrings, Files, HubDataset, PythonSource, TokenFile
from pipeline.corpus.python_source import python_source
from pipeline.corpus.text import decoded

HELD_OUT_ONE_IN = 10
MOST_BYTES = 2**30
"""Largest file that is read, bytes: it is held in memory as one document."""
MOST_FILES = 1_000_000
NO_DISKS = ("/proc/", "/sys/", "/dev/")
"""Folders in which files may have no end and folders may contain themselves."""


def documents(corpus: Corpus) -> Iterator[str]:
    """Every non-empty document of ``corpus`` in a fixed order. Raises UsageError if there is none.

    A file is one document, a row of a data set is one document. A token file has no documents:
    ``UsageError``.
    """
    if isinstance(corpus, Docstrings):
        return iter(docstrings())
    if isinstance(corpus, PythonSource):
        return python_source()
    if isinstance(corpus, Files):
        return _file_documents(corpus)
    if isinstance(corpus, HubDataset):
        from pipeline.corpus.hub_dataset import dataset_documents

        return dataset_documents(corpus)
    raise UsageError(
        f"corpus {corpus} holds token ids, not text: wanted docstrings, python-source, file: or hf:"
    )


def held_out(document: str) -> bool:
    """Whether this document is kept from training: one in ten, decided by its content alone."""
    digest = hashlib.sha256(document.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_ONE_IN == 0


def training_and_held_out(texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """``texts`` without repeats, split by :func:`held_out`; both keep the order given."""
    unique = dict.fromkeys(texts)
    train = [text for text in unique if not held_out(text)]
    return train, [text for text in unique if held_out(text)]


def evaluation_documents(corpus: Corpus) -> Iterator[str]:
    """Documents for evaluation: all of a corpus, but only the held-out part of a built-in one."""
    if str(corpus) in BUILT_IN:
        return (text for text in documents(corpus) if held_out(text))
    return documents(corpus)


def corpus_sha256(texts: Iterable[str]) -> str:
    """sha256 (hex) over every document and its length, in order."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def _file_documents(corpus: Files) -> Iterator[str]:
    pattern = str(user_path(corpus.pattern, "corpus file:"))
    if Path(pattern).is_file():  # brackets in the name of an existing file are not a pattern
        pattern = glob.escape(pattern)
    paths = []
    for count, found in enumerate(glob.iglob(pattern, recursive=True)):  # noqa: PTH207 (no absolute pattern)
        if count >= MOST_FILES or _no_disk(found):
            what = (
                f"over {MOST_FILES:,} files"
                if count >= MOST_FILES
                else f"{found}, which is not a file on a disk"
            )
            raise UsageError(f"corpus {corpus} matches {what}: give a narrower pattern")
        path = Path(found)
        if not path.is_dir():
            paths.append(path)
    if not paths:
        raise UsageError(
            f"corpus {corpus}: no file matches it; check the path, or quote a glob from the shell"
        )
    return (text for text in map(_read_text, sorted(paths)) if text.strip())


def _no_disk(path: str) -> bool:
    return os.path.realpath(path).startswith(NO_DISKS)


def _read_text(path: Path) -> str:
    if path.suffix == ".npy":
        raise UsageError(f"{path} is not text: for token ids write {TokenFile(str(path))}")
    try:
        return decoded(read_regular(path, MOST_BYTES))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror or error}; leave it out, or split it"
        ) from error
