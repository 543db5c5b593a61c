"""Turn the losses of a training run, one observation at a time, into verdicts; no torch.

An alarm is no advice to stop while the learning rate still has to fall, which may lower the loss by more than it rose.
The planned rates decide if given, else the minimum if given; otherwise only a rate of zero is known to be final. A
constant rate may be the plateau before a decay.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pipeline.analysis.trajectory.worsening import Alarm, Rule, Worsening
from pipeline.base.errors import UsageError
from pipeline.monitor.verdicts import LIVE, Choice, Observed, StopAdvice, Verdict
from pipeline.spec import column_of, variant_label

SAME = 1e-3
"""Rates within this share of each other are equal."""
AT_ZERO = 1e-6
"""A rate at most this share of its peak has fallen to zero."""
MOST_LOOKED_AT = 10_000
"""Largest number of planned steps that are checked; of a longer plan, evenly spaced ones and the last."""


@dataclass(frozen=True)
class RateOutlook:
    """Known facts about the rates to come."""

    plan_steps: int
    """Training steps of the whole run."""
    min_learning_rate: float | None = None
    """The lowest rate of the plan; None = not known."""
    planned_rate: Callable[[int], float] | None = None
    """Step -> rate; None = not known."""

    def __post_init__(self) -> None:
        lowest = self.min_learning_rate
        if lowest is not None and not (math.isfinite(lowest) and lowest >= 0):
            raise UsageError(f"min_learning_rate {lowest}: wanted a finite rate of 0 or more")

    def may_fall(self, step: int, rates: Sequence[float | None]) -> str | None:
        """Why the rate may still fall after ``step``, in one sentence; None if it cannot.

        ``rates``: the rate at each observation so far, this one last; None if not given.
        """
        if not rates or rates[-1] is None:
            return "the learning rate was not given, so it may still have to fall: give learning_rate"
        rate, known = rates[-1], [each for each in rates if each is not None]
        if self.planned_rate is not None:
            return self._by_plan(step, rate)
        if self.min_learning_rate is None:
            if max(known) > 0 and rate <= AT_ZERO * max(known):
                return None
            return (
                f"the learning rate is {rate:.3g} and its minimum is not known, so it may still have to fall: give "
                "min_learning_rate or planned_rate"
            )
        if rate > self.min_learning_rate * (1 + SAME):
            return f"the learning rate still has to fall from {rate:.3g} to {self.min_learning_rate:.3g}"
        fell = max(known) > rate * (1 + SAME)
        stands = len(known) > 1 and math.isclose(known[-2], rate, rel_tol=SAME)
        return None if fell or stands else f"the learning rate {rate:.3g} is still warming up"

    def _by_plan(self, step: int, rate: float) -> str | None:
        assert self.planned_rate is not None
        stride = max(1, math.ceil((self.plan_steps - step) / MOST_LOOKED_AT))
        ahead = [*range(step + 1, self.plan_steps, stride), self.plan_steps] if step < self.plan_steps else []
        lowest = min((float(self.planned_rate(each)) for each in ahead), default=rate)
        if lowest < rate * (1 - SAME):
            return f"the learning rate still has to fall from {rate:.3g} to {lowest:.3g}"
        return None


SPACING = 5
"""Number of latest intervals between observations whose median predicts how many are still to come."""


@dataclass(frozen=True)
class WatchSettings:
    """Settings of the verdicts; all are in a monitor's state."""

    plan_steps: int
    """Training steps of the whole run. The rate of false alarms holds for all observations of the run, whose number
    follows from this and from their spacing."""
    observations: int | None = None
    """Observations of the whole run, if known."""
    margin_nats: float = 0.01
    """A worsening by less than this does not count (0.01 = one per cent of perplexity)."""
    alpha: float = 0.05
    """Approximate probability of a false alarm in the whole run."""
    rule: Rule = "e-detector"
    """``e-detector`` or ``cusum`` (quicker, with more false alarms): ``analysis.worsening``."""

    def __post_init__(self) -> None:
        for name in ("plan_steps", "observations"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise UsageError(f"{name} {value!r}: wanted a whole number, 1 at least")
        if self.rule not in ("e-detector", "cusum"):
            raise UsageError(f"rule {self.rule!r}: wanted e-detector or cusum")
        self.fresh_rule()

    def fresh_rule(self) -> Worsening:
        """The rule before the first observation; raises UsageError for an impossible margin or alpha."""
        planned = self.observations or self.plan_steps
        return Worsening(planned, margin_nats=self.margin_nats, alpha=self.alpha, rule=self.rule)


class Judge:
    """The state of a run's verdicts. Equal observations give equal verdicts, however often the state is restored."""

    def __init__(
        self, settings: WatchSettings, outlook: RateOutlook, variant: str, seen: Iterable[Observed] = ()
    ) -> None:
        """``variant``: the variant that decides, by name or column prefix. ``seen``: earlier observations."""
        self.settings, self.outlook, self._name = settings, outlook, variant
        self.variant, self.label = column_of(variant), variant_label(variant)
        """Its column prefix, and its label for readers."""
        self.seen: list[Observed] = []
        self._rule = settings.fresh_rule()
        self._best: Choice | None = None
        self._ship: Choice | None = None
        self.verdict: Verdict | None = None
        """The latest one."""
        for observed in seen:
            self.observe(observed)

    def observe(self, observed: Observed) -> Verdict:
        """Add an observation and return the verdict; raises UsageError for a step that is not after the last."""
        self.require_later(observed.step)
        rate = observed.learning_rate
        if rate is not None and not (math.isfinite(rate) and rate >= 0):
            raise UsageError(
                f"learning rate {rate} at step {observed.step}: wanted a finite one of 0 or more"
            )
        self.seen.append(observed)
        loss = observed.nll_nats[self.variant]
        self._best = _lower(self._best, Choice(observed.step, LIVE, loss))
        for name, value in {LIVE: loss, **observed.averages}.items():
            self._ship = _lower(self._ship, Choice(observed.step, name, value))
        alarm = self._rule.observe(observed.step, loss, planned=self._planned())
        self.verdict = Verdict(
            best_step=None if self._best is None else self._best.step,
            worse_since=None if alarm is None else alarm.worse_since,
            alarm=alarm is not None,
            ship=self._ship,
            stop_advice=self._advice(alarm),
            numbers=self._numbers(observed),
            notes=_notes(observed),
        )
        return self.verdict

    @property
    def has_new_alarm(self) -> bool:
        """Whether the latest observation raised the alarm."""
        return self._rule.alarm is not None and self._rule.alarm.step == self.seen[-1].step

    def require_later(self, step: int) -> None:
        """Raise UsageError unless ``step`` is whole and comes after the last observation."""
        if step < 0 or not float(step).is_integer():
            raise UsageError(f"step {step}: wanted a whole number, 0 or more")
        if self.seen and step <= self.seen[-1].step:
            raise UsageError(
                f"step {step} after step {self.seen[-1].step}: steps have to increase; after going back to an earlier "
                f"checkpoint, call rewind({step}) first"
            )

    def before(self, step: int) -> Judge:
        """A judge with the observations before ``step``."""
        earlier = [each for each in self.seen if each.step < step]
        return Judge(self.settings, self.outlook, self._name, earlier)

    def _planned(self) -> int:
        """Observations of the whole run: given, or predicted from the spacing of the latest ones."""
        steps = [each.step for each in self.seen]
        if self.settings.observations is not None:
            return max(self.settings.observations, len(steps))
        if len(steps) < 2:
            return self.settings.plan_steps
        latest = steps[-SPACING - 1 :]
        spacing = statistics.median(b - a for a, b in itertools.pairwise(latest))
        left = max(0, self.settings.plan_steps - steps[-1])
        return len(steps) + math.ceil(left / spacing)

    def _advice(self, alarm: Alarm | None) -> StopAdvice:
        if alarm is None:
            return StopAdvice(False, f"{self.label} has not been shown to be worse than its best")
        assert self._best is not None
        if self._best.step >= alarm.worse_since:
            return StopAdvice(
                False, f"{self.label} was worse from step {alarm.worse_since} on, but has a new best since"
            )
        reason = self.outlook.may_fall(self.seen[-1].step, [each.learning_rate for each in self.seen])
        if reason is not None:
            return StopAdvice(False, reason)
        return StopAdvice(
            True,
            f"{self.label} has been worse than at step {self._best.step} since about step {alarm.worse_since}, and "
            "the learning rate will not fall any more",
        )

    def _numbers(self, observed: Observed) -> dict[str, float]:
        numbers = {f"{name}_nll_nats": loss for name, loss in observed.nll_nats.items()}
        numbers |= {f"{name}_gap": gap for name, gap in observed.gaps().items()}
        numbers |= {f"{name}_{self.variant}_nll_nats": loss for name, loss in observed.averages.items()}
        best = math.nan if self._best is None else self._best.nll_nats
        numbers["above_best_nats"] = observed.nll_nats[self.variant] - best
        numbers["evidence"], numbers["evidence_limit"] = self._rule.evidence, self._rule.limit
        return numbers


def _lower(best: Choice | None, candidate: Choice) -> Choice | None:
    """The choice with the lower loss, the earlier of equals; one that is not finite never wins."""
    if not math.isfinite(candidate.nll_nats) or (best is not None and best.nll_nats <= candidate.nll_nats):
        return best
    return candidate


def _notes(observed: Observed) -> tuple[str, ...]:
    losses = (*observed.nll_nats.items(), *observed.averages.items())
    wild = ", ".join(name for name, loss in losses if not math.isfinite(loss))
    said = f"step {observed.step}: the loss of {wild} is not finite; it raises no alarm by itself"
    return (said,) if wild else ()
