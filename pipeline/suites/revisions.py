"""Parse and order names of checkpoint folders and branches: by number, never by text.

Sources: the naming of Pythia, PolyPythias, OLMo, OLMo-2, Apertus, SmolLM3, Amber and open-sci on the hub, of
the Hugging Face Trainer, and of DeepSpeed and Megatron.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from pipeline.base.errors import UsageError

PATTERNS = (
    r"step(?P<step>\d+)",
    r"step(?P<step>\d+)-tokens(?P<tokens>\d+(?:\.\d+)?)(?P<unit>[KMBT])",
    r"(?P<stage>stage\d+(?:-ingredient\d+)?)-step(?P<step>\d+)-tokens(?P<tokens>\d+(?:\.\d+)?)(?P<unit>[KMBT])",
    r"(?P<stage>stage\d+)-step-(?P<step>\d+)",
    r"ckpt_(?P<step>\d+)",
    r"checkpoint-(?P<step>\d+)",
    r"global_step(?P<step>\d+)",
    r"iter_(?P<step>\d+)",
)

FORMS = "step*, checkpoint-*, iter_*, global_step*, ckpt_*, step*-tokens*B, stage*-step*"
"""The patterns, for messages."""

_COMPILED = tuple(re.compile(pattern, re.ASCII) for pattern in PATTERNS)
_UNIT = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_MOST = 2**63
"""Numbers from here on exceed the tables' integers."""


@dataclass(frozen=True)
class Revision:
    """The parts of a checkpoint's name."""

    name: str
    step: int
    stage: str = ""
    """Stage, such as ``stage2-ingredient1``; empty if the name has none."""
    tokens: int | None = None
    """Training tokens, as rounded in the name."""

    @property
    def order(self) -> tuple[tuple[int, ...], int, str]:
        """Sorts by the numbers in the stage, then by step, then (equal steps) by name."""
        return tuple(map(int, re.findall(r"\d+", self.stage))), self.step, self.name


def parse_revision(name: str, pattern: re.Pattern[str] | None = None) -> Revision | None:
    """The step, stage and tokens in ``name``; None if it is no checkpoint's name.

    ``pattern`` replaces :data:`PATTERNS`; it has the group ``step`` and may have ``stage``, ``tokens`` and ``unit``
    (K, M, B or T). Raises UsageError if a group holds something else.

    >>> parse_revision("stage1-step1000-tokens3B")
    Revision(name='stage1-step1000-tokens3B', step=1000, stage='stage1', tokens=3000000000)
    >>> parse_revision("main") is None
    True
    """
    for known in (pattern,) if pattern else _COMPILED:
        match = known.fullmatch(name)
        if match is not None:
            try:
                return _read(name, match)
            except _MisreadError as error:
                if pattern is None:  # larger than any number
                    return None
                raise UsageError(f"the pattern {pattern.pattern!r} reads in {name[:120]!r} {error}") from None
    return None


class _MisreadError(Exception):
    """A group of a pattern does not hold what its name states."""


def _read(name: str, match: re.Match[str]) -> Revision:
    found = {group: text for group, text in match.groupdict().items() if text}
    step, tokens, unit = found.get("step", ""), found.get("tokens"), found.get("unit", "")
    if not re.fullmatch(r"[0-9]+", step) or int(step) >= _MOST:
        raise _MisreadError(f"{step!r} as the step: wanted its digits, such as (?P<step>\\d+)")
    if tokens is None:
        return Revision(name, int(step), found.get("stage", ""))
    if not re.fullmatch(r"[0-9]+\.?[0-9]*", tokens):
        raise _MisreadError(f"{tokens!r} as the tokens: wanted a number such as 500 or 1.5")
    if unit.upper() not in _UNIT:
        raise _MisreadError(f"{unit!r} as the unit of its tokens: wanted K, M, B or T")
    count = round(Decimal(tokens) * _UNIT[unit.upper()])
    if count >= _MOST:
        raise _MisreadError(f"{tokens + unit!r} as the tokens: wanted a number below 2**63")
    return Revision(name, int(step), found.get("stage", ""), count)


def sort_revisions(
    names: Iterable[str], pattern: re.Pattern[str] | None = None
) -> tuple[list[Revision], list[str]]:
    """The checkpoints among ``names`` in order, and the sorted names that match no pattern.

    ``pattern``: see :func:`parse_revision`.
    """
    parsed = {name: parse_revision(name, pattern) for name in names}
    revisions = sorted(
        (found for found in parsed.values() if found is not None), key=lambda found: found.order
    )
    return revisions, sorted(name for name, found in parsed.items() if found is None)


@dataclass(frozen=True)
class RevisionChoice:
    """The choice of revisions by ``--revisions REGEX``; None = all."""

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
        compiled = self.compiled()
        return compiled is None or compiled.fullmatch(name) is not None

    def nothing(self, suite: str, names: Iterable[str]) -> UsageError:
        """Make the error for a choice that matches none of ``names``."""
        shown = list(names)
        return UsageError(
            f"--revisions {self.regex} matches none of the {len(shown)} checkpoints of {suite} in full; "
            f"they are named like {', '.join([*shown[:2], *shown[2:][-1:]])}"
        )


ALL = RevisionChoice()
