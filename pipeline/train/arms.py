"""Arms of the fork experiment: a schedule with its parameters and an optimizer, named so that a file can be.

``parse_arms`` reads the command line's words, :func:`resolve` fills in every parameter that was left open, and
:func:`make_arm_schedule` turns the result into a function of the step. All rates hang on the rate at the fork.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.errors import UsageError, unknown_name
from pipeline.train.schedules import (
    Constant,
    Cosine,
    LockIn,
    Noop,
    Pythia,
    Rewarmed,
    Scaled,
    Schedule,
    WarmRestarts,
    WarmupStableDecay,
    mean_rate,
)

PARAMETERS: dict[str, tuple[str, ...]] = {
    "cosine": ("final", "mean_factor"),
    "pythia": ("final", "mean_factor"),
    "sgdr": ("eta_max", "final", "mean_factor", "period", "t_mult"),
    "oli": (
        "amplitude",
        "bump_fraction",
        "cool_factor",
        "final",
        "mean_factor",
        "period",
        "settled_fraction",
    ),
    "constant": ("mean_factor",),
    "wsd": ("decay_fraction", "mean_factor"),
    "noop": (),
}
"""Schedules of a fork and what each can be told."""

BASELINE = "cosine"
"""Every other arm is compared with this schedule at its defaults."""

OPTIMIZERS = ("adamw", "sam", "muon")

DEFAULTS = {
    "final": 0.1,
    "t_mult": 1.0,
    "amplitude": 0.3,
    "bump_fraction": 0.5,
    "cool_factor": 0.5,
    "settled_fraction": 0.5,
    "decay_fraction": 0.2,
}
"""``final``: last rate of a cosine as a multiple of the rate at the fork. ``period`` is a quarter of the run,
``eta_max`` the peak rate of the suite's own training. ``mean_factor`` is the mean rate of the run as a multiple of the
rate at the fork; it has no default: left out, the schedule is not scaled and its runs' identity does not name it."""

_WORD = re.compile(r"[a-z_]+")


@dataclass(frozen=True)
class ForkRates:
    """What the schedules of one experiment share."""

    base_lr: float
    """Learning rate at the fork."""
    peak_lr: float
    """Highest rate of the suite's training: where warm restarts go back to."""
    steps: int
    """Updates of a run."""
    rewarm_steps: int = 0
    """Length of the ramp for cold moments."""


@dataclass(frozen=True)
class Arm:
    """One treatment; every seed runs it once."""

    schedule: str
    """Key of :data:`PARAMETERS`."""
    parameters: tuple[tuple[str, float], ...] = ()
    """By name, sorted: those given, or after :func:`resolve` also those with a default."""
    optimizer: str = "adamw"
    label: str = ""
    """Unique within an experiment and usable as a file name: the schedule and what was said of it."""

    def __post_init__(self) -> None:
        if self.schedule not in PARAMETERS:
            raise unknown_name("schedule", self.schedule, PARAMETERS)
        if self.optimizer not in OPTIMIZERS:
            raise unknown_name("optimizer", self.optimizer, OPTIMIZERS)
        for name, value in self.parameters:
            if not PARAMETERS[self.schedule]:
                raise UsageError(
                    f"unknown parameter of {self.schedule} {name!r}: it takes none, leave it out"
                )
            if name not in PARAMETERS[self.schedule]:
                raise unknown_name(f"parameter of {self.schedule}", name, PARAMETERS[self.schedule])
            if not math.isfinite(value) or value < 0:
                raise UsageError(f"{self.schedule}: {name} {value}; wanted a number of at least 0")
        if not self.label:
            said = [self.schedule, *(f"{name}{value:g}" for name, value in self.parameters)]
            optimizer = [] if self.optimizer == "adamw" else [self.optimizer]
            object.__setattr__(self, "label", "-".join([*said, *optimizer]))

    def settings(self) -> dict[str, float]:
        return dict(self.parameters)


