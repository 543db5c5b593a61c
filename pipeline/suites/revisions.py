"""Names of checkpoint folders and branches, and their order: by number, never by text.

Sources: the naming of Pythia, PolyPythias, OLMo, OLMo-2, Apertus, SmolLM3, Amber and open-sci on the hub, of
the Hugging Face Trainer, and of DeepSpeed and Megatron.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

PATTERNS = (
    r"step(?P<step>\d+)",
    r"step(?P<step>\d+)-tokens(?P<tokens>\d+(?:\.\d+)?)(?P<unit>[BT])",
    r"(?P<stage>stage\d+(?:-ingredient\d+)?)-step(?P<step>\d+)-tokens(?P<tokens>\d+(?:\.\d+)?)(?P<unit>[BT])",
    r"(?P<stage>stage\d+)-step-(?P<step>\d+)",
    r"ckpt_(?P<step>\d+)",
    r"checkpoint-(?P<step>\d+)",
    r"global_step(?P<step>\d+)",
    r"iter_(?P<step>\d+)",
)

FORMS = "step*, checkpoint-*, iter_*, global_step*, ckpt_*, step*-tokens*B, stage*-step*"
"""The patterns as people write them."""

_COMPILED = tuple(re.compile(pattern, re.ASCII) for pattern in PATTERNS)
_UNIT = {"B": 10**9, "T": 10**12}


@dataclass(frozen=True)
class Revision:
    """What a checkpoint's name says."""

    name: str
    step: int
    stage: str = ""
    """Such as ``stage2-ingredient1``; empty where the name has none."""
    tokens: int | None = None
    """Training tokens; rounded by those who named it."""

    @property
    def order(self) -> tuple[tuple[int, ...], int, str]:
        """Sorts by the numbers in the stage, then by step, then (equal steps) by name."""
        return tuple(map(int, re.findall(r"\d+", self.stage))), self.step, self.name


def parse_revision(name: str) -> Revision | None:
    """The step, stage and tokens that ``name`` states, or None if it is no checkpoint's name.

    >>> parse_revision("stage1-step1000-tokens3B")
    Revision(name='stage1-step1000-tokens3B', step=1000, stage='stage1', tokens=3000000000)
    >>> parse_revision("main") is None
    True
    """
    for pattern in _COMPILED:
        match = pattern.fullmatch(name)
        if match is not None:
            found = match.groupdict()
            tokens = round(float(found["tokens"]) * _UNIT[found["unit"]]) if found.get("tokens") else None
            return Revision(name, int(found["step"]), found.get("stage") or "", tokens)
    return None


def sort_revisions(names: Iterable[str]) -> tuple[list[Revision], list[str]]:
    """The checkpoints among ``names`` in order, and the names that match no pattern (sorted)."""
    parsed = {name: parse_revision(name) for name in names}
    revisions = sorted(
        (found for found in parsed.values() if found is not None), key=lambda found: found.order
    )
    return revisions, sorted(name for name, found in parsed.items() if found is None)
