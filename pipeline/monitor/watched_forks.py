"""Verdicts on the runs of a fork experiment, from the losses that their probes measure anyway; no torch.

A run's observations are a function of its rows, so that a run that was killed and resumed, or whose verdicts are asked
for afterwards, has the same verdicts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from pipeline.analysis.trajectory.worsening import MIN_PAST
from pipeline.base.english import counted
from pipeline.monitor.judging import Judge, RateOutlook, WatchSettings
from pipeline.monitor.verdict_record import VerdictRecord
from pipeline.monitor.verdicts import LIVE, Observed, finite_or_nan
from pipeline.spec import ALIASES, Variant
from pipeline.train.arms import Arm, make_arm_schedule
from pipeline.train.schedules import ForkRates


def deciding_variant(variants: Iterable[Variant]) -> Variant:
    """The variant whose loss decides: int4 where it is measured, else the first quantized one."""
    quantized = [each for each in variants if not each.is_fp32]
    return next((each for each in quantized if str(each) == ALIASES["int4"]), quantized[0])


def too_few_probes(probes: int) -> str | None:
    """A note where runs of ``probes`` probes are too short for an alarm; None where they are not."""
    if probes > MIN_PAST:
        return None
    return (
        f"the monitor raises no alarm before its observation {MIN_PAST + 1}, "
        f"and a run has {counted(probes, 'probe')}: a smaller --probe-every gives more"
    )


class RunWatch:
    """The verdicts of one run."""

    def __init__(
        self, arm: Arm, rates: ForkRates, variants: Sequence[Variant], probes: int, *, tokens_sha256: str
    ) -> None:
        """``arm``: resolved. ``variants``: those that are measured. ``probes``: of the whole run. ``tokens_sha256``: of
        the evaluation tokens.
        """
        schedule = make_arm_schedule(arm, rates)
        outlook = RateOutlook(rates.steps, planned_rate=lambda step: schedule(max(step - 1, 0)))
        judge = Judge(
            WatchSettings(rates.steps, observations=probes), outlook, str(deciding_variant(variants))
        )
        self._columns = {str(each): each.column for each in variants}
        self.record = VerdictRecord(judge, tokens_sha256)

    def __call__(self, rows: Iterable[Mapping[str, Any]]) -> bool:
        """Judge the probes in ``rows`` (of a run, in order) after the last judged one; whether there are any."""
        new = [row for row in rows if row["step"] > self.record.last_step]
        for step, of_probe in groupby(new, key=lambda row: row["step"]):
            self.record.add(self._observed(int(step), list(of_probe)))
        return bool(new)

    def _observed(self, step: int, rows: list[Mapping[str, Any]]) -> Observed:
        decides = self.record.judge.variant
        losses: dict[str, float] = {}
        averages: dict[str, float] = {}
        for row in rows:
            column = self._columns.get(row["variant"])
            if row["weights"] == LIVE and column is not None:
                losses[column] = finite_or_nan(row["nll_nats"])
            elif column == decides:
                averages[row["weights"]] = finite_or_nan(row["nll_nats"])
        return Observed(step, losses, rows[0]["learning_rate"], averages)


def experiment_sentence(records: Mapping[str, VerdictRecord]) -> str:
    """The last verdicts of an experiment's runs, by run, in one sentence."""
    verdicts = {key: each.verdict for key, each in records.items() if each.verdict is not None}
    alarms = {key: each.worse_since for key, each in verdicts.items() if each.worse_since is not None}
    ships = {key: each.ship for key, each in verdicts.items() if each.ship is not None}
    first = next(iter(records.values())).judge
    name, of = first.label, f"{len(records)} {'run' if len(records) == 1 else 'runs'}"
    if alarms:
        told = ", ".join(f"{key} since about update {since:,}" for key, since in alarms.items())
        said = f"Monitor: {name} got worse in {len(alarms)} of {of} ({told})"
    else:
        margin = first.settings.margin_nats
        said = (
            f"Monitor: in none of {of} was {name} shown to be more than {margin:g} nats worse than its best"
        )
        if (most := max(len(each.judge.seen) for each in records.values())) <= MIN_PAST:
            said += f", for which {MIN_PAST + 1} probes are needed at least and {most} were made"
    if not ships:
        return f"{said}; no loss of {name} was finite."
    key = min(ships, key=lambda each: ships[each].nll_nats)
    best = ships[key]
    return (
        f"{said}; its lowest loss is {best.nll_nats:.3f} nats, after {best.step:,} updates of {key} "
        f"({best.weights} weights)."
    )
