"""The verdicts of a training run as JSON lines, one per observation, from which a resumed run continues."""

from __future__ import annotations

import json
from collections.abc import Iterable

from pipeline.base.files import parse_json
from pipeline.base.typed_json import from_json, to_json
from pipeline.monitor.judging import Judge
from pipeline.monitor.verdicts import Observed, Verdict

VERDICT_BYTES = 2**30
"""Largest file of verdicts that is read, bytes."""


class VerdictRecord:
    """A run's judge, with a line for every verdict: the losses that were observed, and what was concluded."""

    def __init__(self, judge: Judge, tokens_sha256: str, seen: Iterable[Observed] = ()) -> None:
        """``judge``: one without observations. ``tokens_sha256``: hash of the evaluation text. ``seen``: earlier
        observations, judged again.
        """
        self.judge, self._tokens_sha256 = judge, tokens_sha256
        self._lines: list[str] = []
        for observed in seen:
            self.add(observed)

    @property
    def last_step(self) -> int:
        """Step of the latest observation; -1 before the first."""
        return self.judge.seen[-1].step if self.judge.seen else -1

    @property
    def verdict(self) -> Verdict | None:
        """The latest one."""
        return self.judge.verdict

    def add(self, observed: Observed) -> Verdict:
        """Judge an observation and add its line; raises UsageError for a step that is not after the last."""
        verdict = self.judge.observe(observed)
        plain = {**to_json(observed), **to_json(verdict), "tokens_sha256": self._tokens_sha256}
        self._lines.append(json.dumps(plain, allow_nan=False))
        return verdict

    def to_bytes(self) -> bytes:
        """The file: one JSON object per line."""
        return "".join(f"{line}\n" for line in self._lines).encode()

    @property
    def sentence(self) -> str:
        """The latest verdict in one sentence."""
        name, verdict = self.judge.label, self.judge.verdict
        if verdict is None or verdict.ship is None:
            return f"Monitor: no loss of {name} was finite."
        ship = f"ship step {verdict.ship.step:,} ({verdict.ship.weights}, {verdict.ship.nll_nats:.3f} nats)"
        if not verdict.alarm:
            margin = self.judge.settings.margin_nats
            return (
                f"Monitor: in {len(self.judge.seen):,} observations {name} was not shown to be more than {margin:g} "
                f"nats worse than its best; {ship}."
            )
        since, reason = verdict.worse_since, verdict.stop_advice.reason
        return f"Monitor: alarm, {name} got worse at about step {since:,}: {reason}; {ship}."


def read_observed(data: bytes, columns: Iterable[str], tokens_sha256: str) -> list[Observed]:
    """The observations in the lines of ``data``, up to the first that is damaged, was made on other text or lacks a
    loss of ``columns``.
    """
    found: list[Observed] = []
    for line in data.split(b"\n"):
        try:
            plain = parse_json(line)
            observed = from_json(Observed, plain)
        except (ValueError, KeyError, TypeError, AttributeError):
            break
        if plain.get("tokens_sha256") != tokens_sha256 or not set(columns) <= set(observed.nll_nats):
            break
        found.append(observed)
    return found
