"""The learning rate in a ``scheduler.pt``, without torch and without running anything that a pickle could name.

``torch.save`` writes a zip whose member ``.../data.pkl`` is a pickle. What a learning-rate scheduler saves is plain
numbers and lists, so the pickle is read by a reader that knows no class and no function: anything else is refused.
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
"""A scheduler's state has about a thousand bytes."""


class _PlainUnpickler(pickle.Unpickler):
    """Makes numbers, texts, lists and dicts only."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it wants {module}.{name}, which no scheduler's state needs")


def next_learning_rate(path: Path) -> float:
    """The rate that the scheduler saved at ``path`` gives the next update (of its first parameter group).

    OSError as from ``read_regular``, ValueError where it says none.
    """
    data = read_regular(path, MOST_BYTES)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            (member,) = (each for each in archive.infolist() if each.filename.endswith("/data.pkl"))
            if member.file_size > MOST_BYTES:
                raise ValueError(f"its state has {member.file_size:,} bytes")
            state = _PlainUnpickler(io.BytesIO(archive.read(member))).load()
    except Exception as error:  # a damaged zip or pickle raises whatever its parser raises
        raise ValueError(f"not the state of a scheduler ({error})") from error
    rates = state.get("_last_lr") if isinstance(state, dict) else None
    rate = rates[0] if isinstance(rates, list) and rates else None
    if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 <= rate < math.inf:
        raise ValueError("it holds no learning rate")
    return float(rate)
