"""The documents of a text corpus, in a fixed order, and their split into training and held-out text."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.corpus.docstrings import docstrings
from pipeline.corpus.grammar import BUILT_IN, Corpus, Docstrings, Files, HubDataset, PythonSource, TokenFile
from pipeline.corpus.python_source import python_source
from pipeline.errors import UsageError
from pipeline.suites.files import user_path

HELD_OUT_ONE_IN = 10


def documents(corpus: Corpus) -> Iterator[str]:
    """Every non-empty document of ``corpus`` in a fixed order. ``UsageError`` where there is none.

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
        from pipeline.corpus.hub import dataset_documents

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
    """What an evaluation may read: all of a corpus, but only the held-out part of a built-in one."""
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
    found = glob.glob(pattern, recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
    paths = sorted(path for path in map(Path, found) if path.is_file())
    if not paths:
        raise UsageError(
            f"corpus {corpus}: no file matches it; check the path, or quote a glob from the shell"
        )
    return (text for text in map(_read_text, paths) if text.strip())


def _read_text(path: Path) -> str:
    if path.suffix == ".npy":
        raise UsageError(f"{path} is not text: for token ids write {TokenFile(str(path))}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
