"""Arms of the fork experiment: a schedule with parameters and an optimizer, with a label that can be a file name.

``parse_arms`` parses the command line, :func:`resolve` fills in default parameters, and :func:`make_arm_schedule`
makes a function of the step. All rates are relative to the rate at the fork.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from pipeline.base.errors import CollapseError, UsageError, unknown_name
from pipeline.train.schedules import ForkRates, Schedule, mean_rate, schedules

BASELINE = "cosine"
"""Every other arm is compared with this schedule at its defaults."""

PAPER_SCHEDULES = ("cosine", "sgdr", "oli")
"""The schedules of the paper's nine runs, the default of ``fork``."""

REWARM = "rewarm"
"""Phase of the ramp for cold moments."""

OPTIMIZERS = ("adamw", "sam", "muon")

_WORD = re.compile(r"[a-z_]+")


@dataclass(frozen=True)
class Arm:
    """One treatment; every seed runs it once."""

    schedule: str
    """Name of a registered schedule."""
    parameters: tuple[tuple[str, float], ...] = ()
    """Given parameters, sorted by name; after :func:`resolve` also those with a default."""
    optimizer: str = "adamw"
    label: str = ""
    """Label that is unique in an experiment and can be a file name: the schedule and its given parameters."""

    def __post_init__(self) -> None:
        accepted = schedules.find(self.schedule).accepted()
        if self.optimizer not in OPTIMIZERS:
            raise unknown_name("optimizer", self.optimizer, OPTIMIZERS)
        for name, value in self.parameters:
            if not accepted:
                raise UsageError(
                    f"unknown parameter of {self.schedule} {name!r}: it takes none, leave it out"
                )
            if name not in accepted:
                raise unknown_name(f"parameter of {self.schedule}", name, sorted(accepted))
            if not math.isfinite(value) or value < 0:
                raise UsageError(f"{self.schedule}: {name} {value}; wanted a number of at least 0")
        names = [name for name, _ in self.parameters]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UsageError(f"{self.schedule}: {twice[0]} is given more than once; wanted one value")
        if not self.label:
            said = [self.schedule, *(f"{name}{value:g}" for name, value in self.parameters)]
            optimizer = [] if self.optimizer == "adamw" else [self.optimizer]
            object.__setattr__(self, "label", "-".join([*said, *optimizer]))

    def settings(self) -> dict[str, float]:
        return dict(self.parameters)


def parse_arms(schedules: str, *, sweep: str | None = None, optimizers: str = "adamw") -> tuple[Arm, ...]:
    """Arms of ``--schedules cosine,sgdr,oli:period=40``, ``--sweep amplitude=0.1,1`` and ``--optimizers``.

    A sweep replaces every arm whose schedule has the parameter by one arm per value; a plain baseline is also kept,
    because every arm is compared with it. Optimizers other than AdamW run under the first schedule. Raises
    UsageError for unknown names and repeats.

    >>> [arm.label for arm in parse_arms("cosine,oli", sweep="amplitude=0.1,1", optimizers="adamw,sam")]
    ['cosine', 'oli-amplitude0.1', 'oli-amplitude1', 'cosine-sam']
    >>> [arm.label for arm in parse_arms("cosine,constant", sweep="mean_factor=0.5")]
    ['cosine', 'cosine-mean_factor0.5', 'constant-mean_factor0.5']
    """
    plain = [_parse_arm(word) for word in schedules.split(",")]
    arms = _swept(plain, sweep) if sweep else plain
    names = optimizers.split(",")
    if "adamw" not in names:
        raise UsageError(
            f"--optimizers {optimizers}: wanted adamw among them, every other is compared with it"
        )
    arms += [replace(plain[0], optimizer=name, label="") for name in names if name != "adamw"]
    labels = [arm.label for arm in arms]
    repeats = sorted({label for label in labels if labels.count(label) > 1})
    if repeats:
        raise UsageError(f"--schedules {schedules}: {', '.join(repeats)} is given twice")
    return tuple(arms)


def resolve(arm: Arm, rates: ForkRates) -> Arm:
    """``arm`` with every parameter set that has a default. Raises UsageError for those that do not fit the run."""
    accepted = schedules.find(arm.schedule).accepted()
    defaults = {name: each.default_for(rates) for name, each in accepted.items()}
    values = {name: value for name, value in defaults.items() if value is not None} | arm.settings()
    for name, value in values.items():
        problem = accepted[name].problem(value, rates)
        if problem is not None:
            raise UsageError(f"{arm.label}: {problem}")
    if values.get("mean_factor") == 0:
        raise UsageError(f"{arm.label}: mean_factor 0; wanted more than 0 (noop has rate 0)")
    return replace(arm, parameters=tuple(sorted(values.items())))


@contextmanager
def faults_of(arm: Arm) -> Iterator[None]:
    """Context manager: an exception of the schedule of ``arm`` becomes a UsageError that names its file."""
    try:
        yield
    except CollapseError:
        raise
    except Exception as error:
        raise UsageError(
            f"{arm.label}: its schedule fails with {type(error).__name__}: {error}; mend "
            f"{schedules.place(arm.schedule)}"
        ) from error


