"""Build a :class:`ForkRequest` from plain options and find every fault in them before any work."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.base.devices import cuda_memory
from pipeline.base.errors import UsageError
from pipeline.runs.audit_request import FindSuite, build_request
from pipeline.runs.calibration_request import OnSample
from pipeline.runs.fork_options import ForkOptions
from pipeline.runs.output import run_folder
from pipeline.runs.requests import AuditRequest, ForkRequest
from pipeline.runs.result_files import REPORT
from pipeline.runs.shard_schema import FORK
from pipeline.runs.training_tokens import read_training
from pipeline.suites import Suite, fetch, weight_files
from pipeline.suites.optimizer_moments import keeps_moments
from pipeline.train.arms import Arm, check_rates, make_arm_schedule, parse_arms, refuse_twins, resolve
from pipeline.train.fork_spec import ForkSpec
from pipeline.train.on_demand import open_or_train
from pipeline.train.schedules import ForkRates
from pipeline.train.settings import OptimizerSettings
from pipeline.train.start import AuditedPhases, Start, automatic_start, named_start

if TYPE_CHECKING:
    from pipeline.driver import Resources

DEFAULT_TOKENS_PER_STEP = 8192
"""Tokens per update of the paper's forks."""
SMALL_WEIGHTS_BYTES = 2**26
"""Weight files below this size, bytes, belong to models that are too small for four runs to fill a GPU."""
COMPILE_FROM_STEPS = 300
"""Updates from which compiling pays off for a run on a GPU."""
STATE_AFTER_S = 60.0
"""Shortest time in seconds between two states of a run without ``--state-every``: losing a minute costs less than
saving ten times the weights (with moments and averages) at every probe."""
RUN_SHARE = 10
"""Default length of a run as a share of the suite's training, and default spacing of probes as a share of the run."""


def build_fork_request(
    options: ForkOptions, find_suite: FindSuite = open_or_train, on_sample: OnSample = lambda *_: None
) -> ForkRequest:
    """Build the request of ``options``; raises UsageError for whatever cannot be carried out.

    ``on_sample``: as in ``build_request``.
    """
    _check_numbers(options)
    arms = parse_arms(options.schedules, sweep=options.sweep, optimizers=options.optimizers)
    audit = build_request(options.audit, find_suite, on_sample)
    if audit.probe.by_layer:
        raise UsageError(
            "--mechanism layers: the layers of a fork's runs are not measured alone; audit their suite"
        )
    if options.monitor and all(each.is_fp32 for each in audit.probe.variants):
        raise UsageError(
            "--monitor: fp32 alone is measured; wanted a quantized variant, such as --variant int4"
        )
    suite = audit.suite
    start = _start(options, suite)
    out = run_folder(options.audit.out, FORK)
    moments = _moments(start, arms)
    rates = _rates(options, suite, start, moments)
    resolved = tuple(resolve(arm, rates) for arm in arms)
    refuse_twins(resolved)
    step_tokens = _step_tokens(options, audit)
    train = read_training(options.train_corpus, options.data, suite, out)
    epochs = _epochs(options, len(train.tokens), rates.steps, step_tokens[0])
    for arm in resolved:  # slow in runs that are longer than the text
        check_rates(arm, rates)
    spec = _spec(
        options, audit, start,
        rates=rates, moments=moments, step_tokens=step_tokens, train_sha256=train.sha256,
    )  # fmt: skip
    _check_compared(resolved, spec)
    return ForkRequest(
        suite=suite.name,
        checkpoint=start.checkpoint,
        start_rule=start.rule,
        spec=spec,
        arms=resolved,
        seeds=options.seeds,
        tokens=audit.tokens,
        train=train,
        calibration=audit.calibration,
        corpus=audit.corpus,
        out=out,
        resources=_resources(options, audit, start),
        state_every=spec.probe_every if options.state_every is None else options.state_every,
        state_after_s=STATE_AFTER_S if options.state_every is None else 0.0,
        notes=(*epochs, *_cold_note(start, spec)),
        warnings=audit.warnings,
        replace_stale=options.audit.replace_stale,
        monitor=options.monitor,
    )


def _spec(
    options: ForkOptions,
    audit: AuditRequest,
    start: Start,
    *,
    rates: ForkRates,
    moments: str,
    step_tokens: tuple[int, int],
    train_sha256: str,
) -> ForkSpec:
    """The settings that the runs share."""
    every, (tokens, seq_len) = _lengths(options, audit.suite)[1], step_tokens
    precision = _precision(options)
    pays_off = precision == "bf16" and rates.steps >= COMPILE_FROM_STEPS
    return ForkSpec(
        content_id=start.checkpoint.content_id,
        rates=rates,
        probe=audit.probe,
        probe_every=every,
        sequences=tokens // seq_len,
        seq_len=seq_len,
        train_sha256=train_sha256,
        optimizer=_optimizer(audit.suite),
        moments=moments,
        precision=precision,
        compiled=pays_off if options.compile is None else options.compile,
        # a memory of two probe intervals
        ema_decay=1 - 1 / (2 * every) if options.ema_decay is None else options.ema_decay,
        lawa_window=options.lawa_window,
    )


