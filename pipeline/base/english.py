"""Numbers in sentences."""

from __future__ import annotations


def counted(count: int, noun: str, *, are: bool = False) -> str:
    """``count`` with its noun, in the plural unless it is 1; ``are``: followed by is or are.

    >>> counted(1, "checkpoint"), counted(0, "run"), counted(2000, "batch", are=True)
    ('1 checkpoint', '0 runs', '2,000 batches are')
    """
    ending = "" if count == 1 else "es" if noun.endswith(("ch", "s", "x")) else "s"
    verb = "" if not are else " is" if count == 1 else " are"
    return f"{count:,} {noun}{ending}{verb}"
