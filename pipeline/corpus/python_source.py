"""The ``python-source`` corpus: the Python files of the packages that are installed beside this one.

Source code is the text that every machine has by the hundred megabytes: 80 M tokens where a deep-learning stack is
installed. What it holds depends on the environment, so a suite records its hash.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from pipeline.base.errors import UsageError
from pipeline.base.files import read_regular
from pipeline.corpus.text import decoded

MAX_CHARACTERS = 100_000
"""Longer files (one in fifty, a quarter of the text) are mostly generated tables."""


def python_source(root: Path | None = None) -> Iterator[str]:
    """Every Python file under ``root`` (the folder of installed packages), without repeats, sorted by its hash.

    That order does not depend on paths, and any part of the stream is a random sample of the files.
    """
    folder = Path(sysconfig.get_path("purelib")) if root is None else root
    texts: dict[bytes, str] = {}
    for path in folder.rglob("*.py"):
        try:
            text = decoded(read_regular(path, 4 * MAX_CHARACTERS), "replace")
        except OSError:  # a longer file, a folder of that name, a link that leads nowhere
            continue
        if text.strip() and len(text) <= MAX_CHARACTERS:
            texts[hashlib.sha256(text.encode()).digest()] = text
    if not texts:
        raise UsageError(f"the python-source corpus finds no Python file under {folder}: use file:GLOB")
    return (texts[digest] for digest in sorted(texts))
