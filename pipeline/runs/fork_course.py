"""The course of a fork's runs, as far as options and suite alone tell: judged before any text is read."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from pipeline.base.errors import UsageError
from pipeline.runs.audit_request import token_shape
from pipeline.runs.fork_options import ForkOptions
from pipeline.runs.output import run_folder
from pipeline.runs.result_files import REPORT
from pipeline.runs.training_tokens import training_corpus
from pipeline.suites import Suite
from pipeline.suites.optimizer_moments import keeps_moments
from pipeline.train.arms import Arm, ArmSchedule, faults_of, refuse_twins, resolve
from pipeline.train.fork_spec import probe_steps
from pipeline.train.schedules import ForkRates, schedules
from pipeline.train.settings import OptimizerSettings
from pipeline.train.start import AuditedPhases, Start, automatic_start, named_start

DEFAULT_TOKENS_PER_STEP = 8192
"""Tokens per update of the paper's forks."""
RUN_SHARE = 10
"""Default length of a run as a share of the suite's training, and default spacing of probes as a share of the run."""


@dataclass(frozen=True)
class ForkCourse:
    """The runs of an experiment, as far as options and suite alone tell."""

    start: Start
    moments: str
    rates: ForkRates
    probe_every: int
    arms: tuple[Arm, ...]
    """Resolved."""
    step_tokens: tuple[int, int]
    """Tokens of an update, and of each of its sequences."""


def settle_course(options: ForkOptions, suite: Suite, arms: tuple[Arm, ...]) -> ForkCourse:
    """Settle the course of the runs; raises UsageError for what does not fit ``suite``. Reads no text."""
    start = _start(options, suite)
    moments = _moments(start, arms)
    steps, every = _lengths(options, suite)
    rates = _rates(options, suite, start, moments)
    if every > steps:
        raise UsageError(f"a probe every {every} steps in a run of {steps}: wanted at most the run")
    resolved = tuple(resolve(arm, rates) for arm in arms)
    refuse_twins(resolved)
    _check_compared(resolved, rates, every)
    training_corpus(options.train_corpus, options.data, suite)
    return ForkCourse(start, moments, rates, every, resolved, _step_tokens(options, suite))


def _start(options: ForkOptions, suite: Suite) -> Start:
    if options.start != "auto":
        if not options.start.isdecimal():
            raise UsageError(f"--from {options.start}: wanted a step number, or auto")
        return named_start(suite, int(options.start))
    folder = run_folder(options.audit_dir or options.audit.out)
    audit = folder.results.read_as(AuditedPhases, REPORT)
    if audit is None:
        typed = options.audit.suite if isinstance(options.audit.suite, str) else suite.location
        raise UsageError(
            f"--from auto needs an audit of {suite.name}, and {folder} holds none: run `int4-collapse run "
            f"{typed} --out {folder}` first, name one with --audit DIR, or a step with --from STEP"
        )
    return automatic_start(suite, audit)


def _lengths(options: ForkOptions, suite: Suite) -> tuple[int, int]:
    """Updates of a run and between two probes."""
    whole = suite.training.steps or suite.checkpoints[-1].step
    steps = options.n_steps if options.n_steps is not None else max(40, whole // RUN_SHARE // 10 * 10)
    every = options.probe_every if options.probe_every is not None else max(1, steps // RUN_SHARE)
    return steps, every


def _rates(options: ForkOptions, suite: Suite, start: Start, moments: str) -> ForkRates:
    """Rates and lengths of the runs; where moments are cold, with a ramp as long as the second moment's memory."""
    steps, rewarm = _lengths(options, suite)[0], 0
    if moments == "cold" and options.rewarm_steps is None:
        rewarm = min(round(1 / (1 - optimizer_of(suite).beta2)), steps // 10)
    elif moments == "cold":
        rewarm = options.rewarm_steps or 0
    base_lr = _base_rate(options, start)
    known = [each.learning_rate for each in suite.checkpoints if each.learning_rate is not None]
    peak_lr = max([suite.training.peak_lr or 0.0, base_lr, *known])
    return ForkRates(base_lr=base_lr, peak_lr=peak_lr, steps=steps, rewarm_steps=rewarm)


def _base_rate(options: ForkOptions, start: Start) -> float:
    rate = options.learning_rate if options.learning_rate is not None else start.checkpoint.learning_rate
    if rate is None:
        raise UsageError(
            f"the suite does not state the learning rate at {start.checkpoint.revision}: give --learning-rate"
        )
    if rate <= 0:
        raise UsageError(
            f"the learning rate at {start.checkpoint.revision} is {rate:g}: fork later, or give --learning-rate"
        )
    return rate


def _moments(start: Start, arms: tuple[Arm, ...]) -> str:
    """Whether Adam's moments come from the suite; all arms of an experiment start alike."""
    return "suite" if keeps_start(start) and all(arm.optimizer != "muon" for arm in arms) else "cold"


def keeps_start(start: Start) -> bool:
    """Whether the suite has Adam's moments at the checkpoint."""
    return keeps_moments(Path(start.checkpoint.location))


def _step_tokens(options: ForkOptions, suite: Suite) -> tuple[int, int]:
    """Tokens of an update, and of each of its sequences."""
    seq_len = suite.recipe.get("seq_len") or token_shape(options.audit, suite).seq_len
    most = suite.training.tokens_per_step or DEFAULT_TOKENS_PER_STEP
    tokens = (
        min(DEFAULT_TOKENS_PER_STEP, most) if options.tokens_per_step is None else options.tokens_per_step
    )
    if tokens % seq_len:
        raise UsageError(
            f"--tokens-per-step {tokens}: wanted a multiple of the {seq_len} tokens of a sequence"
        )
    return tokens, seq_len


def _check_compared(arms: tuple[Arm, ...], rates: ForkRates, every: int) -> None:
    """Raise UsageError if no probe of an arm falls into its compared phase."""
    for arm in arms:
        kind = schedules.find(arm.schedule)
        if kind.compared is None:
            continue
        with faults_of(arm):
            # phases do not depend on the mean rate, which takes long to find
            schedule = ArmSchedule(kind.from_fork(rates, arm.settings()), ramp_steps=rates.rewarm_steps)
            labels = {schedule.phase(step - 1) for step in probe_steps(rates.steps, every) if step}
        if kind.compared.phase not in labels:
            settings = ", ".join(f"{name} {value:g}" for name, value in arm.parameters)
            raise UsageError(
                f"{arm.label}: no probe falls into a {kind.compared.adjective} phase, the only one that is compared "
                f"({settings}; a probe every {every} steps): choose --probe-every so that it divides a cycle"
            )


def optimizer_of(suite: Suite) -> OptimizerSettings:
    """The settings of the suite's own optimizer, as far as its recipe states them."""
    names = [field.name for field in fields(OptimizerSettings)]
    return OptimizerSettings(**{name: suite.recipe[name] for name in names if name in suite.recipe})