def _rates(options: ForkOptions, suite: Suite, start: Start, moments: str) -> ForkRates:
    """Rates and lengths of the runs; where moments are cold, with a ramp as long as the second moment's memory."""
    steps, rewarm = _lengths(options, suite)[0], 0
    if moments == "cold" and options.rewarm_steps is None:
        rewarm = min(round(1 / (1 - _optimizer(suite).beta2)), steps // 10)
    elif moments == "cold":
        rewarm = options.rewarm_steps or 0
    base_lr = _base_rate(options, start)
    known = [each.learning_rate for each in suite.checkpoints if each.learning_rate is not None]
    peak_lr = max([suite.training.peak_lr or 0.0, base_lr, *known])
    return ForkRates(base_lr=base_lr, peak_lr=peak_lr, steps=steps, rewarm_steps=rewarm)


def _step_tokens(options: ForkOptions, audit: AuditRequest) -> tuple[int, int]:
    """Tokens of an update, and of each of its sequences."""
    seq_len = audit.suite.recipe.get("seq_len") or audit.probe.shape.seq_len
    most = audit.suite.training.tokens_per_step or DEFAULT_TOKENS_PER_STEP
    tokens = (
        min(DEFAULT_TOKENS_PER_STEP, most) if options.tokens_per_step is None else options.tokens_per_step
    )
    if tokens % seq_len:
        raise UsageError(
            f"--tokens-per-step {tokens}: wanted a multiple of the {seq_len} tokens of a sequence"
        )
    return tokens, seq_len


def _cold_note(start: Start, spec: ForkSpec) -> tuple[str, ...]:
    if spec.moments != "cold":
        return ()
    why = "muon has no use for the suite's" if _kept(start) else "the suite keeps none"
    ramp = spec.rates.rewarm_steps
    return (f"Adam's moments start cold, after a learning-rate ramp of {ramp} steps: {why}",)


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


def _check_numbers(options: ForkOptions) -> None:
    """Raise UsageError for a number that no suite could be forked with."""
    counts = (
        ("seeds", options.seeds, 1), ("steps", options.n_steps, 2), ("probe-every", options.probe_every, 1),
        ("tokens-per-step", options.tokens_per_step, 1), ("rewarm-steps", options.rewarm_steps, 0),
        ("state-every", options.state_every, 1),
    )  # fmt: skip
    for name, given, least in counts:
        if given is not None and given < least:
            raise UsageError(f"--{name} {given}: wanted at least {least}")
    rate = options.learning_rate
    if rate is not None and not 0 < rate < math.inf:
        raise UsageError(f"--learning-rate {rate:g}: wanted a number above 0")


def _resources(options: ForkOptions, audit: AuditRequest, start: Start) -> Resources:
    """The requested resources; by default several runs share a GPU, because one small model does not fill it."""
    if not options.share_gpu:
        return audit.resources
    folder = fetch(start.checkpoint)
    small = sum(file.stat().st_size for file in weight_files(folder)) < SMALL_WEIGHTS_BYTES
    return replace(audit.resources, workers_per_gpu=4 if small else 2)


def _lengths(options: ForkOptions, suite: Suite) -> tuple[int, int]:
    """Updates of a run and between two probes."""
    whole = suite.training.steps or suite.checkpoints[-1].step
    steps = options.n_steps if options.n_steps is not None else max(40, whole // RUN_SHARE // 10 * 10)
    every = options.probe_every if options.probe_every is not None else max(1, steps // RUN_SHARE)
    return steps, every


def _moments(start: Start, arms: tuple[Arm, ...]) -> str:
    """Whether Adam's moments come from the suite; all arms of an experiment start alike."""
    return "suite" if _kept(start) and all(arm.optimizer != "muon" for arm in arms) else "cold"


def _kept(start: Start) -> bool:
    """Whether the suite has Adam's moments at the checkpoint."""
    return keeps_moments(Path(start.checkpoint.location))


def _optimizer(suite: Suite) -> OptimizerSettings:
    names = [field.name for field in fields(OptimizerSettings)]
    return OptimizerSettings(**{name: suite.recipe[name] for name in names if name in suite.recipe})


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


def _epochs(options: ForkOptions, available: int, steps: int, tokens_per_step: int) -> tuple[str, ...]:
    """A note if the runs see a token more than once; raises UsageError unless that is allowed."""
    epochs = steps * tokens_per_step / max(available, 1)
    if epochs <= 1:
        return ()
    told = f"{steps:,} steps of {tokens_per_step:,} tokens are {epochs:.1f} epochs of the {available:,} training tokens"
    if not options.allow_epochs:
        raise UsageError(
            f"{told}: give a larger --train-corpus or fewer --steps, or allow it with --allow-epochs"
        )
    return (told,)


def _check_compared(arms: tuple[Arm, ...], spec: ForkSpec) -> None:
    """Raise UsageError if no probe of an arm falls into its compared phase."""
    for arm in arms:
        schedule = make_arm_schedule(arm, spec.rates)
        labels = {schedule.phase(step - 1) for step in spec.probe_steps if step}
        compared = schedule.inner.compared
        if compared is not None and compared.phase not in labels:
            settings = ", ".join(f"{name} {value:g}" for name, value in arm.parameters)
            raise UsageError(
                f"{arm.label}: no probe falls into a {compared.adjective} phase, the only one that is compared "
                f"({settings}; a probe every {spec.probe_every} steps): choose --probe-every so that it divides a cycle"
            )


def _precision(options: ForkOptions) -> str:
    if options.precision != "auto":
        return options.precision
    if options.audit.device == "cpu":
        return "fp32"
    return "bf16" if options.audit.device == "cuda" or cuda_memory() else "fp32"
