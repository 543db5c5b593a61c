"""Decode the bytes of a text file."""

from __future__ import annotations

MARK = "\ufeff"
"""Byte-order mark: states the encoding of a file and is not part of its text."""


def decoded(data: bytes, errors: str = "strict") -> str:
    """The text of a UTF-8 file without its byte-order mark, each line ended by ``\\n``.

    Raises UnicodeDecodeError if ``errors`` is ``strict`` and it is not UTF-8.
    """
    text = data.decode("utf-8", errors).removeprefix(MARK)
    return text.replace("\r\n", "\n").replace("\r", "\n")