def parse_arms(schedules: str, *, sweep: str | None = None, optimizers: str = "adamw") -> tuple[Arm, ...]:
    """Arms of ``--schedules cosine,sgdr,oli:period=40``, ``--sweep amplitude=0.1,1`` and ``--optimizers``.

    A sweep replaces every arm whose schedule has the parameter by one arm per value, but a plain baseline stays
    beside its own: every arm is compared with it. Optimizers other than AdamW run under the first schedule.
    ``UsageError`` for unknown names and repeats.

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
        raise UsageError(f"--schedules {schedules}: {', '.join(repeats)} is asked for twice")
    return tuple(arms)


def resolve(arm: Arm, rates: ForkRates) -> Arm:
    """``arm`` with every parameter set that has a default. ``UsageError`` for what does not fit the run."""
    defaults = {**DEFAULTS, "period": float(max(2, rates.steps // 4)), "eta_max": rates.peak_lr}
    given = arm.settings()
    values = {name: defaults[name] for name in PARAMETERS[arm.schedule] if name in defaults} | given
    period, restarts = values.get("period"), values.get("t_mult")
    if period is not None and not (period >= 2 and period == int(period)):
        raise UsageError(f"{arm.label}: period {period:g}; wanted a whole number of at least 2 steps")
    if period is not None and period > rates.steps:
        raise UsageError(
            f"{arm.label}: its period of {period:,.0f} steps is longer than the run of {rates.steps:,}: "
            f"give period={rates.steps // 4 or 2} or more --steps"
        )
    if restarts is not None and not (restarts >= 1 and restarts == int(restarts)):
        raise UsageError(f"{arm.label}: t_mult {restarts:g}; wanted a whole number of at least 1")
    for name in ("bump_fraction", "settled_fraction", "decay_fraction"):
        if name in values and not 0 < values[name] <= 1 - (name == "bump_fraction") * 1e-9:
            raise UsageError(f"{arm.label}: {name} {values[name]:g}; wanted more than 0 and at most 1")
    if values.get("final", 0.0) > 1:
        raise UsageError(
            f"{arm.label}: final {values['final']:g}; wanted at most 1, a multiple of the rate at the fork"
        )
    resolved = replace(arm, parameters=tuple(sorted(values.items())))
    _check_mean(resolved, rates)
    return resolved


def refuse_twins(arms: Sequence[Arm]) -> None:
    """UsageError where two resolved ``arms`` differ by their names alone: every one counts in the correction for many
    comparisons, and one would be compared with itself.
    """
    named: dict[tuple[object, ...], str] = {}
    for arm in arms:
        twin = named.setdefault((arm.schedule, arm.parameters, arm.optimizer), arm.label)
        if twin != arm.label:
            raise UsageError(
                f"{arm.label} and {twin} are the same: {arm.label} says what is the default; leave one out"
            )


def make_arm_schedule(arm: Arm, rates: ForkRates) -> Schedule:
    """The learning rate of a resolved ``arm`` as a function of the updates since the fork.

    ``mean_factor`` sets the mean of the schedule itself, before the ramp for cold moments takes from it.
    """
    inner, factor = _unscaled(arm, rates), arm.settings().get("mean_factor")
    if factor is not None:
        inner = Scaled(inner, factor * rates.base_lr / mean_rate(inner, rates.steps))
    return Rewarmed(inner, rates.rewarm_steps)


def _unscaled(arm: Arm, rates: ForkRates) -> Schedule:
    """The schedule of a resolved ``arm`` at its own level."""
    values, base, steps = arm.settings(), rates.base_lr, rates.steps
    low = base * values.get("final", 0.0)
    inner: Schedule
    match arm.schedule:
        case "cosine":
            inner = Cosine(steps, base, low, 0)
        case "pythia":
            inner = Pythia(steps, base, low, 0)
        case "constant":
            inner = Constant(steps, base, base, 0)
        case "wsd":
            inner = WarmupStableDecay(steps, base, 0.0, 0, values["decay_fraction"])
        case "sgdr":
            inner = WarmRestarts(values["eta_max"], low, int(values["period"]), int(values["t_mult"]))
        case "oli":
            shape = {
                name: values[name]
                for name in ("amplitude", "cool_factor", "bump_fraction", "settled_fraction")
            }
            inner = LockIn(Cosine(steps, base, low, 0), int(values["period"]), **shape)
        case _:
            inner = Noop()
    return inner


def _check_mean(arm: Arm, rates: ForkRates) -> None:
    """UsageError where a resolved ``arm`` asks for a mean rate that no scaling gives."""
    factor = arm.settings().get("mean_factor")
    if factor == 0:
        raise UsageError(f"{arm.label}: mean_factor {factor:g}; wanted more than 0 (noop has rate 0)")
    if factor is not None and mean_rate(_unscaled(arm, rates), rates.steps) == 0:
        raise UsageError(f"{arm.label}: mean_factor {factor:g} of a rate that is 0 throughout; leave it out")


def _parse_arm(word: str) -> Arm:
    name, *settings = word.strip().split(":")
    wanted = "NAME:parameter=number:..., such as oli:period=40:amplitude=1"
    return Arm(name, tuple(sorted(_parse_setting(f"schedule {word!r}", each, wanted) for each in settings)))


def _parse_setting(given: str, text: str, wanted: str) -> tuple[str, float]:
    """``text`` as name and number; ``given`` and ``wanted`` are for the complaint."""
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
    if not any(name in PARAMETERS[arm.schedule] for arm in arms):
        having = [schedule for schedule, names in PARAMETERS.items() if name in names]
        hint = (
            f"add one of {', '.join(having)} to --schedules" if having else "no schedule has such a parameter"
        )
        raise UsageError(f"--sweep {sweep}: none of the schedules takes {name!r}; {hint}")
    swept: list[Arm] = []
    for arm in arms:
        if name not in PARAMETERS[arm.schedule] or arm.label == BASELINE:
            swept.append(arm)
        if name not in PARAMETERS[arm.schedule]:
            continue
        kept = {key: value for key, value in arm.parameters if key != name}
        swept += [Arm(arm.schedule, tuple(sorted({**kept, name: number}.items()))) for number in numbers]
    return swept
