"""Read the learning rate in a ``scheduler.pt`` without torch and without running code from the pickle.

``torch.save`` writes a zip whose member ``.../data.pkl`` is a pickle. A learning-rate scheduler saves plain numbers
and lists, so the reader accepts no class and no function: anything else is refused.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from pathlib import Path
from typing import Any

from pipeline.base.files import read_regular

MOST_BYTES = 2**20
"""Largest state that is read, bytes; a scheduler's has about a thousand."""


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler of numbers, strings, lists and dicts only."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it wants {module}.{name}, which no scheduler's state needs")


def next_learning_rate(path: Path) -> float:
    """The learning rate of the next update, of the first parameter group, in the scheduler saved at ``path``.

    Raises OSError like ``read_regular``, ValueError if the state holds no rate.
    """
    data = read_regular(path, MOST_BYTES)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            (member,) = (each for each in archive.infolist() if each.filename.endswith("/data.pkl"))
            if member.file_size > MOST_BYTES:
                raise ValueError(f"its state has {member.file_size:,} bytes")
            state = _PlainUnpickler(io.BytesIO(archive.read(member))).load()
    except Exception as error:  # a damaged zip or pickle raises exceptions of many types
        raise ValueError(f"not the state of a scheduler ({error})") from error
    rates = state.get("_last_lr") if isinstance(state, dict) else None
    rate = rates[0] if isinstance(rates, list) and rates else None
    if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 <= rate < math.inf:
        raise ValueError("it holds no learning rate")
    return float(rate)