def check_rates(arm: Arm, rates: ForkRates) -> None:
    """Raise UsageError if a resolved ``arm`` has no valid rate at some step, or cannot be scaled to its mean rate.

    Takes about a microsecond a step.
    """
    highest = 0.0
    wrong: tuple[int, float] | None = None
    with faults_of(arm):
        inner = schedules.find(arm.schedule).from_fork(rates, arm.settings())
        for step in range(rates.steps):
            rate, _ = inner(step), inner.phase(step)
            if wrong is None and not (math.isfinite(rate) and rate >= 0):
                wrong = step, rate
            highest = max(highest, rate)
    if wrong is not None:
        raise UsageError(
            f"{arm.label}: its learning rate after {wrong[0]} updates is {wrong[1]}: wanted a number of at least 0; "
            f"mend {schedules.place(arm.schedule)}"
        )
    factor = arm.settings().get("mean_factor")
    if factor is not None and highest == 0:
        raise UsageError(f"{arm.label}: mean_factor {factor:g} of a rate that is 0 throughout; leave it out")


def refuse_twins(arms: Sequence[Arm]) -> None:
    """Raise UsageError if two resolved ``arms`` differ in their names only: each counts in the correction for
    multiple comparisons, and one would be compared with itself.
    """
    named: dict[tuple[object, ...], str] = {}
    for arm in arms:
        twin = named.setdefault((arm.schedule, arm.parameters, arm.optimizer), arm.label)
        if twin != arm.label:
            raise UsageError(
                f"{arm.label} and {twin} are the same: {arm.label} only states the default; leave one out"
            )


@dataclass(frozen=True)
class ArmSchedule:
    """An arm's schedule: scaled to its mean rate, after a linear ramp while cold Adam moments fill.

    Without the ramp the first updates, whose second moments come from few gradients, are larger than the schedule
    intends.
    """

    inner: Schedule
    factor: float = 1.0
    """Factor on the rate of ``inner``."""
    ramp_steps: int = 0

    def __call__(self, step: int) -> float:
        rate = self.inner(step) * self.factor
        return rate * min(1.0, (step + 1) / self.ramp_steps) if self.ramp_steps else rate

    def phase(self, step: int) -> str:
        return REWARM if step < self.ramp_steps else self.inner.phase(step)

    @property
    def shaded(self) -> frozenset[str]:
        """Phases that charts shade: raised rates and the ramp."""
        return self.inner.shaded | {REWARM}


def make_arm_schedule(arm: Arm, rates: ForkRates) -> ArmSchedule:
    """The learning rate of a resolved ``arm`` as a function of the updates since the fork.

    ``mean_factor`` sets the mean of the schedule itself, before the ramp for cold moments lowers it.

    >>> rates = ForkRates(base_lr=1.0, peak_lr=1.0, steps=8, rewarm_steps=4)
    >>> half = make_arm_schedule(Arm("constant", (("mean_factor", 0.5),)), rates)
    >>> [half(step) for step in (0, 1, 3, 4)], half.phase(3), half.phase(4)
    ([0.125, 0.25, 0.5, 0.5], 'rewarm', 'stable')
    """
    values = arm.settings()
    inner, factor = schedules.find(arm.schedule).from_fork(rates, values), values.get("mean_factor")
    level = 1.0 if factor is None else factor * rates.base_lr / mean_rate(inner, rates.steps)
    return ArmSchedule(inner, level, rates.rewarm_steps)


def arm_word(schedule: str, settings: dict[str, float]) -> str:
    """An arm in the form of ``--schedules``.

    >>> arm_word("oli", {"period": 40.0})
    'oli:period=40'
    """
    return ":".join([schedule, *(f"{name}={value:g}" for name, value in settings.items())])


def _parse_arm(word: str) -> Arm:
    name, *settings = word.strip().split(":")
    wanted = "NAME:parameter=number:..., such as oli:period=40:amplitude=1"
    return Arm(name, tuple(sorted(_parse_setting(f"schedule {word!r}", each, wanted) for each in settings)))


def _parse_setting(given: str, text: str, wanted: str) -> tuple[str, float]:
    """Parse ``text`` as name and number; ``given`` and ``wanted`` are for the error."""
    name, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not _WORD.fullmatch(name) or math.isnan(number):
        raise UsageError(f"{given}: wanted {wanted}")
    return name, number


def _swept(arms: Sequence[Arm], sweep: str) -> list[Arm]:
    name, _, values = sweep.partition("=")
    wanted = "parameter=number,number,..., such as amplitude=0.1,1"
    numbers = [
        _parse_setting(f"--sweep {sweep}", f"{name}={value}", wanted)[1] for value in values.split(",")
    ]
    takers = {each.name for each in schedules if name in each.accepted()}
    if not any(arm.schedule in takers for arm in arms):
        hint = (
            f"add one of {', '.join(sorted(takers))} to --schedules"
            if takers
            else "no schedule has such a parameter"
        )
        raise UsageError(f"--sweep {sweep}: none of the schedules takes {name!r}; {hint}")
    swept: list[Arm] = []
    for arm in arms:
        if arm.schedule not in takers or arm.label == BASELINE:
            swept.append(arm)
        if arm.schedule not in takers:
            continue
        kept = {key: value for key, value in arm.parameters if key != name}
        swept += [Arm(arm.schedule, tuple(sorted({**kept, name: number}.items()))) for number in numbers]
    return swept
