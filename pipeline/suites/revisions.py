"""Names of checkpoint folders and branches, and their order: by number, never by text.

Sources: the naming of Pythia, PolyPythias, OLMo, OLMo-2, Apertus, SmolLM3, Amber and open-sci on the hub, of
the Hugging Face Trainer, and of DeepSpeed and Megatron.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.errors import UsageError

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


def parse_revision(name: str, pattern: re.Pattern[str] | None = None) -> Revision | None:
    """The step, stage and tokens that ``name`` states, or None if it is no checkpoint's name.

    ``pattern`` replaces :data:`PATTERNS`; it has the group ``step`` and may have ``stage``, ``tokens`` and ``unit``.

    >>> parse_revision("stage1-step1000-tokens3B")
    Revision(name='stage1-step1000-tokens3B', step=1000, stage='stage1', tokens=3000000000)
    >>> parse_revision("main") is None
    True
    """
    for known in (pattern,) if pattern else _COMPILED:
        match = known.fullmatch(name)
        if match is not None:
            found = match.groupdict()
            unit = _UNIT.get(found.get("unit") or "", 1)
            tokens = round(float(found["tokens"]) * unit) if found.get("tokens") else None
            return Revision(name, int(found["step"]), found.get("stage") or "", tokens)
    return None


def sort_revisions(
    names: Iterable[str], pattern: re.Pattern[str] | None = None
) -> tuple[list[Revision], list[str]]:
    """The checkpoints among ``names`` in order, and the names that match no pattern (sorted).

    ``pattern`` as in :func:`parse_revision`.
    """
    parsed = {name: parse_revision(name, pattern) for name in names}
    revisions = sorted(
        (found for found in parsed.values() if found is not None), key=lambda found: found.order
    )
    return revisions, sorted(name for name, found in parsed.items() if found is None)


@dataclass(frozen=True)
class RevisionChoice:
    """Which revisions are wanted, as ``--revisions REGEX`` gives it; None = all of them."""

    regex: str | None = None
    """Matched against the whole name. With a group ``step`` it also says how to read names that no known pattern
    matches, such as ``run-b-(?P<step>\\d+)``."""

    def __post_init__(self) -> None:
        try:
            self.compiled()
        except re.error as error:
            raise UsageError(f"--revisions {self.regex}: not a regular expression ({error})") from None

    def compiled(self) -> re.Pattern[str] | None:
        """The regular expression, ready to match."""
        return None if self.regex is None else re.compile(self.regex)

    def pattern(self) -> re.Pattern[str] | None:
        """The regular expression if it also reads the step."""
        compiled = self.compiled()
        return compiled if compiled is not None and "step" in compiled.groupindex else None

    def wants(self, name: str) -> bool:
        """Whether the revision called ``name`` is wanted."""
        compiled = self.compiled()
        return compiled is None or compiled.fullmatch(name) is not None

    def nothing(self, suite: str, names: Iterable[str]) -> UsageError:
        """The error for a choice that none of ``names`` matches."""
        shown = list(names)
        return UsageError(
            f"--revisions {self.regex} matches none of the {len(shown)} checkpoints of {suite} in full; "
            f"they are named like {', '.join([*shown[:2], *shown[2:][-1:]])}"
        )


ALL = RevisionChoice()
